//! Generated columns that are shipped though what they are computed from is masked or left out.

use change::code::Code;
use change::options::Options;
use change::trouble::Trouble;
use pgrx::prelude::*;

use super::statement;
use super::table::Table;
use crate::report::Raise;

/// Generated columns and the columns that they read. Up to 15 the column itself depends on these, later its expression may.
const READ: &str = "
    SELECT pg_catalog.convert_to(g.attname, 'UTF8'), pg_catalog.convert_to(s.attname, 'UTF8')
    FROM pg_catalog.pg_attribute g JOIN pg_catalog.pg_depend p ON p.refobjid = g.attrelid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = g.attrelid AND d.adnum = g.attnum
    JOIN pg_catalog.pg_attribute s ON s.attrelid = g.attrelid AND s.attnum = p.refobjsubid
    WHERE g.attrelid = $1 AND g.attgenerated <> '' AND NOT g.attisdropped AND s.attnum > 0 AND s.attnum <> g.attnum
        AND p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND (p.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND p.objid = g.attrelid AND p.objsubid = g.attnum
             OR p.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND p.objid = d.oid)
    ORDER BY g.attnum, s.attnum";

/// CDC0210 for each, with the first column that it reads.
pub(crate) fn warn_of_clear(table: &Table, options: &Options) {
    let is_hidden = |name: &String| {
        options.mask.contains_key(name)
            || options.exclude.contains(name)
            || (!options.include.is_empty() && !options.include.contains(name))
    };
    if options.mask.is_empty() && options.exclude.is_empty() && options.include.is_empty() {
        return;
    }
    let mut told: Vec<String> = Vec::new();
    for (computed, read) in read_columns(table) {
        if !is_hidden(&computed) && is_hidden(&read) && !told.contains(&computed) {
            clear(table, &computed, &read).warn();
            told.push(computed);
        }
    }
}

fn read_columns(table: &Table) -> Vec<(String, String)> {
    let found = statement::pinned(|| {
        Spi::connect(|client| {
            let rows = client.select(READ, None, &[table.oid.into()])?;
            rows.map(|row| {
                let text = |bytes: Option<Vec<u8>>| {
                    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
                };
                Ok((text(row.get(1)?), text(row.get(2)?)))
            })
            .collect::<Result<Vec<_>, pgrx::spi::Error>>()
        })
    });
    found.unwrap_or_else(|error| {
        pgrx::error!("pg_cdc could not read what generated columns are computed from: {error}")
    })
}

fn clear(table: &Table, computed: &str, read: &str) -> Trouble {
    Trouble::new(
        Code::ComputedFromHidden,
        format!(
            "column \"{computed}\" of table \"{}\" is shipped, and is computed from \"{read}\", which is masked or left out",
            table.name
        ),
        format!("Mask or exclude \"{computed}\" as well, unless it tells nothing of \"{read}\"."),
    )
}
