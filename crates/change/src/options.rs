//! What `cdc_track` was told about a table. The row trigger's arguments hold it: `\d` shows them, `pg_dump` keeps them.
//!
//! One argument for each option that is not the default: `topic=…`, `key=a,b`, `mask=email:hash,notes:truncate:20`. In
//! lists a backslash goes before a comma, colon or backslash that is part of a name.

use std::collections::BTreeMap;
use std::fmt;

/// The options of a tracked table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub topic: String,
    /// Topics of single operations; the others go to `topic`.
    pub topics: BTreeMap<Operation, String>,
    pub key: Vec<String>,
    pub operations: Operations,
    /// Columns that are shipped, if not all; one of the two is empty.
    pub include: Vec<String>,
    /// Columns that are not shipped.
    pub exclude: Vec<String>,
    pub mask: BTreeMap<String, Mask>,
    /// SQL condition on a row, empty for none.
    pub filter: String,
    /// An UPDATE that changes no shipped column makes no event.
    pub skip_unchanged: bool,
    /// Rows that a subscription applied are left out.
    pub local_only: bool,
    /// `<source id>/<database oid>` of the `cdc_track` that made the trigger.
    pub source: String,
}

/// What a statement does to rows, as a publication's `publish` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Operation {
    pub const ALL: [Operation; 4] = [
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::Truncate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Truncate => "truncate",
        }
    }

    pub fn parse(name: &str) -> Option<Operation> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
    }
}

/// The operations that are shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operations(Vec<Operation>);

impl Default for Operations {
    fn default() -> Self {
        Operations(Operation::ALL.to_vec())
    }
}

impl Operations {
    /// Reads `insert, update`; the name that is none as the error.
    pub fn parse(text: &str) -> Result<Operations, String> {
        let mut operations = Vec::new();
        for name in text.split(',').map(str::trim) {
            let operation =
                Operation::parse(&name.to_lowercase()).ok_or_else(|| name.to_owned())?;
            if !operations.contains(&operation) {
                operations.push(operation);
            }
        }
        operations.sort_unstable();
        Ok(Operations(operations))
    }

    pub fn contains(&self, operation: Operation) -> bool {
        self.0.contains(&operation)
    }

    /// The events of the row trigger: `INSERT OR DELETE OR UPDATE`; empty if there are none.
    pub fn row_events(&self) -> String {
        let rows = self
            .0
            .iter()
            .filter(|operation| **operation != Operation::Truncate);
        let names: Vec<String> = rows
            .map(|operation| operation.name().to_uppercase())
            .collect();
        names.join(" OR ")
    }
}

impl fmt::Display for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|operation| operation.name()).collect();
        f.write_str(&names.join(","))
    }
}

/// What is shipped instead of a column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// HMAC-SHA256 of the value's text: equal values stay equal.
    Hash,
    /// Nothing.
    Redact,
    /// The first characters of the value's text.
    Truncate(u32),
}

impl Mask {
    /// Reads `hash`, `redact` or `truncate:20`.
    pub fn parse(text: &str) -> Option<Mask> {
        match text.split_once(':') {
            None if text == "hash" => Some(Mask::Hash),
            None if text == "redact" => Some(Mask::Redact),
            Some(("truncate", characters)) => characters.parse().ok().map(Mask::Truncate),
            _ => None,
        }
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mask::Hash => f.write_str("hash"),
            Mask::Redact => f.write_str("redact"),
            Mask::Truncate(characters) => write!(f, "truncate:{characters}"),
        }
    }
}

impl Options {
    /// Reads the arguments of a trigger. What this version does not know is left out: a later version wrote it.
    pub fn parse<'a>(arguments: impl Iterator<Item = &'a str>) -> Options {
        let mut options = Options::default();
        for argument in arguments {
            let Some((name, value)) = argument.split_once('=') else {
                continue;
            };
            match name {
                "topic" => options.topic = value.to_owned(),
                "topics" => {
                    let pairs = split(value, ',').into_iter().filter_map(|pair| {
                        let (operation, topic) = pair.split_once(':')?;
                        Some((Operation::parse(operation)?, topic.to_owned()))
                    });
                    options.topics = pairs.collect();
                }
                "key" => options.key = split_names(value),
                "operations" => options.operations = Operations::parse(value).unwrap_or_default(),
                "include" => options.include = split_names(value),
                "exclude" => options.exclude = split_names(value),
                "mask" => {
                    let pairs = split(value, ',').into_iter().filter_map(|pair| {
                        let column = split(&pair, ':').into_iter().next()?;
                        let mask = pair.get(column.len() + 1..)?;
                        Some((unescape(&column), Mask::parse(mask)?))
                    });
                    options.mask = pairs.collect();
                }
                "filter" => options.filter = value.to_owned(),
                "skip_unchanged" => options.skip_unchanged = value == "true",
                "origin" => options.local_only = value == "local",
                "source" => options.source = value.to_owned(),
                _ => {}
            }
        }
        options
    }

    /// The arguments of the trigger, in the order in which `\d` shows them.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("topic={}", self.topic)];
        let mut add = |name: &str, value: String| {
            if !value.is_empty() {
                arguments.push(format!("{name}={value}"));
            }
        };
        let topics = self
            .topics
            .iter()
            .map(|(operation, topic)| format!("{}:{topic}", operation.name()));
        add("topics", join(topics));
        add("key", join_names(&self.key));
        if self.operations != Operations::default() {
            add("operations", self.operations.to_string());
        }
        add("include", join_names(&self.include));
        add("exclude", join_names(&self.exclude));
        let masks = self
            .mask
            .iter()
            .map(|(column, mask)| format!("{}:{mask}", escape(column)));
        add("mask", join(masks));
        add("filter", self.filter.clone());
        add(
            "skip_unchanged",
            if self.skip_unchanged {
                "true".to_owned()
            } else {
                String::new()
            },
        );
        add(
            "origin",
            if self.local_only {
                "local".to_owned()
            } else {
                String::new()
            },
        );
        add("source", self.source.clone());
        arguments
    }

    /// Whether a column is shipped.
    pub fn ships(&self, column: &str) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == column);
        if self.include.is_empty() {
            !named(&self.exclude)
        } else {
            named(&self.include)
        }
    }

    /// The topic of an operation's events.
    pub fn topic_of(&self, operation: Operation) -> &str {
        self.topics.get(&operation).unwrap_or(&self.topic)
    }
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

fn join_names(names: &[String]) -> String {
    join(names.iter().map(|name| escape(name)))
}

fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        if matches!(character, ',' | ':' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn unescape(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => name.extend(characters.next()),
            character => name.push(character),
        }
    }
    name
}

/// The parts between separators that no backslash escapes, as they stand; no empty ones.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == separator && !escaped {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(character);
        }
        escaped = character == '\\' && !escaped;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn split_names(text: &str) -> Vec<String> {
    split(text, ',').iter().map(|name| unescape(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[a-z,:=\\\\ ü]{1,6}", 0..4)
    }

    proptest! {
        #[test]
        fn arguments_read_back(
            key in names(), include in names(), exclude in names(), masked in names(),
            operations in proptest::sample::subsequence(Operation::ALL.to_vec(), 1..=4),
            filter in "[a-z=' ]*", skip_unchanged: bool, local_only: bool, characters: u32,
        ) {
            let masks = [Mask::Hash, Mask::Redact, Mask::Truncate(characters)];
            let options = Options {
                topic: "shop.public.t".into(),
                topics: [(Operation::Insert, "created".into())].into(),
                key, include, exclude, filter, skip_unchanged, local_only,
                operations: Operations(operations),
                mask: masked.into_iter().zip(masks.into_iter().cycle()).collect(),
                source: "0-1/5".into(),
            };
            let arguments = options.arguments();
            prop_assert_eq!(Options::parse(arguments.iter().map(String::as_str)), options);
        }
    }

    #[test]
    fn what_is_shown_is_what_was_said() {
        let options = Options {
            topic: "shop.public.customer".into(),
            key: vec!["id".into()],
            mask: [
                ("email".into(), Mask::Hash),
                ("notes".into(), Mask::Truncate(20)),
            ]
            .into(),
            source: "6f0c/16401".into(),
            ..Options::default()
        };
        assert_eq!(
            options.arguments(),
            [
                "topic=shop.public.customer",
                "key=id",
                "mask=email:hash,notes:truncate:20",
                "source=6f0c/16401"
            ]
        );
        assert_eq!(
            Operations::parse("update, INSERT").unwrap().row_events(),
            "INSERT OR UPDATE"
        );
        assert_eq!(
            Operations::parse("insert, upsert"),
            Err("upsert".to_owned())
        );
        assert_eq!(Mask::parse("truncate:x"), None);
    }
}
