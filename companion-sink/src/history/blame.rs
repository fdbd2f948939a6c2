//! Who gave each column the value that it has.

use std::collections::HashMap;

use mongodb::bson::{Bson, Document};

use crate::history::difference::difference;
use crate::history::entity::Version;
use crate::history::{state, text_at};

/// A column of the newest state, and the version that it has its value from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Blamed<'a> {
    pub(crate) column: &'a str,
    pub(crate) version: &'a Version,
}

impl Blamed<'_> {
    /// What the column has.
    pub(crate) fn value(&self) -> &Bson {
        let state = state(&self.version.document);
        state
            .and_then(|state| state.get(self.column))
            .unwrap_or(&Bson::Null)
    }

    /// As answers have it.
    pub(crate) fn json(&self) -> serde_json::Value {
        let document = &self.version.document;
        serde_json::json!({
            "column": self.column,
            "value": self.value().clone().into_relaxed_extjson(),
            "mark": crate::history::mark(document, self.column),
            "version": self.version.number,
            "actor": text_at(document, "who", "actor"),
            "role": text_at(document, "who", "current_user"),
            "reason": text_at(document, "why", "reason"),
            "request_id": text_at(document, "why", "request_id"),
            "time": text_at(document, "when", "commit"),
        })
    }
}

/// One entry for each column that the row has after the newest of its `versions`, which are in order; none where the row is
/// gone. What an earlier row of the same key had does not count.
pub(crate) fn blame(versions: &[Version]) -> Vec<Blamed<'_>> {
    let mut from: HashMap<&str, &Version> = HashMap::new();
    let mut before: Option<&Version> = None;
    // The row as it was before it began to move to another partition.
    let mut moving: Option<&Version> = None;
    for version in versions {
        let earlier = match (before, moving) {
            (Some(gone), Some(moving)) if is_move(&gone.document, &version.document) => {
                Some(moving)
            }
            (before, _) => before,
        };
        match earlier {
            Some(before) if state(&before.document).is_some() => {
                let changed = difference(&before.document, &version.document);
                let after = state(&version.document);
                let names = after.into_iter().flat_map(|after| after.keys());
                for name in names.filter(|name| changed.iter().any(|one| one.column == **name)) {
                    from.insert(name, version);
                }
            }
            _ => {
                from.clear();
                let names = state(&version.document)
                    .into_iter()
                    .flat_map(|after| after.keys());
                from.extend(names.map(|name| (name.as_str(), version)));
            }
        }
        moving = before;
        before = Some(version);
    }
    let newest = before.and_then(|newest| state(&newest.document));
    let columns = newest.into_iter().flat_map(|state| state.keys());
    columns
        .filter_map(|column| {
            Some(Blamed {
                column,
                version: from.get(column.as_str()).copied()?,
            })
        })
        .collect()
}

/// Whether a delete and a create are one update, by which the row went to another partition of its table: PostgreSQL tells both,
/// one behind the other. (An insert of its own behind a delete looks the same, and is shown so.)
pub(crate) fn is_move(gone: &Document, come: &Document) -> bool {
    let place = |document: &Document| {
        let transaction = document.get_document("transaction").ok()?;
        let position = transaction.get("total_order")?;
        let position = position.as_i64().or(position.as_i32().map(i64::from))?;
        Some((transaction.get_str("id").ok()?.to_owned(), position))
    };
    let (Some((one, first)), Some((other, second))) = (place(gone), place(come)) else {
        return false;
    };
    let ops = (gone.get_str("op"), come.get_str("op"));
    ops == (Ok("delete"), Ok("create"))
        && one == other
        && second == first + 1
        && crate::history::crossed_filter(gone).is_none()
        && crate::history::crossed_filter(come).is_none()
        && come.get_str("entity") == gone.get_str("entity")
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Document, doc};

    use super::*;

    fn versions(documents: Vec<Document>) -> Vec<Version> {
        let numbered = (1..).zip(documents);
        numbered
            .map(|(number, document)| Version { number, document })
            .collect()
    }

    fn told(versions: &[Version]) -> Vec<(&str, u64)> {
        let blamed = blame(versions);
        blamed
            .iter()
            .map(|one| (one.column, one.version.number))
            .collect()
    }

    #[test]
    fn a_column_is_blamed_on_its_last_change() {
        let mut all = versions(vec![
            doc! { "op": "create", "after": { "id": 1, "city": "Basel", "note": Bson::Null } },
            doc! { "op": "update", "after": { "id": 1, "city": "Bern", "note": Bson::Null } },
            doc! { "op": "update", "after": { "id": 1, "city": "Bern", "note": "x", "more": 1 } },
            doc! { "op": "update", "after": { "id": 1, "city": "Bern", "note": "x", "more": 1 } },
        ]);
        assert_eq!(
            told(&all),
            [("id", 1), ("city", 2), ("note", 3), ("more", 3)]
        );
        all.extend(versions(vec![doc! { "op": "delete", "after": Bson::Null }]));
        assert_eq!(told(&all), []);
        let again = doc! { "op": "create", "after": { "id": 1, "city": "Bern" } };
        all.push(Version {
            number: 6,
            document: again,
        });
        assert_eq!(told(&all), [("id", 6), ("city", 6)], "another row");
        // To another partition, which PostgreSQL tells as a delete and a create.
        for (number, op, position) in [(7, "delete", 1), (8, "create", 2)] {
            let transaction = doc! { "id": "812:1", "total_order": position };
            let image = doc! { "id": 1, "city": "Basel" };
            let (before, after) = match op {
                "delete" => (Bson::Document(image), Bson::Null),
                _ => (Bson::Null, Bson::Document(image)),
            };
            let document =
                doc! { "op": op, "before": before, "after": after, "transaction": transaction };
            all.push(Version { number, document });
        }
        assert_eq!(told(&all), [("id", 6), ("city", 8)], "the same row");
    }
}
