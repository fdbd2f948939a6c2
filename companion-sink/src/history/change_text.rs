//! A change of a row in a few words: the columns of a new one, or what became of the old values.

use mongodb::bson::{Bson, Document};

use crate::history::difference::Side;
use crate::history::{crossed_filter, edited, mark, mark_in};
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::mongo_history::documents::document::INFERRED_DELETE;
use crate::terminal::printable;

/// What changed, and what is not as the source sent it.
pub(crate) fn change_text(version: &Document, types: Option<&ColumnTypes>) -> String {
    let changed = changed(version, types);
    let Some(edited) = edited(version) else {
        return changed;
    };
    let by = edited.get_str("by").unwrap_or("?");
    let original = edited.get_document("original").into_iter().flatten();
    let original: Vec<String> = original
        .map(|(name, value)| format!("{name} was {}", value_text(name, value, types)))
        .collect();
    let why = edited
        .get_str("reason")
        .map(|why| format!(": {}", printable(why)));
    format!(
        "{changed} [edited by {}{}; {}]",
        printable(by),
        why.unwrap_or_default(),
        original.join(", ")
    )
}

fn changed(version: &Document, types: Option<&ColumnTypes>) -> String {
    let value = |name: &str, value: &Bson, image: &str| {
        marked(
            value_text(name, value, types),
            mark_in(version, image, name),
        )
    };
    let key = version.get_document("key").ok();
    let parts: Vec<String> = match version.get_str("op") {
        Ok("create" | "read") => {
            let after = version.get_document("after").into_iter().flatten();
            let shown = after.filter(|(name, value)| {
                let is_empty = matches!(value, Bson::Null) && mark(version, name).is_none();
                !is_empty && !key.is_some_and(|key| key.contains_key(name))
            });
            let parts: Vec<_> = shown
                .map(|(name, new)| format!("{name} {}", value(name, new, "after")))
                .collect();
            return parts.join(", ");
        }
        // Its time is not the row's.
        Ok(INFERRED_DELETE) => return "gone before a snapshot ended".into(),
        _ if crossed_filter(version).is_some() => {
            return "an update: the table's filter does not pass the row any more".into();
        }
        _ => {
            let diff = version.get_array("diff").into_iter().flatten();
            diff.filter_map(Bson::as_document)
                .map(|entry| {
                    let name = entry.get_str("path").unwrap_or("?");
                    match (entry.get("from"), entry.get("to")) {
                        (Some(old), Some(new)) => {
                            let (old, new) =
                                (value(name, old, "before"), value(name, new, "after"));
                            format!("{name} {old} -> {new}")
                        }
                        (None, Some(new)) => format!("{name} added {}", value(name, new, "after")),
                        (Some(old), None) => {
                            format!("{name} removed {}", value(name, old, "before"))
                        }
                        (None, None) => format!("{name} changed (masked)"),
                    }
                })
                .collect()
        }
    };
    match parts.is_empty() {
        true => "-".into(),
        false => parts.join("; "),
    }
}

/// A value with what it is instead of the row's own, or that alone where there is nothing else to show.
pub(crate) fn marked(value: String, mark: Option<&str>) -> String {
    match mark {
        None => value,
        Some(mark @ ("redacted" | "oversize")) => format!("({mark})"),
        Some(mark) => format!("{value} ({mark})"),
    }
}

/// The operation as people see it.
pub(crate) fn op_text(version: &Document) -> String {
    let op = match crossed_filter(version) {
        Some("left") => "left_filter",
        Some(_) => "entered filter",
        None => version.get_str("op").unwrap_or("-"),
    };
    match edited(version) {
        Some(_) => format!("{op} (edited)"),
        None => op.to_owned(),
    }
}

/// A value as SQL would show it: text in quotes, numbers and times not.
pub(crate) fn value_text(column: &str, value: &Bson, types: Option<&ColumnTypes>) -> String {
    const BARE: [&str; 6] = ["numeric", "money", "date", "time", "timestamp", "interval"];
    let type_name = types.and_then(|types| types.get(column));
    let is_bare = type_name.is_some_and(|name| BARE.iter().any(|bare| name.starts_with(bare)));
    match value {
        Bson::String(text) if !is_bare => printable(&format!("{text:?}")),
        other => plain(other),
    }
}

/// A column of one version of a row.
pub(crate) fn side_text(column: &str, side: &Side, types: Option<&ColumnTypes>) -> String {
    match side {
        Side::Absent => "-".to_owned(),
        Side::Marked { mark, value } => marked(value_text(column, value, types), Some(mark)),
        Side::Value(value) => value_text(column, value, types),
    }
}

/// A value without quotes.
pub(crate) fn plain(value: &Bson) -> String {
    match value {
        Bson::String(text) => printable(text),
        Bson::Null => "null".into(),
        other => printable(&other.clone().into_relaxed_extjson().to_string()),
    }
}

/// A key as `a=1 b=2`.
pub(crate) fn key_text(version: &Document) -> Option<String> {
    let key = version.get_document("key").ok()?;
    let parts = key
        .iter()
        .map(|(name, value)| format!("{name}={}", plain(value)));
    Some(parts.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn changes_are_told_in_a_few_words() {
        let types = [("balance".to_owned(), "numeric".to_owned())]
            .into_iter()
            .collect();
        for (version, told) in [
            (
                doc! { "op": "create", "key": { "id": 42 }, "after": { "id": 42, "name": "Eva", "balance": "10.50", "note": Bson::Null } },
                "name \"Eva\", balance 10.50",
            ),
            (
                doc! { "op": "update", "key": { "id": 42 }, "diff": [
                    { "path": "balance", "from": "10.50", "to": "25.00", "kind": "changed" },
                    { "path": "note", "from": Bson::Null, "to": "VIP", "kind": "changed" },
                    { "path": "iban", "kind": "masked" },
                    { "path": "more", "to": 1, "kind": "added" },
                ] },
                "balance 10.50 -> 25.00; note null -> \"VIP\"; iban changed (masked); more added 1",
            ),
            (
                doc! { "op": "delete", "key": { "id": 42 }, "diff": [] },
                "-",
            ),
            (
                doc! { "op": "create", "key": { "id": 42 }, "after": { "id": 42, "iban": Bson::Null, "pin": "hmac:1", "memo": "ab", "blob": Bson::Null },
                "marks": { "after": { "iban": "redacted", "pin": "hashed", "memo": "truncated", "blob": { "stub": { "bytes": 5 } } } } },
                "iban (redacted), pin \"hmac:1\" (hashed), memo \"ab\" (truncated), blob (oversize)",
            ),
            (
                doc! { "op": "update", "key": { "id": 42 }, "diff": [{ "path": "balance", "from": "10.50", "to": "25.00", "kind": "changed" }],
                "edited": { "by": "ann", "at": "x", "reason": "a typo", "original": { "balance": "abc" } } },
                "balance 10.50 -> 25.00 [edited by ann: a typo; balance was abc]",
            ),
            (
                doc! { "op": "delete", "diff": [], "marks": { "filter": "left" } },
                "an update: the table's filter does not pass the row any more",
            ),
            (
                doc! { "op": INFERRED_DELETE, "diff": [] },
                "gone before a snapshot ended",
            ),
        ] {
            assert_eq!(change_text(&version, Some(&types)), told);
        }
        assert_eq!(
            key_text(&doc! { "key": { "a": 1, "b": "x" } }).as_deref(),
            Some("a=1 b=x")
        );
    }
}
