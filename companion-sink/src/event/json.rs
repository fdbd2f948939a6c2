//! What is read of JSON, and what cannot be read.

use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;

/// Why an event cannot be decoded; the text names the part, never a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string, borrowed unless it holds escapes. (`Cow` alone is always owned in serde.)
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Looks at the whole for UTF-8 first: that is faster than part by part.
pub(crate) fn parse<'a, T: Deserialize<'a>>(part: &str, json: &'a [u8]) -> Result<T, Malformed> {
    let text = std::str::from_utf8(json)
        .map_err(|error| Malformed(format!("the {part} is not UTF-8 ({error})")))?;
    serde_json::from_str(text).map_err(|error| undecodable(part, &error))
}

/// serde's message may quote what it found, so only the kind and the place are told.
pub(crate) fn undecodable(part: &str, error: &serde_json::Error) -> Malformed {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "is not an event",
        _ => "is not JSON",
    };
    Malformed(format!(
        "the {part} {kind} (line {}, column {})",
        error.line(),
        error.column()
    ))
}
