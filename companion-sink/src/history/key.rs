//! KEY of a command or a request: which row is meant.

use change::trouble::Trouble;
use serde_json::Value;

use crate::error::{Result, misconfigured};
use crate::history::key_value::forms;

/// A column of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    /// What the history calls it.
    pub(crate) first: String,
    /// The names that it has had; the last one is today's.
    pub(crate) names: Vec<String>,
    /// As SQL has it, where it is known.
    pub(crate) type_name: Option<String>,
}

impl KeyColumn {
    /// Its name today.
    pub(crate) fn name(&self) -> &str {
        self.names.last().unwrap_or(&self.first)
    }

    fn is_called(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }
}

/// The columns of a key with values as JSON, by the names that the history has for them.
pub(crate) type Values = Vec<(String, String)>;

/// What `key` can mean, as the events write it: `42` may be a number or a text.
pub(crate) fn meant(key: &str, columns: &[KeyColumn]) -> Result<Vec<Values>> {
    let mut parts: Vec<(String, Vec<String>)> = Vec::with_capacity(columns.len());
    if key.starts_with('{')
        && let Ok(Value::Object(object)) = serde_json::from_str::<Value>(key)
    {
        for column in columns {
            let is_meant =
                |name: &str| called(columns, name).is_some_and(|meant| meant.first == column.first);
            let value = object.iter().find(|(name, _)| is_meant(name));
            let (_, value) = value.ok_or_else(|| wrong_key(columns))?;
            let mut all = vec![value.to_string()];
            if let Value::String(text) = value {
                all.extend(forms(text, column.type_name.as_deref()));
            }
            all.dedup();
            parts.push((column.first.clone(), all));
        }
        return Ok(combine(&parts));
    }
    let given = split(key, columns);
    for column in columns {
        let value = given.iter().find(|(named, _)| named.first == column.first);
        let text = match (value, columns) {
            (Some((_, text)), _) => text.as_str(),
            (None, [_]) => key,
            (None, _) => return Err(wrong_key(columns)),
        };
        parts.push((
            column.first.clone(),
            forms(text, column.type_name.as_deref()),
        ));
    }
    Ok(combine(&parts))
}

/// The column of a name: today's, else a former one.
fn called<'c>(columns: &'c [KeyColumn], name: &str) -> Option<&'c KeyColumn> {
    let now = columns.iter().find(|column| column.name() == name);
    now.or_else(|| columns.iter().find(|column| column.is_called(name)))
}

/// `a=x,b=y`: a value goes up to the next column, or is in double quotes.
fn split<'c>(key: &str, columns: &'c [KeyColumn]) -> Vec<(&'c KeyColumn, String)> {
    let column_at = |text: &str| {
        let (name, _) = text.split_once('=')?;
        let column = called(columns, name.trim())?;
        Some((column, name.len() + 1))
    };
    let mut given = Vec::new();
    let mut rest = key;
    while let Some((column, length)) = column_at(rest) {
        rest = &rest[length..];
        if let Some((text, behind)) = quoted(rest) {
            given.push((column, text));
            rest = behind;
            continue;
        }
        let commas = rest.match_indices(',').map(|(place, _)| place);
        let end = commas
            .into_iter()
            .find(|place| column_at(&rest[place + 1..]).is_some());
        let (text, behind) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, ""),
        };
        given.push((column, text.to_owned()));
        rest = behind;
    }
    given
}

/// A text in double quotes, in which `""` is one, and what is behind it and a comma; none where it is not written so.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let end = rest.find('"')?;
        out.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                out.push('"');
                rest = more;
            }
            None => break,
        }
    }
    match rest {
        "" => Some((out, "")),
        rest => Some((out, rest.strip_prefix(',')?)),
    }
}

/// Every combination of the forms.
fn combine(parts: &[(String, Vec<String>)]) -> Vec<Values> {
    let mut all: Vec<Values> = vec![Vec::new()];
    for (column, forms) in parts {
        all = all
            .iter()
            .flat_map(|values| {
                forms.iter().map(move |form| {
                    let mut values = values.clone();
                    values.push((column.clone(), form.clone()));
                    values
                })
            })
            .collect();
    }
    all
}

fn wrong_key(columns: &[KeyColumn]) -> Trouble {
    let names: Vec<&str> = columns.iter().map(KeyColumn::name).collect();
    let example: Vec<_> = names.iter().map(|name| format!("{name}=...")).collect();
    misconfigured(
        "KEY does not fit the table's key",
        format!(
            "The key's columns are {}: write {}; a value with a comma in double quotes, or all as JSON.",
            names.join(", "),
            example.join(",")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(names: &[&str], type_name: Option<&str>) -> KeyColumn {
        KeyColumn {
            first: names[0].to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            type_name: type_name.map(str::to_owned),
        }
    }

    fn told(key: &str, columns: &[KeyColumn]) -> Vec<String> {
        let all = meant(key, columns).unwrap();
        let text = |values: &Values| {
            let values = values.iter().map(|(name, value)| format!("{name}:{value}"));
            values.collect::<Vec<_>>().join(" ")
        };
        all.iter().map(text).collect()
    }

    #[test]
    fn keys_are_understood() {
        let id = [column(&["id"], None)];
        assert_eq!(told("42", &id), ["id:42", "id:\"42\""]);
        assert_eq!(told("id=ab", &id), ["id:\"ab\""]);
        assert_eq!(told("a,b=c", &id), ["id:\"a,b=c\""]);
        let id = [column(&["id", "customer_id"], Some("integer"))];
        for key in ["42", "id=42", "customer_id=42"] {
            assert_eq!(told(key, &id)[0], "id:42", "{key}");
        }
        let two = [column(&["a"], Some("text")), column(&["b"], Some("text"))];
        for key in [
            "a=x,y,b=z",
            "b=z,a=x,y",
            r#"a="x,y",b=z"#,
            r#"{"b": "z", "a": "x,y"}"#,
        ] {
            assert_eq!(told(key, &two), ["a:\"x,y\" b:\"z\""], "{key}");
        }
        assert_eq!(
            told(r#"a="x,b=1 ""q""",b=z"#, &two),
            [r#"a:"x,b=1 \"q\"" b:"z""#]
        );
        assert!(meant("1", &two).is_err());
        assert!(meant(r#"{"x": 1}"#, &two).is_err());
        // A name that another column has now is not a former one.
        let changed = [
            column(&["a", "b"], Some("text")),
            column(&["b", "a"], Some("text")),
        ];
        for key in ["a=x,b=y", r#"{"a":"x","b":"y"}"#] {
            assert_eq!(told(key, &changed), ["a:\"y\" b:\"x\""], "{key}");
        }
        let date = [column(&["d"], Some("date"))];
        assert!(told(r#"{"d": "2026-01-01"}"#, &date).contains(&"d:\"2026-01-01\"".to_owned()));
    }
}
