//! What the history calls a row.

/// What the history calls a row: its table and its identity; the table alone where a row has none.
pub(crate) fn entity(table: &str, identity: Option<&str>) -> String {
    match identity {
        Some(identity) => format!("{table}:{identity}"),
        None => table.to_owned(),
    }
}
