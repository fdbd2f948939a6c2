//! What every command needs.

use axum::extract::FromRef;
use deadpool_postgres::Pool;
use service::caller::Tokens;
use service::problem::Problem;

/// Connections, and whose token is whose.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) pool: Pool,
    pub(crate) tokens: Tokens,
}

impl FromRef<Shop> for Pool {
    fn from_ref(shop: &Shop) -> Pool {
        shop.pool.clone()
    }
}

impl FromRef<Shop> for Tokens {
    fn from_ref(shop: &Shop) -> Tokens {
        shop.tokens.clone()
    }
}

/// Fails where a command found nothing to change.
pub(crate) fn found(what: &str, id: i64, rows: u64) -> Result<(), Problem> {
    match rows {
        0 => Err(Problem::not_found(format!("there is no {what} {id}"))),
        _ => Ok(()),
    }
}
