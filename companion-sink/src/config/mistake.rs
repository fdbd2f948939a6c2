//! What is wrong with the file, and where: which keys there may be, and what they take, the types of the configuration say.

use std::path::Path;

use change::trouble::Trouble;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::config::nearest::nearest;
use crate::error::{Result, misconfigured};

/// The content of a file.
pub(crate) struct FileText<'t> {
    file_name: &'t str,
    content: &'t str,
}

/// One step from the top to a key.
#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Index(usize),
}

impl<'t> FileText<'t> {
    /// The content of a file.
    pub(crate) fn new(file_name: &'t str, content: &'t str) -> Self {
        FileText { file_name, content }
    }

    /// The keys and values as they stand there.
    pub(crate) fn parse(&self) -> Result<Table> {
        self.content.parse().map_err(|error: toml::de::Error| {
            let place = error.span().map_or(0, |span| span.start);
            self.error(
                Some(place),
                error.message().to_owned(),
                "Mend the TOML there.",
            )
        })
    }

    /// Fails at the first key of `table` that is not among the `known` ones: a misspelt setting never passes unseen.
    pub(crate) fn check_keys(&self, table: &Table, known: &Table) -> Result<()> {
        match unknown(table, known, Vec::new()) {
            None => Ok(()),
            Some((path, names)) => {
                let name = match path.last() {
                    Some(Step::Key(name)) => name.as_str(),
                    _ => "",
                };
                let near = nearest(name, names.iter().map(String::as_str));
                let meant =
                    near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
                Err(self.error(
                    self.place(&path, Spot::Name),
                    format!("unknown key \"{}\"{meant}", shown(&path)),
                    format!("Known here: {}.", names.join(", ")),
                ))
            }
        }
    }

    /// A value of `table` that its key does not take, as `message` says.
    pub(crate) fn wrong_value(&self, table: &Table, message: &str) -> Trouble {
        let path = culprit(table, message);
        let name = shown(&path);
        let meant = meant_variant(message);
        let what = match (name.is_empty(), message.starts_with("takes ")) {
            (true, _) => message.to_owned(),
            (false, true) => format!("{name} {message}"),
            (false, false) => format!("{name}: {message}{meant}"),
        };
        self.error(
            self.place(&path, Spot::Value),
            what,
            "Change the value there; `companion-sink config --defaults` shows every key.",
        )
    }

    /// Where the name or the value of a key stands; none for one of the environment.
    fn place(&self, path: &[Step], part: Spot) -> Option<usize> {
        let root = DeTable::parse(self.content).ok()?;
        let (first, rest) = path.split_first()?;
        let Step::Key(first) = first else { return None };
        let (name, mut value) = root.get_ref().get_key_value(first.as_str())?;
        let mut name = name.span().start;
        for step in rest {
            value = match (step, value.get_ref()) {
                (Step::Key(key), DeValue::Table(table)) => {
                    let (key, value) = table.get_key_value(key.as_str())?;
                    name = key.span().start;
                    value
                }
                (Step::Index(index), DeValue::Array(items)) => items.get(*index)?,
                _ => return None,
            };
        }
        Some(match part {
            Spot::Name => name,
            Spot::Value => value.span().start,
        })
    }

    /// A mistake whose text begins with a key of a sink, such as `sink.hook.body: …` or `sink.hook: body: …`, with the place where
    /// that stands, or else what it is in.
    fn placed(&self, error: Trouble) -> Trouble {
        let file = format!("{}: ", self.file_name);
        let told = error.message.strip_prefix(&file).unwrap_or(&error.message);
        if !told.starts_with("sink.") {
            return error;
        }
        let (path, rest) = told.split_once([':', ' ']).unwrap_or((told, ""));
        let is_key = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let more = rest.trim_start().split_once(':').map(|(name, _)| name);
        let keys = path.split('.').chain(more.filter(is_key));
        let mut steps: Vec<Step> = keys.map(|key| Step::Key(key.to_owned())).collect();
        while steps.len() > 2 && self.place(&steps, Spot::Value).is_none() {
            steps.pop();
        }
        let place = self.place(&steps, Spot::Value);
        let place = place.map_or(file, |place| self.shown_place(place));
        Trouble {
            message: format!("{place}{told}"),
            ..error
        }
    }

    fn error(&self, place: Option<usize>, what: String, hint: impl Into<String>) -> Trouble {
        let Some(place) = place else {
            return misconfigured(format!("{} and environment: {what}", self.file_name), hint);
        };
        misconfigured(format!("{}{what}", self.shown_place(place)), hint)
    }

    /// A place as what is wrong there begins.
    fn shown_place(&self, place: usize) -> String {
        let before = &self.content[..place.min(self.content.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{}:{line}:{column}: ", self.file_name)
    }
}

/// A mistake in a file with the line of the key that its text begins with.
pub(crate) fn with_place(file: &Path, error: Trouble) -> Trouble {
    let (name, text) = (file.display().to_string(), std::fs::read_to_string(file));
    let content = text.unwrap_or_default();
    FileText::new(&name, &content).placed(error)
}

#[derive(Clone, Copy)]
enum Spot {
    Name,
    Value,
}

/// A path as people write it.
fn shown(path: &[Step]) -> String {
    let names = path.iter().filter_map(|step| match step {
        Step::Key(name) => Some(name.as_str()),
        Step::Index(_) => None,
    });
    names.collect::<Vec<_>>().join(".")
}

/// The first key of `table` that `known` does not have, and those that it has there.
fn unknown(table: &Table, known: &Table, path: Vec<Step>) -> Option<(Vec<Step>, Vec<String>)> {
    for (name, value) in table {
        let mut path = path.clone();
        path.push(Step::Key(name.clone()));
        let found = match (value, known.get(name)) {
            (_, None) => return Some((path, known.keys().cloned().collect())),
            (Value::Table(table), Some(Value::Table(known))) => unknown(table, known, path),
            (Value::Array(items), Some(Value::Array(known))) => items
                .iter()
                .zip(known)
                .enumerate()
                .find_map(|(index, items)| {
                    let (Value::Table(table), Value::Table(known)) = items else {
                        return None;
                    };
                    let mut path = path.clone();
                    path.push(Step::Index(index));
                    unknown(table, known, path)
                }),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The key whose value brings the error `message`: without it there is none, or another one.
fn culprit(root: &Table, message: &str) -> Vec<Step> {
    let mut path = Vec::new();
    while let Some(step) = steps(at(root, &path)).into_iter().find(|step| {
        let mut without = root.clone();
        remove(&mut without, &path, step);
        let error = without.try_into::<crate::config::file::Config>().err();
        error.is_none_or(|error| error.message() != message)
    }) {
        path.push(step);
    }
    path
}

/// What is below a value; the kind of a sink last, for without it nothing is known of its keys.
fn steps(value: Option<Value>) -> Vec<Step> {
    match value {
        Some(Value::Table(table)) => {
            let mut names: Vec<String> = table.keys().cloned().collect();
            names.sort_by_key(|name| name == "kind");
            names.into_iter().map(Step::Key).collect()
        }
        Some(Value::Array(items)) => (0..items.len()).map(Step::Index).collect(),
        _ => Vec::new(),
    }
}

fn at(root: &Table, path: &[Step]) -> Option<Value> {
    path.iter()
        .try_fold(Value::Table(root.clone()), |value, step| match step {
            Step::Key(name) => value.get(name).cloned(),
            Step::Index(index) => value.get(*index).cloned(),
        })
}

fn remove(root: &mut Table, path: &[Step], last: &Step) {
    let mut whole = Value::Table(std::mem::take(root));
    let mut value = Some(&mut whole);
    for step in path {
        value = value.and_then(|value| match step {
            Step::Key(name) => value.get_mut(name),
            Step::Index(index) => value.get_mut(*index),
        });
    }
    match (value, last) {
        (Some(Value::Table(table)), Step::Key(name)) => {
            table.remove(name);
        }
        (Some(Value::Array(items)), Step::Index(index)) if *index < items.len() => {
            items.remove(*index);
        }
        _ => {}
    }
    if let Value::Table(table) = whole {
        *root = table;
    }
}

/// Which of the values that a message names was meant instead of the one that stands there.
fn meant_variant(message: &str) -> String {
    let Some(names) = message.strip_prefix("unknown variant ") else {
        return String::new();
    };
    let mut names = names.split('`').skip(1).step_by(2);
    let given = names.next().unwrap_or_default();
    let near = nearest(given, names);
    near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"))
}

#[cfg(test)]
mod tests {
    use change::trouble::Trouble;

    use super::FileText;
    use crate::config::Loaded;
    use crate::error::Code;

    fn message(text: &str) -> String {
        let loaded = Loaded::parse("companion-sink.toml", text, std::iter::empty());
        loaded.unwrap_err().message
    }

    #[test]
    fn what_is_wrong_with_a_key_is_told_with_its_line() {
        let content =
            "[sink.a]\nkind = \"mongo_view\"\njoin = [\n    { on = \"x\" },\n]\nbody = \"y\"\n";
        let text = FileText::new("companion-sink.toml", content);
        for (told, place) in [
            ("sink.a.join.on: x is no condition", ":3:8: "),
            ("sink.a: body: unknown variable", ":6:8: "),
            ("companion-sink.toml: sink.a.body: wrong", ":6:8: "),
            ("companion-sink.toml: sink.a.url is missing", ":1:1: "),
            ("sink.b.url is missing", ": "),
        ] {
            let error = Trouble::new(Code::Configuration, told, "");
            let told = told.trim_start_matches("companion-sink.toml: ");
            let expected = format!("companion-sink.toml{place}{told}");
            assert_eq!(text.placed(error).message, expected);
        }
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
        assert!(
            message("[sink.a]\nkind = \"postgres\"\non_eror = \"x\"\n")
                .contains("did you mean \"on_error\"?")
        );
        let kind = message("[sink.a]\nkind = \"postgers\"\n");
        assert!(
            kind.contains(":2:8: sink.a.kind: ") && kind.contains("did you mean \"postgres\"?"),
            "{kind}"
        );
        assert!(message("nonsense = 1").ends_with("unknown key \"nonsense\""));
        assert_eq!(
            message("[[rule]]\nname = \"a\"\n[[rule]]\n  rejectif = \"true\"\n"),
            "companion-sink.toml:4:3: unknown key \"rule.rejectif\", did you mean \"reject_if\"?"
        );
    }

    #[test]
    fn a_wrong_value_is_told_with_its_place() {
        assert!(
            message("[kafka]\nfetch_memory = 5")
                .starts_with("companion-sink.toml:2:16: kafka.fetch_memory takes a size")
        );
        let sink = |more: &str| message(&format!("[sink.a]\nkind = \"postgres\"\n{more}"));
        let rows = sink("batch = { rows = 0 }");
        assert_eq!(
            rows,
            "companion-sink.toml:3:18: sink.a.batch.rows takes a whole number from 1 on"
        );
        assert!(sink("on_error = \"parkk\"").contains(":3:12: sink.a.on_error: unknown variant"));
        assert!(sink("topics = [1]").contains(":3:11: sink.a.topics: invalid type: integer"));
        let rule = message("[rule]\nname = \"a\"\n");
        assert!(
            rule.contains("rule: invalid type: map, expected a sequence"),
            "{rule}"
        );
        assert!(message("a = ").starts_with("companion-sink.toml:1:"));
    }
}
