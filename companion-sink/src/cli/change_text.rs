//! A change of a row in a few words: the columns of a new one, or what became of the old values.

use mongodb::bson::{Bson, Document};

use super::answer::printable;
use crate::sink::mongo_history::document::INFERRED_DELETE;
use crate::sink::mongo_history::schemas::ColumnTypes;

/// What changed.
pub fn change_text(version: &Document, types: Option<&ColumnTypes>) -> String {
    let value = |name: &str, value: &Bson| value_text(name, value, types);
    let key = version.get_document("key").ok();
    let parts: Vec<String> = match version.get_str("op") {
        Ok("create" | "snapshot") => {
            let after = version.get_document("after").into_iter().flatten();
            let shown = after.filter(|(name, value)| {
                !matches!(value, Bson::Null) && !key.is_some_and(|key| key.contains_key(name))
            });
            let parts: Vec<_> = shown
                .map(|(name, new)| format!("{name} {}", value(name, new)))
                .collect();
            return parts.join(", ");
        }
        // Its time is not the row's.
        Ok(INFERRED_DELETE) => return "gone before a snapshot ended".into(),
        _ => {
            let diff = version.get_array("diff").into_iter().flatten();
            diff.filter_map(Bson::as_document)
                .map(|entry| {
                    let name = entry.get_str("path").unwrap_or("?");
                    match (entry.get("from"), entry.get("to")) {
                        (Some(old), Some(new)) => {
                            format!("{name} {} -> {}", value(name, old), value(name, new))
                        }
                        (None, Some(new)) => format!("{name} added {}", value(name, new)),
                        (Some(old), None) => format!("{name} removed {}", value(name, old)),
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

/// A value as SQL would show it: text in quotes, numbers and times not.
pub fn value_text(column: &str, value: &Bson, types: Option<&ColumnTypes>) -> String {
    const BARE: [&str; 6] = ["numeric", "money", "date", "time", "timestamp", "interval"];
    let type_name = types.and_then(|types| types.get(column));
    let is_bare = type_name.is_some_and(|name| BARE.iter().any(|bare| name.starts_with(bare)));
    match value {
        Bson::String(text) if !is_bare => printable(&format!("{text:?}")),
        other => plain(other),
    }
}

/// A value without quotes.
pub fn plain(value: &Bson) -> String {
    match value {
        Bson::String(text) => printable(text),
        Bson::Null => "null".into(),
        other => printable(&other.clone().into_relaxed_extjson().to_string()),
    }
}

/// A key as `a=1 b=2`.
pub fn key_text(version: &Document) -> Option<String> {
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
