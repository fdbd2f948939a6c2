//! Arguments of SQL functions as one JSON text in UTF-8: a database may have another encoding, and Rust's texts may not.

use pgrx::prelude::*;
use serde::de::DeserializeOwned;

use crate::report::Report;

/// Reads what a function of `sql/functions.sql` put together.
pub fn read<T: DeserializeOwned>(request: &[u8]) -> T {
    match serde_json::from_slice(request) {
        Ok(request) => request,
        // Its members have the arguments' types: what is left is JSON inside of JSON, deeper than is read.
        Err(error) => Report::new(
            "CDC0110",
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "options contradict each other or are unknown",
            "Pass flat JSON objects.",
        )
        .detail(format!("The arguments cannot be read: {error}."))
        .raise(),
    }
}
