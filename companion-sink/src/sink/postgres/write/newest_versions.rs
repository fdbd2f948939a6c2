//! Which event of a row is the newest, where its key has several spellings.
//!
//! 1.0 and 1.00 of `numeric`, `A` and `a` of `citext` are one row of the target, and two keys in Kafka: their events lie in
//! different partitions, and where partitions are applied independently any of them may come first. So the state has, for
//! tables with such keys, the version of the newest event that was applied of a row, also of one that is gone. An older event
//! is passed over. What lies before a commit up to which everything is there is forgotten again.

use tokio_postgres::types::{ToSql, Type};

use crate::error::Result;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::failure::{Fault, classify, sort};
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::tables::Tables;
use crate::sink::postgres::schema::target::quoted;
use crate::sink::postgres::write::change::{RowChange, key_layout, values};

/// Makes the tables of the state that [`claim`] needs for `changes`, outside of whatever may be undone later.
pub(crate) async fn make_ready(
    session: &mut Session,
    tables: &Tables,
    changes: &[RowChange<'_>],
) -> Result<()> {
    if session.newest_schema.is_none() {
        return Ok(());
    }
    for change in changes {
        let table = tables.get(change.table);
        let key = key_layout(table, &change.identity.0);
        let Some(name) = name_of(session, table, &key) else {
            continue;
        };
        if !session.newest_tables.contains(&name) {
            match make(session, table, &key, &name).await {
                Ok(()) => {
                    session.newest_tables.insert(name);
                }
                Err(Fault::Other(error)) => return Err(error),
                // Who applies events of the table looks why.
                Err(fault) => {
                    let why = fault.error("noting the newest events of keys");
                    tracing::warn!(table = table.name, hint = why.remedy, "{}", why.message);
                }
            }
        }
    }
    Ok(())
}

/// Those of `changes`, each of another key, that are newer than what was applied of their rows; notes them. `None` where the
/// key has one spelling, or one instance applies everything in order.
pub(crate) async fn claim<'c, 'b>(
    session: &mut Session,
    table: &Table,
    changes: &[&'c RowChange<'b>],
) -> std::result::Result<Option<Vec<&'c RowChange<'b>>>, Fault> {
    let Some(first) = changes.first() else {
        return Ok(None);
    };
    let key = key_layout(table, &first.identity.0);
    let Some(name) = name_of(session, table, &key) else {
        return Ok(None);
    };
    let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::new(); key.len()];
    let mut versions: Vec<&str> = Vec::with_capacity(changes.len());
    for change in changes {
        let row = values(table, &key, &change.identity.0).map_err(Fault::Event)?;
        for (array, value) in arrays.iter_mut().zip(row) {
            array.push(value.map(|value| value.into_owned()));
        }
        versions.push(change.record.version().unwrap_or_default());
    }
    let doing = format!("noting the newest events of {}", table.name);
    let failed = |error| sort(&doing, &error);
    let types = vec![Type::TEXT_ARRAY; key.len() + 1];
    let statement = session.prepared(&sql(table, &key, &name), &types).await;
    let statement = statement.map_err(|error| failed(error).of_table())?;
    let mut parameters: Vec<&(dyn ToSql + Sync)> = arrays
        .iter()
        .map(|array| array as &(dyn ToSql + Sync))
        .collect();
    parameters.push(&versions);
    let rows = session.client.query(&statement, &parameters).await;
    let rows = rows.map_err(failed)?;
    let newest: std::collections::HashSet<&str> = rows.iter().map(|row| row.get(0)).collect();
    let is_newest =
        |change: &&&'c RowChange<'b>| newest.contains(change.record.version().unwrap_or_default());
    Ok(Some(changes.iter().filter(is_newest).copied().collect()))
}

/// Forgets what was noted before the commit that versions below `bound` are of: everything up to there is applied, so nothing
/// older can come, but for events that are parked.
pub(crate) async fn forget(
    session: &Session,
    state_schema: &str,
    sink: &str,
    bound: &str,
) -> Result<()> {
    for name in &session.newest_tables {
        let sql = format!(
            "DELETE FROM {name} WHERE \"cdc.version\" < $1 AND NOT EXISTS (SELECT FROM {state_schema}.parked WHERE sink = $2 AND NOT halts)"
        );
        let done = session.client.execute(&sql, &[&bound, &sink]).await;
        done.map_err(|error| classify("forgetting events that are all applied", &error))?;
    }
    Ok(())
}

/// The table of the state for a table of the target, quoted; `None` where none is needed.
fn name_of(session: &Session, table: &Table, key: &[usize]) -> Option<String> {
    let schema = session.newest_schema.as_ref()?;
    let is_needed = !key.is_empty() && table.has_spellings(key);
    is_needed.then(|| format!("{schema}.{}", quoted(&format!("newest_{}", table.oid))))
}

/// Makes a table of the state; one with another key, from before a change of the definition, goes.
async fn make(
    session: &Session,
    table: &Table,
    key: &[usize],
    name: &str,
) -> std::result::Result<(), Fault> {
    let failed = |error| sort("noting the newest events of keys", &error);
    let columns: Vec<String> = key
        .iter()
        .map(|place| quoted(&table.columns[*place].name))
        .collect();
    let columns = columns.join(", ");
    let names: Vec<&str> = key
        .iter()
        .map(|place| table.columns[*place].name.as_str())
        .collect();
    let row = session
        .client
        .query_one(
            "SELECT coalesce((
                 SELECT array_agg(format('%s %s %s', attname, atttypid, attcollation) ORDER BY attnum)
                 FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND attname <> 'cdc.version')
               = (SELECT array_agg(format('%s %s %s', a.attname, a.atttypid, a.attcollation) ORDER BY k.place)
                  FROM unnest($3::text[]) WITH ORDINALITY AS k(name, place)
                  JOIN pg_catalog.pg_attribute a ON a.attrelid = $2 AND a.attname = k.name), false)",
            &[&name, &table.oid, &names],
        )
        .await
        .map_err(failed)?;
    if row.get(0) {
        return Ok(());
    }
    // Instances make it together, and each looks before it does.
    let sql = format!(
        "SELECT pg_advisory_xact_lock(hashtext('companion-sink'), 0);
         DROP TABLE IF EXISTS {name};
         CREATE TABLE {name} AS SELECT {columns} FROM {} WITH NO DATA;
         ALTER TABLE {name} ADD COLUMN \"cdc.version\" text COLLATE \"C\" NOT NULL;
         CREATE UNIQUE INDEX ON {name} ({columns});
         COMMENT ON TABLE {name} IS 'companion-sink: the version of the newest event that was applied of a row whose key has several spellings'",
        table.name
    );
    session.client.batch_execute(&sql).await.map_err(failed)
}

fn sql(table: &Table, key: &[usize], name: &str) -> String {
    let mut wanted = Vec::with_capacity(key.len());
    let mut names = Vec::with_capacity(key.len());
    let mut places = Vec::with_capacity(key.len());
    let mut arrays = Vec::with_capacity(key.len());
    let mut given = Vec::with_capacity(key.len());
    for (place, column) in key.iter().enumerate() {
        let column = &table.columns[*column];
        let collate = column
            .collation
            .as_ref()
            .map_or_else(String::new, |collation| format!(" COLLATE {collation}"));
        wanted.push(format!("(u.c{place}::{}){collate}", column.type_name));
        names.push(quoted(&column.name));
        places.push((place + 1).to_string());
        arrays.push(format!("${}::text[]", place + 1));
        given.push(format!("c{place}"));
    }
    let (names, places, version) = (names.join(", "), places.join(", "), key.len() + 1);
    // In the order of the keys, so that instances that meet wait for each other in one order.
    format!(
        "INSERT INTO {name} AS o ({names}, \"cdc.version\")
         SELECT DISTINCT ON ({places}) {wanted}, u.version COLLATE \"C\"
         FROM unnest({arrays}, ${version}::text[]) AS u({given}, version) ORDER BY {places}, {version} DESC
         ON CONFLICT ({names}) DO UPDATE SET \"cdc.version\" = EXCLUDED.\"cdc.version\"
             WHERE o.\"cdc.version\" <= EXCLUDED.\"cdc.version\"
         RETURNING \"cdc.version\"",
        wanted = wanted.join(", "),
        arrays = arrays.join(", "),
        given = given.join(", "),
    )
}
