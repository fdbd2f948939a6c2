//! Whether a view's tables have the columns that it uses, as far as their definitions have come.

use std::collections::{BTreeMap, BTreeSet};

use change::topic_name;
use mongodb::Database;

use crate::error::Result;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::tables::schemas::newest_columns;
use crate::sink::mongo_view::decoding::check_columns;
use crate::sink::mongo_view::plan::Plan;

/// Fails where a table has not got a column that the view uses (CDC1011).
pub(crate) async fn check(database: &Database, plan: &Plan) -> Result<()> {
    let known = newest_columns(database).await;
    let known = known.map_err(|error| classify("reading the schemas", &error))?;
    for table in plan.tables() {
        if let Some(columns) = of_table(&known, table) {
            check_columns(plan, table, columns, &BTreeMap::new())?;
        }
    }
    Ok(())
}

/// Those of the table `schema.table`, of whichever database.
fn of_table<'k>(
    known: &'k BTreeMap<String, BTreeSet<String>>,
    table: &str,
) -> Option<&'k BTreeSet<String>> {
    let (schema, table) = table.split_once('.')?;
    let end = format!(".{}", topic_name::join(&[schema, table]));
    let mut known = known.iter();
    let (_, columns) = known.find(|(header, _)| header.ends_with(&end))?;
    Some(columns)
}
