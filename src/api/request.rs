//! Arguments of SQL functions as one JSON text in UTF-8: a database may have another encoding, and Rust's texts may not.

use serde::de::DeserializeOwned;

/// Reads what a function of `sql/functions.sql` put together.
pub fn read<T: DeserializeOwned>(request: &[u8]) -> T {
    match serde_json::from_slice(request) {
        Ok(request) => request,
        Err(error) => pgrx::error!("pg_cdc cannot read its own arguments: {error}"),
    }
}
