//! KEY of a command or a request: which row is meant.

use crate::error::{Error, Result};

/// The identities that `key` can mean, as the events write them: `42` may be a number or a text.
pub fn identities(key: &str, columns: &[String]) -> Result<Vec<String>> {
    if key.starts_with('{') {
        let object: serde_json::Value =
            serde_json::from_str(key).map_err(|_| wrong_key(columns))?;
        let parts: Option<Vec<_>> = columns
            .iter()
            .map(|column| Some((column.as_str(), vec![object.get(column)?.to_string()])))
            .collect();
        return Ok(combine(&parts.ok_or_else(|| wrong_key(columns))?));
    }
    let texts: Vec<(&str, &str)> = match columns {
        [column] if !key.starts_with(&format!("{column}=")) => vec![(column.as_str(), key)],
        _ => {
            let given: Option<Vec<(&str, &str)>> =
                key.split(',').map(|part| part.split_once('=')).collect();
            let given = given.ok_or_else(|| wrong_key(columns))?;
            let all: Option<Vec<_>> = columns
                .iter()
                .map(|column| {
                    let found = given.iter().find(|(name, _)| name.trim() == column);
                    found.map(|(_, value)| (column.as_str(), *value))
                })
                .collect();
            all.ok_or_else(|| wrong_key(columns))?
        }
    };
    let parts: Vec<_> = texts
        .into_iter()
        .map(|(column, text)| {
            let mut forms = vec![serde_json::Value::from(text).to_string()];
            let is_json = matches!(
                serde_json::from_str(text),
                Ok(serde_json::Value::Number(_) | serde_json::Value::Bool(_))
            );
            if is_json {
                forms.push(text.to_owned());
            }
            (column, forms)
        })
        .collect();
    Ok(combine(&parts))
}

/// Every combination of the forms, each as a JSON object.
fn combine(parts: &[(&str, Vec<String>)]) -> Vec<String> {
    let mut bodies = vec![String::new()];
    for (column, forms) in parts {
        bodies = bodies
            .iter()
            .flat_map(|body| {
                let comma = if body.is_empty() { "" } else { "," };
                let name = serde_json::Value::from(*column);
                forms
                    .iter()
                    .map(move |form| format!("{body}{comma}{name}:{form}"))
            })
            .collect();
    }
    bodies
        .into_iter()
        .map(|body| format!("{{{body}}}"))
        .collect()
}

fn wrong_key(columns: &[String]) -> Error {
    let example: Vec<_> = columns
        .iter()
        .map(|column| format!("{column}=..."))
        .collect();
    Error::configuration(
        "KEY does not fit the table's key",
        format!(
            "The key's columns are {}: write {}.",
            columns.join(", "),
            example.join(",")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn keys_are_understood() {
        assert_eq!(
            identities("42", &names(&["id"])).unwrap(),
            [r#"{"id":"42"}"#, r#"{"id":42}"#]
        );
        assert_eq!(
            identities("id=ab", &names(&["id"])).unwrap(),
            [r#"{"id":"ab"}"#]
        );
        assert_eq!(
            identities(r#"{"b": "x", "a": 1}"#, &names(&["a", "b"])).unwrap(),
            [r#"{"a":1,"b":"x"}"#]
        );
        assert!(
            identities("a=1,b=2", &names(&["a", "b"]))
                .unwrap()
                .contains(&r#"{"a":1,"b":2}"#.to_owned())
        );
        assert!(identities("1", &names(&["a", "b"])).is_err());
    }
}
