//! What requests need.

use axum::extract::FromRef;
use deadpool_postgres::Pool;
use service::caller::Tokens;

/// Connections, and whose token is whose.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) tokens: Tokens,
}

impl FromRef<Shared> for Tokens {
    fn from_ref(shared: &Shared) -> Tokens {
        shared.tokens.clone()
    }
}
