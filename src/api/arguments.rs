//! Arguments of SQL functions as one JSON text in UTF-8: a database may have another encoding, and Rust's texts may not.

use change::code::Code;
use change::trouble::Trouble;
use serde::de::DeserializeOwned;

use crate::report::Raise;

/// Reads what a function of `sql/functions.sql` put together.
pub(crate) fn read<T: DeserializeOwned>(request: &[u8]) -> T {
    if request.len() > MOST_BYTES {
        refused(&format!("They have more than {MOST_BYTES} bytes.")).raise();
    }
    match serde_json::from_slice(request) {
        Ok(request) => request,
        // Its members have the arguments' types: what is left is JSON inside of JSON, deeper than is read.
        Err(error) => refused(&format!("They cannot be read: {error}.")).raise(),
    }
}

/// What is read is a tree in memory, many times as large, and memory that is out ends the process.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// CDC0110.
fn refused(detail: &str) -> Trouble {
    Trouble::new(
        Code::OptionsRefused,
        "options contradict each other or are unknown",
        "Pass shorter arguments, and flat JSON objects.",
    )
    .detail(detail)
}
