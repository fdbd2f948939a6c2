//! Customers over HTTP. Who asks, and why, is recorded with each change.

mod customer;
mod routes;

use axum::extract::FromRef;
use deadpool_postgres::Pool;
use service::caller::Tokens;
use service::{database, listen, setting};

/// What requests need.
#[derive(Clone)]
struct Shared {
    pool: Pool,
    tokens: Tokens,
}

impl FromRef<Shared> for Tokens {
    fn from_ref(shared: &Shared) -> Tokens {
        shared.tokens.clone()
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let connections = setting::optional("CONNECTIONS", "8").parse();
    let connections = connections.unwrap_or_else(|_| setting::wrong("CONNECTIONS is no number"));
    let shared = Shared {
        pool: database::pool_from_environment(connections),
        tokens: Tokens::from_environment(),
    };
    listen::serve(routes::routes().with_state(shared)).await
}
