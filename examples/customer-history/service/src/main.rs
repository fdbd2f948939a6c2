//! Customers over HTTP. Who asks, and why, is recorded with each change.

mod customer;
mod routes;
mod shared;

use service::caller::Tokens;
use service::{database, listen, setting};
use shared::Shared;

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
