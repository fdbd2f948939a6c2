//! What an update changed, column by column. A create and a delete have no diff: their one image says it all.

use mongodb::bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::sink::mongo_history::documents::bson_value::{Names, value_in};
use crate::sink::mongo_history::documents::column_types::ColumnTypes;

/// The differences of two images. `is_masked` columns tell that they differ, not what they hold.
pub(crate) fn diff(
    before: &Image<'_>,
    after: &Image<'_>,
    types: Option<&ColumnTypes>,
    is_masked: impl Fn(&str) -> bool,
    names: Names,
) -> Result<RawArrayBuf, Malformed> {
    let mut out = RawArrayBuf::new();
    for (place, (name, new)) in after.0.iter().enumerate() {
        // Both images nearly always have the same columns in the same order.
        let old = match before.0.get(place) {
            Some((same, old)) if same == name => Some(*old),
            _ => before.get(name),
        };
        let mut entry = match old {
            Some(old) if old.get() == new.get() => continue,
            _ => start(name, types),
        };
        match old {
            _ if is_masked(name) => entry.append("kind", "masked"),
            Some(old) => {
                entry.append("from", value_in(old, name, types, names)?);
                entry.append("to", value_in(new, name, types, names)?);
                entry.append("kind", "changed");
            }
            None => {
                entry.append("to", value_in(new, name, types, names)?);
                entry.append("kind", "added");
            }
        }
        out.push(entry);
    }
    for (name, old) in &before.0 {
        if after.get(name).is_none() {
            let mut entry = start(name, types);
            if is_masked(name) {
                entry.append("kind", "masked");
            } else {
                entry.append("from", value_in(old, name, types, names)?);
                entry.append("kind", "removed");
            }
            out.push(entry);
        }
    }
    Ok(out)
}

fn start(name: &str, types: Option<&ColumnTypes>) -> RawDocumentBuf {
    let mut entry = rawdoc! { "path": name };
    match types.and_then(|types| types.get(name)) {
        Some(type_name) => entry.append("type", type_name.as_str()),
        None => entry.append("type", mongodb::bson::RawBson::Null),
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &str, after: &str) -> Vec<String> {
        let before = Image::parse(before.as_bytes()).unwrap();
        let after = Image::parse(after.as_bytes()).unwrap();
        let types = [("city".to_owned(), "text".to_owned())]
            .into_iter()
            .collect();
        diff(
            &before,
            &after,
            Some(&types),
            |name| name == "iban",
            Names::AsTheyAre,
        )
        .unwrap()
        .into_iter()
        .map(|entry| {
            format!(
                "{:?}",
                entry
                    .unwrap()
                    .as_document()
                    .unwrap()
                    .to_raw_document_buf()
                    .to_document()
                    .unwrap()
            )
        })
        .collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let out = told(r#"{"id":1,"city":"Basel"}"#, r#"{"id":1,"city":"Bern"}"#);
        assert_eq!(out.len(), 1);
        for part in ["city", "text", "Basel", "Bern", "changed"] {
            assert!(out[0].contains(part), "{out:?}");
        }
    }

    #[test]
    fn columns_come_and_go() {
        let out = told(r#"{"id":1,"old":2}"#, r#"{"id":1,"new":null}"#);
        assert!(
            out[0].contains("added") && out[1].contains("removed"),
            "{out:?}"
        );
    }

    #[test]
    fn a_masked_column_is_told_without_its_values() {
        let out = told(r#"{"iban":"hmac:1"}"#, r#"{"iban":"hmac:2"}"#);
        assert!(
            out[0].contains("masked") && !out[0].contains("hmac"),
            "{out:?}"
        );
    }
}
