//! Where in an event a value is: `after.account`, `value.order.total`, `after."odd name"`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::nearest::nearest;

const ROOTS: [(&str, Root); 4] = [
    ("after", Root::After),
    ("value", Root::Value),
    ("audit", Root::Audit),
    ("op", Root::Op),
];

/// The part of an event that a path begins at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// The row as it is now.
    After,
    /// What an application's own event holds.
    Value,
    /// Who and why.
    Audit,
    /// What happened.
    Op,
}

/// Where in an event a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    text: String,
    /// The part that it begins at.
    pub(crate) root: Root,
    /// The members from there on; none for `op`.
    pub(crate) names: Vec<String>,
}

impl Path {
    /// Reads a path; what is wrong with it is told in words.
    pub(crate) fn parse(text: &str) -> Result<Path, String> {
        let parts = split(text).ok_or_else(|| no_path(text))?;
        let (first, names) = parts.split_first().ok_or_else(|| no_path(text))?;
        let found = ROOTS.iter().find(|(name, _)| name == first);
        let Some((_, root)) = found else {
            if first == "before" {
                return Err("figures are of rows as they are now: use after".to_owned());
            }
            let near = nearest(first, ROOTS.iter().map(|(name, _)| *name));
            let meant = near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
            return Err(format!(
                "\"{text}\" is no path of an event{meant} (after.COLUMN, value.NAME, audit.NAME and op are there)"
            ));
        };
        if names.is_empty() != (*root == Root::Op) {
            return Err(no_path(text));
        }
        Ok(Path {
            text: text.to_owned(),
            root: *root,
            names: names.to_vec(),
        })
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Its last part: the name of its column in answers.
    pub(crate) fn name(&self) -> &str {
        self.names.last().map_or("op", String::as_str)
    }
}

fn no_path(text: &str) -> String {
    format!("\"{text}\" is no path of an event, such as after.account or value.order.total")
}

/// The parts between dots; one in quotation marks may have anything in it.
fn split(text: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                let (part, behind) = rest.split_at(end);
                let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
                if !part.chars().all(is_plain) {
                    return None;
                }
                (part, behind)
            }
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part.to_owned());
        if behind.is_empty() {
            return Some(parts);
        }
        rest = behind.strip_prefix('.')?;
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Path::parse(&text).map_err(D::Error::custom)
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        let path = Path::parse("after.\"odd.name\".x").unwrap();
        assert_eq!(
            (path.root, path.name(), path.names.len()),
            (Root::After, "x", 2)
        );
        assert_eq!(Path::parse("op").unwrap().name(), "op");
        for (wrong, told) in [
            ("aftr.account", "did you mean \"after\"?"),
            ("before.account", "use after"),
            ("account", "is no path"),
            ("after", "is no path"),
            ("op.x", "is no path"),
            ("after.", "is no path"),
            ("after.a b", "is no path"),
            ("after.a + 1", "is no path"),
            ("", "is no path"),
        ] {
            let error = Path::parse(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
