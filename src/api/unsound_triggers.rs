//! Tracked tables and their partitions on which our triggers do not do all that they should: what is written there may go
//! by. Read from the catalogs alone; nothing is locked.

use change::options::{Operation, Options};
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::tracked::own_trigger::{IS_ROW_TRIGGER, IS_TRUNCATE_TRIGGER};
use crate::tracked::statement;

/// `$1`: of this table alone, NULL for all.
const UNSOUND: &str = "
    WITH RECURSIVE parts(root, oid) AS (
        SELECT t.tgrelid, t.tgrelid FROM pg_catalog.pg_trigger t
            WHERE IS_ROW_TRIGGER AND t.tgparentid = 0 AND ($1 IS NULL OR t.tgrelid = $1)
        UNION ALL SELECT p.root, i.inhrelid FROM parts p JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid
            JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relispartition)
    SELECT p.root, pg_catalog.convert_to(pg_catalog.format('%I.%I', n.nspname, c.relname), 'UTF8'),
           f.rows, f.truncates, c.relpersistence = 'u'
    FROM parts p JOIN pg_catalog.pg_class c ON c.oid = p.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT COALESCE(pg_catalog.bool_or(IS_ROW_TRIGGER), false) AS rows,
               COALESCE(pg_catalog.bool_or(IS_TRUNCATE_TRIGGER), false) AS truncates
        FROM pg_catalog.pg_trigger t WHERE t.tgrelid = p.oid AND t.tgenabled = 'A') f
    WHERE c.relkind IN ('r', 'p') AND NOT (f.rows AND f.truncates AND c.relpersistence = 'p')
    ORDER BY p.root, p.oid";

/// A table or partition, and what is not as it should be.
pub(crate) struct Unsound {
    pub root: pg_sys::Oid,
    /// Qualified and quoted.
    pub name: String,
    rows: bool,
    truncates: bool,
    pub unlogged: bool,
}

impl Unsound {
    /// Whether changes that the options ask for may go by.
    pub(crate) fn misses(&self, options: &Options) -> bool {
        !self.rows || (!self.truncates && options.operations.contains(Operation::Truncate))
    }
}

/// Everything of the kind, of one table or of all.
pub(crate) fn unsound(root: Option<pg_sys::Oid>) -> Vec<Unsound> {
    let query = UNSOUND
        .replace("IS_ROW_TRIGGER", IS_ROW_TRIGGER)
        .replace("IS_TRUNCATE_TRIGGER", IS_TRUNCATE_TRIGGER);
    let found = statement::pinned(|| {
        Spi::connect(|client| {
            let rows = client.select(&query, None, &[root.into()])?;
            rows.map(|row| {
                let name = row.get::<Vec<u8>>(2)?.unwrap_or_default();
                Ok(Unsound {
                    root: row.get(1)?.unwrap_or(pg_sys::InvalidOid),
                    name: String::from_utf8_lossy(&name).into_owned(),
                    rows: row.get(3)?.unwrap_or_default(),
                    truncates: row.get(4)?.unwrap_or_default(),
                    unlogged: row.get(5)?.unwrap_or_default(),
                })
            })
            .collect::<Result<Vec<_>, pgrx::spi::Error>>()
        })
    });
    match found {
        Ok(found) => found,
        Err(error) => pgrx::error!("pg_cdc could not read its triggers: {error}"),
    }
}
