//! Reads the configuration: the file, what the environment overrides, and the files that it names.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use change::trouble::Trouble;
use serde::Deserialize;

use crate::config::environment::{override_key, overrides};
use crate::config::file::Config;
use crate::config::mistake::FileText;
use crate::config::secret::{Secret, read_secret};
use crate::config::sink::Kind;
use crate::error::{Result, misconfigured};

/// A configuration, and what the files hold that it names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    config: Config,
    /// Where it was read; none in tests.
    pub(crate) file: Option<PathBuf>,
    /// Of `[kafka] config_file`.
    pub(crate) kafka_files: KafkaFiles,
    /// What `[http] token_file` holds; none without one.
    pub(crate) token: Option<Secret<String>>,
}

/// What Kafka's clients are told besides the brokers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct KafkaFiles {
    /// librdkafka's properties, in the order of their file.
    pub(crate) properties: Vec<(String, Secret<String>)>,
    /// SHA-256 of the files that the properties name (certificates, keys): one that was renewed is a change.
    pub(crate) named_files: Vec<[u8; 32]>,
}

impl Deref for Loaded {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl Loaded {
    /// Reads the file (or the first of the usual places), applies the environment and checks everything but rules.
    pub(crate) fn read(given: Option<&Path>) -> Result<Loaded> {
        let path = find(given)?;
        let text = std::fs::read_to_string(&path).map_err(|error| {
            misconfigured(
                format!("cannot read {}: {error}", path.display()),
                "Name the file with --config, or make it readable.",
            )
        })?;
        let mut loaded = Loaded::parse(&path.display().to_string(), &text, overrides())?;
        loaded.file = Some(path);
        Ok(loaded)
    }

    /// Parses the content of a file and the overrides `(A__B, value)`.
    pub(crate) fn parse(
        file_name: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded> {
        let text = FileText::new(file_name, text);
        let mut table = text.parse()?;
        for (name, value) in environment {
            override_key(&mut table, &name, value)?;
        }
        let missing_kind = |(_, sink): &(&String, &toml::Value)| sink.get("kind").is_none();
        if let Some(toml::Value::Table(sinks)) = table.get("sink")
            && let Some((name, _)) = sinks.iter().find(missing_kind)
        {
            return Err(misconfigured(
                format!("{file_name}: sink.{name}.kind is missing"),
                "Set it to mongo_history, mongo_view or postgres.",
            ));
        }
        let mut config = Config::deserialize(table.clone())
            .map_err(|error| text.wrong_value(&table, error.message()))?;
        for (name, sink) in &mut config.sinks {
            sink.fill_in(name);
        }
        // Every key that there is, is among those that the configuration has.
        let known = toml::Table::try_from(&config).map_err(|error| {
            misconfigured(error.to_string(), "Report this with the configuration.")
        })?;
        text.check_keys(&table, &known)?;
        config.check(file_name)?;
        config.with_files(file_name)
    }

    /// This configuration with the parts of `read` that take effect in a running process: rules, and what the files with
    /// secrets hold.
    pub(crate) fn with_live_parts_of(&self, read: &Loaded) -> Loaded {
        let mut next = self.clone();
        next.config.rules.clone_from(&read.rules);
        if next.kafka.config_file == read.kafka.config_file {
            next.kafka_files.clone_from(&read.kafka_files);
        }
        if next.http.token_file == read.http.token_file {
            next.token.clone_from(&read.token);
        }
        let source_file = &next.source.url_file;
        if !source_file.is_empty() && *source_file == read.source.url_file {
            next.config.source.url.clone_from(&read.source.url);
        }
        for (name, sink) in &mut next.config.sinks {
            let read = read.sinks.get(name);
            let same_file = read.filter(|read| read.url_file == sink.url_file);
            if let Some(read) = same_file.filter(|read| !read.url_file.is_empty()) {
                sink.url.clone_from(&read.url);
            }
        }
        next
    }
}

impl Config {
    /// Names what is required and missing, and what cannot be meant.
    fn check(&self, file_name: &str) -> Result<()> {
        let missing = |key: String| missing(file_name, &key);
        if self.kafka.brokers.is_empty() {
            return Err(missing("kafka.brokers".into()));
        }
        if self.sinks.is_empty() {
            return Err(missing("[sink.NAME]".into()));
        }
        for (name, sink) in &self.sinks {
            if sink.url.is_empty() && sink.url_file.is_empty() {
                return Err(missing(format!("sink.{name}.url")));
            }
            if sink.topics.is_empty() {
                return Err(missing(format!("sink.{name}.topics")));
            }
            let database = match &sink.kind {
                Kind::MongoHistory(history) => &history.database,
                Kind::MongoView(view) => &view.database,
                Kind::Postgres(_) => "",
            };
            if ["admin", "config", "local"].contains(&database) {
                return Err(misconfigured(
                    format!("{file_name}: sink.{name}.database: {database} is MongoDB's own"),
                    "Give the sink a database of its own.",
                ));
            }
            if let Kind::Postgres(postgres) = &sink.kind {
                let is_table =
                    |name: &&String| name.split('.').filter(|part| !part.is_empty()).count() != 2;
                let wrong = postgres
                    .tables
                    .iter()
                    .flat_map(|(source, target)| [source, target]);
                if let Some(wrong) = wrong.into_iter().find(is_table) {
                    return Err(misconfigured(
                        format!("{file_name}: sink.{name}.tables: \"{wrong}\" is not schema.table"),
                        "Write tables = {\"public.customer\" = \"crm.kunde\"}.",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Reads the files that it names.
    fn with_files(mut self, file_name: &str) -> Result<Loaded> {
        let mut kafka_files = KafkaFiles::default();
        if !self.kafka.config_file.is_empty() {
            kafka_files.properties = kafka_properties(Path::new(&self.kafka.config_file))?;
            kafka_files.named_files = named_files(&kafka_files.properties);
        }
        if !self.source.url_file.is_empty() {
            let url = read_secret(Path::new(&self.source.url_file))?;
            self.source.url = url.trim().into();
        }
        let token = match self.http.token_file.as_str() {
            "" => None,
            file => Some(token(file)?),
        };
        for (name, sink) in &mut self.sinks {
            if !sink.url_file.is_empty() {
                sink.url = read_secret(Path::new(&sink.url_file))?.trim().into();
            }
            if sink.url.is_empty() {
                return Err(missing(file_name, &format!("sink.{name}.url")));
            }
        }
        Ok(Loaded {
            config: self,
            file: None,
            kafka_files,
            token,
        })
    }
}

fn missing(file_name: &str, key: &str) -> Trouble {
    misconfigured(
        format!("{file_name}: {key} is missing"),
        "Set it there; `companion-sink config --defaults` shows every key.",
    )
}

fn token(file: &str) -> Result<Secret<String>> {
    let token = read_secret(Path::new(file))?.trim().to_owned();
    if token.is_empty() {
        return Err(misconfigured(
            format!("{file} is empty"),
            "Write a long random text into it, such as that of `openssl rand -hex 32`.",
        ));
    }
    Ok(Secret::new(token))
}

fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    ["companion-sink.toml", "/etc/companion-sink.toml"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or_else(|| {
            misconfigured(
                "no configuration: neither ./companion-sink.toml nor /etc/companion-sink.toml is there",
                "Write one (`companion-sink config --defaults > companion-sink.toml`), or name it with --config.",
            )
        })
}

/// librdkafka's properties in a file.
fn kafka_properties(path: &Path) -> Result<Vec<(String, Secret<String>)>> {
    let mut properties = Vec::new();
    for (number, line) in read_secret(path)?.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| {
            misconfigured(
                format!("{}:{}: not a property", path.display(), number + 1),
                "Write key=value, one on each line.",
            )
        })?;
        properties.push((name.trim().to_owned(), Secret::new(value.trim().to_owned())));
    }
    Ok(properties)
}

/// What the files are that librdkafka's properties name. One that cannot be read is librdkafka's to complain about.
fn named_files(properties: &[(String, Secret<String>)]) -> Vec<[u8; 32]> {
    properties
        .iter()
        .filter(|(name, _)| name.ends_with(".location"))
        .filter_map(|(_, path)| std::fs::read(path.reveal()).ok())
        .map(|content| openssl::sha::sha256(&content))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::Kafka;
    use crate::config::{
        DEFAULT_FILE, IndexSettings, JoinSettings, MongoHistorySettings, MongoViewSettings,
        OnError, PostgresSettings, RuleSettings, SinkSettings,
    };

    const SMALL: &str = "kafka.brokers = \"b:9092\"\n[sink.Replica]\nkind = \"postgres\"\ntopics = [\"*\"]\nurl = \"postgres://u:secret@h/d\"\n";

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Loaded> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Loaded::parse("f.toml", text, environment)
    }

    /// The sink of an example, with the defaults of its kind.
    fn example(url: &str, kind: Kind) -> SinkSettings {
        let mut sink = SinkSettings {
            enabled: true,
            topics: vec!["shop.public.*".into()],
            batch: Default::default(),
            stuck_after: None,
            url: url.into(),
            url_file: String::new(),
            kind,
        };
        sink.fill_in("");
        sink
    }

    /// The view of the example.
    fn view() -> Kind {
        let join = |table: &str, on: &str, field: &str| JoinSettings {
            table: table.into(),
            on: on.into(),
            field: field.into(),
            ..JoinSettings::default()
        };
        let fields = [("name".to_owned(), "name".into())];
        Kind::MongoView(MongoViewSettings {
            collection: "orders".into(),
            root: "public.orders".into(),
            join: vec![
                JoinSettings {
                    many: true,
                    order_by: "id".into(),
                    ..join("public.order_item", "order_id = id", "items")
                },
                JoinSettings {
                    fields: fields.into_iter().collect(),
                    ..join("public.customer", "id = customer_id", "customer")
                },
            ],
            indexes: vec![IndexSettings {
                keys: [("customer.name".to_owned(), 1.into())]
                    .into_iter()
                    .collect(),
                unique: false,
            }],
            ..MongoViewSettings::default()
        })
    }

    #[test]
    fn the_default_file_says_the_default_of_every_key() {
        let replica = Kind::Postgres(PostgresSettings::default());
        let history = Kind::MongoHistory(MongoHistorySettings::default());
        let expected = Config {
            kafka: Kafka {
                brokers: "localhost:9092".into(),
                ..Kafka::default()
            },
            rules: vec![RuleSettings {
                topic: "hr.public.employees".into(),
                name: "salary".into(),
                reject_if: "after.salary > 10000".into(),
                sinks: Vec::new(),
            }],
            sinks: [
                (
                    "history".into(),
                    example("mongodb://localhost:27017", history),
                ),
                (
                    "replica".into(),
                    example("postgres://replica@localhost/shop", replica),
                ),
                (
                    "orders".into(),
                    example("mongodb://localhost:27017", view()),
                ),
            ]
            .into(),
            ..Config::default()
        };
        assert_eq!(*parse(DEFAULT_FILE, &[]).unwrap(), expected);
    }

    #[test]
    fn the_default_file_has_every_key() {
        fn is_told_of_the_first(path: &str) -> bool {
            [".sink.replica.", ".sink.orders."].iter().any(|sink| {
                let key = path.strip_prefix(sink).unwrap_or_default();
                ["enabled", "stuck_after"].contains(&key) || key.starts_with("batch")
            })
        }
        fn keys(table: &toml::Table, path: &str, found: &mut Vec<String>) {
            for (name, value) in table {
                let path = format!("{path}.{name}");
                match value {
                    toml::Value::Table(table) if !table.is_empty() => keys(table, &path, found),
                    // Instead of the URL beside them, and told of there; what belongs to every sink is told once.
                    _ if name == "url_file" => {}
                    _ if is_told_of_the_first(&path) => {}
                    _ => found.push(path),
                }
            }
        }
        let (mut in_file, mut known) = (Vec::new(), Vec::new());
        keys(&DEFAULT_FILE.parse().unwrap(), "", &mut in_file);
        let config = parse(DEFAULT_FILE, &[]).unwrap();
        keys(&toml::Table::try_from(&*config).unwrap(), "", &mut known);
        in_file.sort();
        known.sort();
        assert_eq!(in_file, known);
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let more = "tables = {\"public.a b\" = \"x.y\"}\n[[rule]]\ntopic = \"*\"\nname = \"a\"\nreject_if = 'op == \"d\"'\n";
        let config = parse(&(SMALL.replace("u:secret@", "") + more), &[]).unwrap();
        let printed = toml::to_string(&*config).unwrap();
        assert_eq!(parse(&printed, &[]).unwrap(), config, "{printed}");
    }

    #[test]
    fn the_environment_overrides() {
        let config = parse(
            SMALL,
            &[
                ("SINK__REPLICA__URL", "postgres://other/x"),
                ("SINK__REPLICA__BATCH__ROWS", "5"),
                ("KAFKA__FETCH_MEMORY", "1MB"),
            ],
        )
        .unwrap();
        assert_eq!(config.sinks["Replica"].url.reveal(), "postgres://other/x");
        assert_eq!(config.sinks["Replica"].batch_rows(), 5);
        assert_eq!(config.kafka.fetch_memory, 1 << 20);
        let error = parse(SMALL, &[("SINK__REPLICA__URRL", "x")]).unwrap_err();
        assert!(error.message.contains("did you mean \"url\"?"), "{error}");
    }

    #[test]
    fn what_is_required_is_named() {
        let text = |text: &str| parse(text, &[]).unwrap_err().message;
        assert!(text("").contains("kafka.brokers is missing"));
        assert!(text("kafka.brokers = \"b\"").contains("[sink.NAME] is missing"));
        assert!(text("kafka.brokers = \"b\"\n[sink.a]\n").contains("sink.a.kind is missing"));
        assert!(
            text(&SMALL.replace("topics = [\"*\"]", "")).contains("sink.Replica.topics is missing")
        );
        let own = SMALL.replace("\"postgres\"", "\"mongo_history\"\ndatabase = \"admin\"");
        assert!(text(&own).contains("MongoDB's own"));
        let tables = SMALL.to_owned() + "tables = {\"public.customer\" = \"kunde\"}\n";
        assert!(text(&tables).contains("\"kunde\" is not schema.table"));
    }

    #[test]
    fn what_becomes_of_a_refused_event_depends_on_the_consistency() {
        let on_error = |more: &str| {
            let config = parse(&(SMALL.to_owned() + more), &[]).unwrap();
            match &config.sinks["Replica"].kind {
                Kind::Postgres(postgres) => postgres.on_error(),
                _ => panic!("a replica"),
            }
        };
        assert_eq!(on_error(""), OnError::Halt);
        assert_eq!(on_error("consistency = \"row\"\n"), OnError::Park);
        assert_eq!(on_error("on_error = \"park\"\n"), OnError::Park);
    }

    #[test]
    fn a_running_process_takes_rules_and_secrets_and_nothing_else() {
        let rule = "[[rule]]\ntopic = \"*\"\nname = \"a\"\nreject_if = \"true\"\n";
        let running = parse(SMALL, &[]).unwrap();
        let mut read = parse(&(SMALL.to_owned() + rule), &[]).unwrap();
        assert_eq!(running.with_live_parts_of(&read), read);
        read.config.kafka.brokers = "other".into();
        let next = running.with_live_parts_of(&read);
        assert_eq!((next.rules.len(), &*next.kafka.brokers), (1, "b:9092"));
        let mut of_file = running.clone();
        for config in [&mut read, &mut of_file] {
            config.config.sinks.get_mut("Replica").unwrap().url_file = "secret".into();
        }
        read.config.sinks.get_mut("Replica").unwrap().url = "postgres://new".into();
        let url = |config: Loaded| config.sinks["Replica"].url.reveal().to_owned();
        assert_eq!(url(of_file.with_live_parts_of(&read)), "postgres://new");
        assert_ne!(url(running.with_live_parts_of(&read)), "postgres://new");
    }

    #[test]
    fn no_password_is_printed() {
        let source = ("SOURCE__URL", "postgres://u:secret@h/d");
        let config = parse(SMALL, &[source]).unwrap();
        let printed = toml::to_string(&*config).unwrap();
        assert!(printed.contains("url = \"postgres://h/d\""), "{printed}");
        let debug = format!("{config:?}");
        assert!(
            !printed.contains("secret") && !debug.contains("secret"),
            "{printed} {debug}"
        );
    }
}
