//! Which keys `companion-sink.toml` may have. A key that is not here is an error with its place and the nearest name:
//! a misspelt setting never passes unseen.

use toml::de::{DeTable, DeValue};

use crate::config::units::{parse_duration, parse_size};
use crate::error::{Error, Result};

/// A key and what it takes.
pub struct Key {
    /// The name in its table.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
}

/// What a key takes.
pub enum Takes {
    /// Any text.
    Text,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// A duration such as `"5s"`.
    Duration,
    /// A size such as `"64MB"`.
    Size,
    /// `true` or `false`.
    Bool,
    /// A whole number from 1 on.
    Count,
    /// A list of texts.
    List,
    /// A table of texts by any names.
    Texts,
    /// A table of keys.
    Table(&'static [Key]),
    /// Any number of tables of these keys: `[[name]]`.
    Tables(&'static [Key]),
    /// `[sink.NAME]`: any name, the keys depend on `kind`.
    Sinks,
}

use Takes::*;

const fn key(name: &'static str, takes: Takes) -> Key {
    Key { name, takes }
}

/// The keys of the file's top level.
pub const TOP: &[Key] = &[
    key("name", Text),
    key(
        "log",
        Table(&[
            key("level", OneOf(&["error", "warn", "info", "debug", "trace"])),
            key("format", OneOf(&["auto", "text", "json"])),
        ]),
    ),
    key(
        "kafka",
        Table(&[
            key("brokers", Text),
            key("source", Text),
            key("config_file", Text),
            key("fetch_memory", Size),
        ]),
    ),
    key("source", Table(&[key("url", Text), key("url_file", Text)])),
    key(
        "http",
        Table(&[
            key("listen", Text),
            key("token_file", Text),
            key("peers", List),
        ]),
    ),
    key(
        "dead_letters",
        Table(&[
            key("retention", Duration),
            key("max_parked_keys_per_minute", Count),
        ]),
    ),
    key(
        "rule",
        Tables(&[
            key("topic", Text),
            key("name", Text),
            key("reject_if", Text),
            key("sinks", List),
        ]),
    ),
    key("sink", Sinks),
];

const BATCH: Takes = Table(&[key("rows", Count), key("wait", Duration)]);

/// The values of `kind`.
pub const KINDS: &[&str] = &["mongo-history", "postgres"];

const MONGO_HISTORY: &[Key] = &[
    key("kind", OneOf(KINDS)),
    key("enabled", Bool),
    key("topics", List),
    key("batch", BATCH),
    key("stuck_after", Duration),
    key("url", Text),
    key("url_file", Text),
    key("database", Text),
    key("collection", Text),
    key("several_topics", List),
];

const POSTGRES: &[Key] = &[
    key("kind", OneOf(KINDS)),
    key("enabled", Bool),
    key("topics", List),
    key("batch", BATCH),
    key("stuck_after", Duration),
    key("url", Text),
    key("url_file", Text),
    key("consistency", OneOf(&["row", "transaction"])),
    key("schema", Text),
    key("tables", Texts),
    key("columns", Texts),
    key("create_tables", Bool),
    key("follow_schema", OneOf(&["all", "add", "halt"])),
    key("on_error", OneOf(&["halt", "park"])),
    key("truncate", OneOf(&["truncate", "delete"])),
    key("state_schema", Text),
    key("schemas", List),
    key("several_topics", List),
];

/// The keys of a sink of `kind`.
pub fn of_kind(kind: &str) -> Option<&'static [Key]> {
    match kind {
        "mongo-history" => Some(MONGO_HISTORY),
        "postgres" => Some(POSTGRES),
        _ => None,
    }
}

/// Checks every key and every value of the file `name` with the content `text`.
pub fn check(name: &str, text: &str) -> Result<()> {
    let file = File { name, text };
    let root = DeTable::parse(text).map_err(|error| {
        let place = error.span().map_or(0, |span| span.start);
        file.error(place, error.message().to_owned(), "Mend the TOML there.")
    })?;
    file.check_table(root.get_ref(), TOP, "")
}

struct File<'t> {
    name: &'t str,
    text: &'t str,
}

impl File<'_> {
    fn check_table(&self, table: &DeTable<'_>, keys: &'static [Key], path: &str) -> Result<()> {
        for (name, value) in table {
            let full = join(path, name.get_ref());
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref()) else {
                let names = keys.iter().map(|key| key.name);
                return Err(self.unknown(name.span().start, &full, name.get_ref(), names));
            };
            self.check_value(value.get_ref(), &key.takes, &full, value.span().start)?;
        }
        Ok(())
    }

    fn check_value(&self, value: &DeValue<'_>, takes: &Takes, path: &str, at: usize) -> Result<()> {
        let wants = |what: &str| {
            Err(self.error(
                at,
                format!("{path} takes {what}"),
                "Change the value there; `companion-sink config --defaults` shows every key.",
            ))
        };
        match takes {
            Text if value.is_str() => Ok(()),
            Text => wants("a text in quotes"),
            OneOf(texts) => match value.as_str() {
                Some(text) if texts.contains(&text) => Ok(()),
                _ => wants(&format!("one of {}", texts.join(", "))),
            },
            Takes::Duration => match value.as_str().and_then(parse_duration) {
                Some(_) => Ok(()),
                None => wants("a duration such as \"5s\""),
            },
            Size => match value.as_str().and_then(parse_size) {
                Some(_) => Ok(()),
                None => wants("a size such as \"64MB\""),
            },
            Bool if value.is_bool() => Ok(()),
            Bool => wants("true or false"),
            Count => match value.as_integer().map(|number| number.as_str().parse()) {
                Some(Ok(1u32..)) => Ok(()),
                _ => wants("a whole number from 1 on"),
            },
            List => match value.as_array() {
                Some(items) if items.iter().all(|item| item.get_ref().is_str()) => Ok(()),
                _ => wants("a list of texts"),
            },
            Texts => match value.as_table() {
                Some(table) if table.values().all(|item| item.get_ref().is_str()) => Ok(()),
                _ => wants("a table of texts"),
            },
            Table(keys) => match value.as_table() {
                Some(table) => self.check_table(table, keys, path),
                None => wants("a table"),
            },
            Tables(keys) => {
                let items = value.as_array().map(|items| items.iter());
                let tables = items.map(|items| items.map(|item| item.get_ref().as_table()));
                match tables.and_then(Iterator::collect::<Option<Vec<_>>>) {
                    Some(mut tables) => tables
                        .drain(..)
                        .try_for_each(|table| self.check_table(table, keys, path)),
                    None => wants(&format!("tables: write [[{path}]]")),
                }
            }
            Sinks => match value.as_table() {
                Some(sinks) => self.check_sinks(sinks, path),
                None => wants("tables, one for each sink"),
            },
        }
    }

    fn check_sinks(&self, sinks: &DeTable<'_>, path: &str) -> Result<()> {
        for (name, sink) in sinks {
            let path = join(path, name.get_ref());
            let at = name.span().start;
            let Some(table) = sink.get_ref().as_table() else {
                return Err(self.error(at, format!("{path} takes a table"), "Write [sink.NAME]."));
            };
            let kind = table
                .get("kind")
                .map(|kind| (kind.span().start, kind.get_ref().as_str()));
            let keys = match kind {
                // A kind that comes from the environment is checked after merging.
                None => continue,
                Some((at, Some(kind))) => of_kind(kind).ok_or_else(|| {
                    self.unknown(
                        at,
                        &format!("{path}.kind = {kind}"),
                        kind,
                        KINDS.iter().copied(),
                    )
                })?,
                Some((at, None)) => {
                    return Err(self.error(at, format!("{path}.kind takes a text"), kinds_hint()));
                }
            };
            self.check_table(table, keys, &path)?;
        }
        Ok(())
    }

    fn unknown(
        &self,
        at: usize,
        path: &str,
        name: &str,
        known: impl Iterator<Item = &'static str> + Clone,
    ) -> Error {
        let nearest = nearest(name, known.clone());
        let meant = nearest.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
        let hint = format!("Known here: {}.", known.collect::<Vec<_>>().join(", "));
        self.error(at, format!("unknown key \"{path}\"{meant}"), hint)
    }

    fn error(&self, at: usize, what: String, hint: impl Into<String>) -> Error {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Error::configuration(format!("{}:{line}:{column}: {what}", self.name), hint)
    }
}

/// The hint that names the kinds of sinks.
pub fn kinds_hint() -> String {
    format!("Known kinds: {}.", KINDS.join(", "))
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// The name that is fewest edits away, if it is near enough to be meant.
pub fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_char) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b_char) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a_char != *b_char);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        check("companion-sink.toml", text).unwrap_err().what
    }

    #[test]
    fn an_unknown_key_is_told_with_its_place_and_the_nearest_name() {
        assert_eq!(
            message("[kafka]\nbrokers = \"b\"\n  brokres = \"x\"\n"),
            "companion-sink.toml:3:3: unknown key \"kafka.brokres\", did you mean \"brokers\"?"
        );
        assert!(
            message("[sink.a]\nkind = \"postgres\"\ndatabase = \"x\"\n")
                .contains("sink.a.database")
        );
        assert!(message("[sink.a]\nkind = \"postgers\"\n").contains("did you mean \"postgres\"?"));
        assert!(message("nonsense = 1").ends_with("unknown key \"nonsense\""));
        assert_eq!(
            message("[[rule]]\nname = \"a\"\n[[rule]]\n  rejectif = \"true\"\n"),
            "companion-sink.toml:4:3: unknown key \"rule.rejectif\", did you mean \"reject_if\"?"
        );
        assert!(message("[rule]\nname = \"a\"\n").contains("write [[rule]]"));
    }

    #[test]
    fn a_wrong_value_is_told_with_its_place() {
        assert!(
            message("[kafka]\nfetch_memory = 5")
                .starts_with("companion-sink.toml:2:16: kafka.fetch_memory takes a size")
        );
        assert!(
            message("[sink.a]\nkind = \"postgres\"\nbatch = { rows = 0 }")
                .contains("sink.a.batch.rows")
        );
        assert!(message("a = ").starts_with("companion-sink.toml:1:"));
    }
}
