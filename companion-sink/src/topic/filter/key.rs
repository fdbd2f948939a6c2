//! Which records have the key that somebody asked for.

use std::collections::HashMap;

use change::event::headers::HeaderName;
use change::trouble::Trouble;
use serde_json::Value;

use crate::error::Result;
use crate::event::image::Image;
use crate::history::key::{KeyColumn, Values, meant};
use crate::kafka::record::Record;

/// A KEY as the history takes it: `42`, `a=1,b=2` or JSON. Its columns are those that a record's key has.
#[derive(Debug)]
pub(crate) struct KeyFilter {
    key: String,
    /// What the key means for these columns.
    known: HashMap<Vec<String>, Result<Vec<Values>>>,
}

impl KeyFilter {
    pub(crate) fn new(key: &str) -> KeyFilter {
        KeyFilter {
            key: key.to_owned(),
            known: HashMap::new(),
        }
    }

    /// Whether a record has the key, or its row has it as identity.
    pub(crate) fn accepts(&mut self, record: &Record) -> bool {
        let identity = record.header(HeaderName::IDENTITY.as_str());
        let key = record.key().and_then(|key| std::str::from_utf8(key).ok());
        [key, identity]
            .into_iter()
            .flatten()
            .any(|key| self.is_meant(key))
    }

    /// Why no record can have the key, if no key that was seen has columns that fit it.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let mut all = self.known.values();
        let first = all.next()?.as_ref().err()?;
        all.all(Result::is_err).then(|| first.clone())
    }

    fn is_meant(&mut self, key: &str) -> bool {
        if key == self.key {
            return true;
        }
        let Ok(image) = Image::parse(key.as_bytes()) else {
            return false;
        };
        let names: Vec<String> = image.0.iter().map(|(name, _)| name.to_string()).collect();
        let wanted = &self.key;
        let meant = self.known.entry(names).or_insert_with_key(|names| {
            let columns: Vec<KeyColumn> = names.iter().map(|name| column(name)).collect();
            meant(wanted, &columns)
        });
        let has = |column: &str, wanted: &str| {
            let value = image.get(column).map(|value| value.get());
            value.is_some_and(|value| value == wanted || is_same(value, wanted))
        };
        meant.iter().flatten().any(|values| {
            let mut values = values.iter();
            values.all(|(column, wanted)| has(column, wanted))
        })
    }
}

/// Texts have several spellings as JSON.
fn is_same(one: &str, other: &str) -> bool {
    let parse = |json: &str| serde_json::from_str::<Value>(json).ok();
    one.starts_with('"') && parse(one).is_some_and(|one| Some(one) == parse(other))
}

fn column(name: &str) -> KeyColumn {
    KeyColumn {
        first: name.to_owned(),
        names: vec![name.to_owned()],
        type_name: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(filter: &mut KeyFilter, key: &str, identity: Option<&str>) -> bool {
        let headers = identity.map(|identity| ("cdc.identity", Some(identity.as_bytes())));
        let key = Some(key.as_bytes());
        filter.accepts(&Record::new(
            "t".into(),
            0,
            0,
            key,
            None,
            headers.into_iter(),
        ))
    }

    #[test]
    fn a_key_is_meant_as_the_history_takes_it() {
        for (wanted, key, has) in [
            ("42", r#"{"id":42}"#, true),
            ("42", r#"{"id":"42"}"#, true),
            ("id=42", r#"{"id":42}"#, true),
            (r#"{"id":42}"#, r#"{"id":42}"#, true),
            ("42", r#"{"id":421}"#, false),
            ("a=1,b=x", r#"{"a":1,"b":"x"}"#, true),
            ("b=x,a=1", r#"{"a":1,"b":"x"}"#, true),
            ("ä/", r#"{"id":"\u00e4\/"}"#, true),
            ("plain text", "plain text", true),
            ("plain", "plain text", false),
        ] {
            let mut filter = KeyFilter::new(wanted);
            assert_eq!(accepts(&mut filter, key, None), has, "{wanted} {key}");
        }
        let mut filter = KeyFilter::new("7");
        assert!(accepts(
            &mut filter,
            r#"{"city":"Bern"}"#,
            Some(r#"{"id":7}"#)
        ));
        let no_key = Record::new("t".into(), 0, 0, None, None, std::iter::empty());
        assert!(!filter.accepts(&no_key));
    }

    #[test]
    fn a_key_that_fits_nothing_that_was_seen_is_told() {
        let mut filter = KeyFilter::new("a=1");
        assert!(filter.trouble().is_none(), "nothing was seen");
        assert!(!accepts(&mut filter, r#"{"a":1,"b":2}"#, None));
        let trouble = filter.trouble().unwrap();
        assert!(trouble.remedy.contains("a, b"), "{}", trouble.remedy);
        assert!(accepts(&mut filter, r#"{"a":1}"#, None));
        assert!(filter.trouble().is_none());
    }
}
