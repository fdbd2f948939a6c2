//! Statements of our own, run over SPI in the database's encoding.

use pgrx::datum::DatumWithOid;
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

/// The oids in the first column of a query's answer. `what` is for the message should it fail.
pub fn oids(what: &str, query: &str, arguments: &[DatumWithOid<'_>]) -> Vec<pg_sys::Oid> {
    let found = Spi::connect(|client| {
        let rows = client.select(query, None, arguments)?;
        rows.map(|row| row.get::<pg_sys::Oid>(1))
            .collect::<Result<Vec<_>, _>>()
    });
    match found {
        Ok(oids) => oids.into_iter().flatten().collect(),
        Err(error) => pgrx::error!("pg_cdc could not read {what}: {error}"),
    }
}
