//! Statements of our own, run over SPI in the database's encoding.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::ffi;

/// Runs `body`, in which names and operators of statements mean what they do in pg_catalog: nobody's search_path may
/// put others in their place, least of all where a statement runs with higher rights.
pub(crate) fn pinned<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: on the main thread of a backend, inside its transaction.
    unsafe { ffi::with_pinned_search_path(body) }
}

/// The oids in the first column of a query's answer. `what` is for the message should it fail.
pub(crate) fn oids(what: &str, query: &str, arguments: &[DatumWithOid<'_>]) -> Vec<pg_sys::Oid> {
    let found = pinned(|| {
        Spi::connect(|client| {
            let rows = client.select(query, None, arguments)?;
            rows.map(|row| row.get::<pg_sys::Oid>(1))
                .collect::<Result<Vec<_>, _>>()
        })
    });
    match found {
        Ok(oids) => oids.into_iter().flatten().collect(),
        Err(error) => pgrx::error!("pg_cdc could not read {what}: {error}"),
    }
}
