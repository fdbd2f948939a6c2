//! Statements of our own, run over SPI in the database's encoding.

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::capture::server_text;

/// Runs a statement that returns nothing.
pub fn run(statement: &str) {
    let text = server_text(statement);
    let code = Spi::connect_mut(|_client| {
        // SAFETY: connected to SPI; the text is zero-ended, and copied where it outlives the call.
        unsafe { pg_sys::SPI_execute(text.as_ptr(), false, 0) }
    });
    if code < 0 {
        pgrx::error!("pg_cdc could not run its own statement: SPI says {code}");
    }
}
