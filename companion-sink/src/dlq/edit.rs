//! An event with other values.

use change::trouble::Trouble;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Result, misconfigured};
use crate::event::image::Image;
use crate::history::key_value::value_form;
use crate::sink::mongo_history::documents::column_types::ColumnTypes;

/// Another value of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    column: String,
    /// The value as JSON.
    json: String,
}

impl Set {
    /// The value `json` for what `path` (`after.COLUMN`) names.
    pub(crate) fn new(path: &str, json: String) -> Result<Set> {
        let column = path
            .strip_prefix("after.")
            .ok_or_else(|| wrong(format!("{path} is not after.COLUMN")))?;
        Ok(Set {
            column: column.to_owned(),
            json,
        })
    }

    /// `after.COLUMN=VALUE`; a value that is no JSON is a text.
    pub(crate) fn parse(text: &str) -> Result<Set> {
        let (path, value) = text
            .split_once('=')
            .ok_or_else(|| wrong(format!("{text} is not after.COLUMN=VALUE")))?;
        let json = match serde_json::from_str::<&RawValue>(value) {
            Ok(json) => json.get().to_owned(),
            Err(_) => Value::from(value).to_string(),
        };
        Set::new(path, json)
    }

    /// The same in the form that events have for the column's type; fails where it is none of its values.
    pub(crate) fn typed(&self, types: Option<&ColumnTypes>) -> Result<Set> {
        let type_name = types.and_then(|types| types.get(&self.column));
        let json = match serde_json::from_str::<Value>(&self.json) {
            Ok(Value::String(text)) => value_form(&text, type_name.map(String::as_str)),
            Ok(Value::Number(_) | Value::Bool(_)) => {
                value_form(&self.json, type_name.map(String::as_str))
            }
            _ => return Ok(self.clone()),
        };
        let json = match (json, type_name) {
            (Some(Some(json)), _) => json,
            (None, Some(type_name)) => {
                return Err(wrong(format!(
                    "the value is no {type_name}, which {} is",
                    self.column
                )));
            }
            _ => self.json.clone(),
        };
        Ok(Set {
            column: self.column.clone(),
            json,
        })
    }
}

/// The body with other values in its image after the change; everything else stays as it is, to the byte.
pub(crate) fn edit(body: &[u8], set: &[Set]) -> Result<Vec<u8>> {
    let event = Image::parse(body).map_err(|why| wrong(format!("the event: {why}")))?;
    let after = event.get("after").map_or("", RawValue::get);
    let image = Image::parse(after.as_bytes())
        .map_err(|_| wrong("the event has no image after the change".to_owned()))?;
    let mut values: Vec<(String, String)> = image
        .0
        .iter()
        .map(|(name, value)| (name.clone().into_owned(), value.get().to_owned()))
        .collect();
    for Set { column, json } in set {
        let known = values.iter_mut().find(|(name, _)| name == column);
        let (_, old) = known.ok_or_else(|| wrong(format!("the event has no column {column}")))?;
        old.clone_from(json);
    }
    let new_after = object_text(
        values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let parts = event.0.iter().map(|(name, value)| match &**name {
        "after" => (&**name, new_after.as_str()),
        _ => (&**name, value.get()),
    });
    Ok(object_text(parts).into_bytes())
}

fn wrong(what: String) -> Trouble {
    misconfigured(
        what,
        "Name columns as after.COLUMN, each with its value as the event has it; `dlq show` has them. What cannot be edited can be skipped.",
    )
}

fn object_text<'a>(members: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let members = members.map(|(name, value)| format!("{}:{value}", Value::from(name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_nothing_else() {
        let body = br#"{"id":"n-1","before":null,"after":{"id":9223372036854775807,"n":1e400,"city":"a\"b"},"ts_ms":1}"#;
        let edited = |set: &[&str]| {
            let set: Result<Vec<Set>> = set.iter().map(|set| Set::parse(set)).collect();
            edit(body, &set?).map(|body| String::from_utf8(body).unwrap())
        };
        assert_eq!(
            edited(&["after.city=Bern", "after.n=5"]).unwrap(),
            r#"{"id":"n-1","before":null,"after":{"id":9223372036854775807,"n":5,"city":"Bern"},"ts_ms":1}"#
        );
        assert!(
            edited(&["after.city=null"])
                .unwrap()
                .contains(r#""city":null"#)
        );
        assert!(
            edited(&["after.town=x"])
                .unwrap_err()
                .message
                .contains("no column town")
        );
        assert!(edited(&["city=x"]).is_err());
        let types = [
            ("n", "numeric(12,2)"),
            ("id", "smallint"),
            ("at", "date"),
            ("city", "text"),
        ];
        let types = types
            .map(|(name, of)| (name.to_owned(), of.to_owned()))
            .into_iter()
            .collect();
        let typed = |set: &str| {
            Set::parse(set)
                .unwrap()
                .typed(Some(&types))
                .map(|set| set.json)
        };
        assert_eq!(typed("after.n=5").unwrap(), "\"5.00\"");
        assert_eq!(typed("after.at=2026-01-02").unwrap(), "\"2026-01-02\"");
        assert_eq!(typed("after.id=7").unwrap(), "7");
        assert_eq!(typed("after.city=7").unwrap(), "\"7\"");
        assert_eq!(typed("after.n=null").unwrap(), "null");
        assert_eq!(typed("after.more=x").unwrap(), "\"x\"");
        for wrong in [
            "after.n=abc",
            "after.n=123456789012",
            "after.id=70000",
            "after.id=x",
            "after.at=31.12.2026",
        ] {
            assert!(
                typed(wrong)
                    .unwrap_err()
                    .message
                    .starts_with("the value is no "),
                "{wrong}"
            );
        }
        assert!(edited(&["after.city"]).is_err());
    }
}
