//! The image of a row, or its key.

use crate::event::json::Malformed;
use crate::event::json::Text;
use crate::event::json::parse;
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::Visitor;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The columns of a row in their order, each value still as JSON text.
#[derive(Debug, Default)]
pub(crate) struct Image<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Image<'a> {
    /// Parses a JSON object such as a record's key.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, Malformed> {
        parse("key", json)
    }

    /// The JSON of column `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(column, _)| column == name)
            .map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Image<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Image<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of columns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut columns = Vec::with_capacity(16);
                while let Some(Text(name)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    if is_too_deep(value.get()) {
                        return Err(serde::de::Error::custom("a value is nested too deep"));
                    }
                    columns.push((name, value));
                }
                Ok(Image(columns))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// Whether a value holds others in more levels than are followed: each takes a part of the stack. (MongoDB takes 100 itself, an
/// array of PostgreSQL has 6.)
pub(crate) fn is_too_deep(json: &str) -> bool {
    const DEEPEST: usize = 100;
    if !json.starts_with(['[', '{']) {
        return false;
    }
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEEPEST {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
