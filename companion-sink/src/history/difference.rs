//! What two versions of a row differ in.

use mongodb::bson::{Bson, Document};

use crate::history::{mark, state};

/// One column that differs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    pub(crate) column: String,
    pub(crate) from: Side,
    pub(crate) to: Side,
}

/// A column of one version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Side {
    /// The row, or the column, is not there.
    Absent,
    /// There, and not what is stored: `redacted`, `hashed`, `truncated`, an oversize value.
    Marked {
        mark: String,
        value: Bson,
    },
    Value(Bson),
}

impl Side {
    /// As JSON: absent is nothing at all, and what is marked says so.
    fn json(&self) -> Option<serde_json::Value> {
        match self {
            Side::Absent => None,
            Side::Marked { mark, value } => Some(serde_json::json!({
                "mark": mark,
                "value": value.clone().into_relaxed_extjson(),
            })),
            Side::Value(value) => Some(value.clone().into_relaxed_extjson()),
        }
    }

    fn of(version: &Document, column: &str) -> Side {
        let Some(value) = state(version).and_then(|state| state.get(column)) else {
            return Side::Absent;
        };
        match mark(version, column) {
            Some(mark) => Side::Marked {
                mark: mark.to_owned(),
                value: value.clone(),
            },
            None => Side::Value(value.clone()),
        }
    }
}

impl Difference {
    /// As answers have it; what is absent is left out.
    pub(crate) fn json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("path".into(), self.column.as_str().into());
        for (name, side) in [("from", &self.from), ("to", &self.to)] {
            object.extend(side.json().map(|json| (name.to_owned(), json)));
        }
        serde_json::Value::Object(object)
    }
}

/// The columns in which the row was another one after `to` than after `from`, in their order.
pub(crate) fn difference(from: &Document, to: &Document) -> Vec<Difference> {
    let mut columns: Vec<&String> = Vec::new();
    for image in [state(to), state(from)].into_iter().flatten() {
        for column in image.keys() {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
    }
    let sides = columns.into_iter().map(|column| Difference {
        column: column.clone(),
        from: Side::of(from, column),
        to: Side::of(to, column),
    });
    sides.filter(|sides| sides.from != sides.to).collect()
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn absent_null_and_masked_are_told_apart() {
        let created = doc! { "op": "create", "after": { "id": 1, "city": "Basel", "note": Bson::Null, "iban": Bson::Null },
        "marks": { "after": { "iban": "redacted" } } };
        let updated = doc! { "op": "update", "after": { "id": 1, "city": "Bern", "note": "x", "added": Bson::Null, "iban": Bson::Null },
        "marks": { "after": { "iban": "redacted" } } };
        let deleted = doc! { "op": "delete", "before": { "id": 1 }, "after": Bson::Null };
        let text = |text: &str| Side::Value(Bson::String(text.into()));
        let of = |column: &str, from: Side, to: Side| Difference {
            column: column.into(),
            from,
            to,
        };
        assert_eq!(
            difference(&created, &updated),
            [
                of("city", text("Basel"), text("Bern")),
                of("note", Side::Value(Bson::Null), text("x")),
                of("added", Side::Absent, Side::Value(Bson::Null)),
            ]
        );
        let gone = difference(&created, &deleted);
        assert_eq!(gone.len(), 4);
        assert!(gone.iter().all(|difference| difference.to == Side::Absent));
        let redacted = Side::Marked {
            mark: "redacted".into(),
            value: Bson::Null,
        };
        assert_eq!(gone[3], of("iban", redacted, Side::Absent));
        assert_eq!(difference(&updated, &updated), []);
    }
}
