//! The configuration: one TOML file, any key of which the environment can override.

pub(crate) mod topic_pattern;

pub mod keys;
pub mod shown_url;
pub mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::config::units::{parse_duration, parse_size};
use crate::error::{Code, Error, Result};
use crate::rule::{Rule, check_rules};

/// The file with every key, as `config --defaults` prints it.
pub const DEFAULT_FILE: &str = include_str!("companion-sink.default.toml");

const ENVIRONMENT_PREFIX: &str = "COMPANION_SINK__";

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// Where it was read.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// Consumer groups are `<name>.<sink>`.
    #[serde(default = "default_name")]
    pub name: String,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// Where the events come from.
    #[serde(default)]
    pub kafka: Kafka,
    /// The server that the events come from.
    #[serde(default)]
    pub source: Source,
    /// Health, state and metrics.
    #[serde(default)]
    pub http: Http,
    /// What becomes of events that cannot be applied.
    #[serde(default)]
    pub dead_letters: DeadLetters,
    /// What is rejected.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
    /// The sinks by their names.
    #[serde(default, rename = "sink")]
    pub sinks: BTreeMap<String, Sink>,
}

/// `log`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Log {
    /// error, warn, info, debug or trace.
    pub level: String,
    /// auto (text on a terminal), text or json.
    pub format: String,
}

/// `[kafka]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Kafka {
    /// Bootstrap servers.
    pub brokers: String,
    /// The source's name, as the history names it.
    pub source: String,
    /// librdkafka properties, mode 0600; empty for none.
    pub config_file: String,
    /// What it holds, in its order.
    #[serde(skip)]
    pub properties: Vec<(String, String)>,
    /// SHA-256 of the files that the properties name (certificates, keys): one that was renewed is a change.
    #[serde(skip)]
    pub named_files: Vec<[u8; 32]>,
    /// Bytes that all sinks together fetch ahead.
    #[serde(deserialize_with = "size")]
    pub fetch_memory: u64,
}

/// `[source]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Connection string for a role in `pg_monitor`; empty for none.
    pub url: String,
    /// A file that holds the URL instead.
    pub url_file: String,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Address and port; empty for no HTTP.
    pub listen: String,
    /// A file that holds the token, mode 0600; empty for none.
    pub token_file: String,
    /// What it holds.
    #[serde(skip)]
    pub token: String,
    /// Addresses of other instances, for `status`.
    pub peers: Vec<String>,
}

/// `[dead_letters]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct DeadLetters {
    /// How long the topics `<topic>.dlq` keep their records.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
    /// More keys than this, parked within a minute: the target is at fault and the sink halts.
    pub max_parked_keys_per_minute: u32,
}

/// `[sink.NAME]`: what all kinds share, and the kind's own part.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Sink {
    /// Whether `run` starts it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Names or `*` patterns of topics.
    #[serde(default)]
    pub topics: Vec<String>,
    /// How events are gathered.
    #[serde(default)]
    pub batch: Batch,
    /// After what time without progress the sink is shown as stuck.
    #[serde(default, deserialize_with = "optional_duration")]
    pub stuck_after: Option<Duration>,
    /// Where the target is.
    #[serde(default)]
    pub url: String,
    /// A file that holds the URL instead.
    #[serde(default)]
    pub url_file: String,
    /// What belongs to one kind.
    #[serde(flatten)]
    pub kind: Kind,
}

/// `batch`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Batch {
    /// Events at most; without it the kind's default.
    pub rows: Option<usize>,
    /// How long a batch waits for more while more is arriving.
    #[serde(deserialize_with = "optional_duration")]
    pub wait: Option<Duration>,
}

/// The kinds of sinks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// One document for each change of a row.
    MongoHistory(MongoHistory),
    /// A replica of the tables.
    Postgres(Postgres),
}

/// What a `mongo-history` sink has of its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct MongoHistory {
    /// The database of the documents and of the offsets.
    pub database: String,
    /// The collection's name, made of {database}, {schema} and {table}, or {schema_}: the schema with `_` behind, nothing for public.
    pub collection: String,
    /// Names or `*` patterns of the source's tables (`schema.table`) that may come in more than one topic.
    pub several_topics: Vec<String>,
}

/// What a `postgres` sink has of its own.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Postgres {
    /// What readers may rely on.
    pub consistency: Consistency,
    /// The target's schema, made of {database} and {schema}.
    pub schema: String,
    /// Tables of other names, `schema.table` on the target by `schema.table` of the source.
    pub tables: BTreeMap<String, String>,
    /// Columns of other names on the target, by `schema.table.column` of the source.
    pub columns: BTreeMap<String, String>,
    /// Whether missing tables are made.
    pub create_tables: bool,
    /// Which changes of definitions the target follows.
    pub follow_schema: FollowSchema,
    /// What becomes of an event that cannot be applied; without it what suits the consistency.
    pub on_error: Option<OnError>,
    /// How a table is emptied: `truncate` or `delete`.
    pub truncate: String,
    /// The schema of the offsets and the parked events.
    pub state_schema: String,
    /// Names or `*` patterns of the target's schemas that may be written; empty for all but those that are nobody's.
    pub schemas: Vec<String>,
    /// Names or `*` patterns of the source's tables (`schema.table`) that may come in more than one topic.
    pub several_topics: Vec<String>,
}

/// `consistency`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Readers see whole transactions of the source, in the order of their commits.
    Transaction,
    /// Each row is right by itself.
    Row,
}

/// `follow_schema`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FollowSchema {
    /// Every change that the source's table went through.
    All,
    /// Only what takes nothing away: columns more, NULLs allowed.
    Add,
    /// None: the sink halts.
    Halt,
}

/// `on_error`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The sink halts at the event.
    Halt,
    /// The event and the later ones of its key wait, the others go on.
    Park,
}

impl Consistency {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Consistency::Transaction => "transaction",
            Consistency::Row => "row",
        }
    }
}

impl FollowSchema {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            FollowSchema::All => "all",
            FollowSchema::Add => "add",
            FollowSchema::Halt => "halt",
        }
    }
}

impl OnError {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            OnError::Halt => "halt",
            OnError::Park => "park",
        }
    }
}

impl Postgres {
    /// What becomes of an event that cannot be applied.
    pub fn on_error(&self) -> OnError {
        self.on_error.unwrap_or(match self.consistency {
            Consistency::Transaction => OnError::Halt,
            Consistency::Row => OnError::Park,
        })
    }
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".into(),
            format: "auto".into(),
        }
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Kafka {
            brokers: String::new(),
            source: "pg".into(),
            config_file: String::new(),
            properties: Vec::new(),
            named_files: Vec::new(),
            fetch_memory: 32 << 20,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: "127.0.0.1:8480".into(),
            token_file: String::new(),
            token: String::new(),
            peers: Vec::new(),
        }
    }
}

impl Default for DeadLetters {
    fn default() -> Self {
        DeadLetters {
            retention: Duration::from_secs(90 * 86_400),
            max_parked_keys_per_minute: 100,
        }
    }
}

impl Default for MongoHistory {
    fn default() -> Self {
        MongoHistory {
            database: "history".into(),
            collection: "{schema_}{table}_history".into(),
            several_topics: Vec::new(),
        }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        Postgres {
            consistency: Consistency::Transaction,
            schema: "{schema}".into(),
            tables: BTreeMap::new(),
            columns: BTreeMap::new(),
            create_tables: true,
            follow_schema: FollowSchema::All,
            on_error: None,
            truncate: "truncate".into(),
            state_schema: "companion".into(),
            schemas: Vec::new(),
            several_topics: Vec::new(),
        }
    }
}

impl Sink {
    /// The value of `kind`.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::MongoHistory(_) => "mongo-history",
            Kind::Postgres(_) => "postgres",
        }
    }

    /// Events in a batch at most.
    pub fn batch_rows(&self) -> usize {
        self.batch.rows.unwrap_or(match self.kind {
            Kind::MongoHistory(_) => 2_000,
            Kind::Postgres(_) => 20_000,
        })
    }

    /// After what time without progress the sink is shown as stuck.
    pub fn stuck_after(&self) -> Duration {
        self.stuck_after.unwrap_or(Duration::from_secs(60))
    }

    /// How long a batch waits for more while more is arriving.
    pub fn batch_wait(&self) -> Duration {
        self.batch.wait.unwrap_or(Duration::from_millis(20))
    }
}

impl Config {
    /// Reads the file (or the first of the usual places), applies the environment and checks everything.
    pub fn load(given: Option<&Path>) -> Result<Config> {
        let path = find(given)?;
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::configuration(
                format!("cannot read {}: {error}", path.display()),
                "Name the file with --config, or make it readable.",
            )
        })?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((
                name.strip_prefix(ENVIRONMENT_PREFIX)?.to_owned(),
                value.to_string_lossy().into_owned(),
            ))
        });
        let mut config = Config::parse(&path.display().to_string(), &text, environment)?;
        config.file = Some(path);
        Ok(config)
    }

    /// Parses the content of a file and the overrides `(A__B, value)`.
    pub fn parse(
        file_name: &str,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config> {
        keys::check(file_name, text)?;
        let mut table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| bad_value(file_name, &error))?;
        let mut overridden = false;
        for (name, value) in environment {
            override_key(&mut table, &name, value)?;
            overridden = true;
        }
        if overridden {
            let merged = toml::to_string(&table).map_err(|error| {
                Error::configuration(error.to_string(), "Look at the COMPANION_SINK__ variables.")
            })?;
            keys::check("file and environment", &merged)?;
        }
        let missing_kind = |(_, sink): &(&String, &toml::Value)| sink.get("kind").is_none();
        if let Some(toml::Value::Table(sinks)) = table.get("sink")
            && let Some((name, _)) = sinks.iter().find(missing_kind)
        {
            return Err(Error::configuration(
                format!("{file_name}: sink.{name}.kind is missing"),
                keys::kinds_hint(),
            ));
        }
        let mut config: Config = table
            .try_into()
            .map_err(|error| bad_value(file_name, &error))?;
        config.complete(file_name)?;
        Ok(config)
    }

    /// Reads the files that hold secrets and names what is required and missing.
    fn complete(&mut self, file_name: &str) -> Result<()> {
        let missing = |key: String| {
            Error::configuration(
                format!("{file_name}: {key} is missing"),
                "Set it there; `companion-sink config --defaults` shows every key.",
            )
        };
        if self.kafka.brokers.is_empty() {
            return Err(missing("kafka.brokers".into()));
        }
        if self.sinks.is_empty() {
            return Err(missing("[sink.NAME]".into()));
        }
        if !self.kafka.config_file.is_empty() {
            self.kafka.properties = kafka_properties(Path::new(&self.kafka.config_file))?;
            self.kafka.named_files = named_files(&self.kafka.properties);
        }
        if !self.source.url_file.is_empty() {
            let path = Path::new(&self.source.url_file);
            self.source.url = read_secret(path)?.trim().to_owned();
        }
        if !self.http.token_file.is_empty() {
            let path = Path::new(&self.http.token_file);
            self.http.token = read_secret(path)?.trim().to_owned();
            if self.http.token.is_empty() {
                return Err(Error::configuration(
                    format!("{} is empty", self.http.token_file),
                    "Write a long random text into it, such as that of `openssl rand -hex 32`.",
                ));
            }
        }
        check_rules(&self.rules, &self.sinks).map_err(|what| {
            Error::configuration(
                format!("{file_name}: {what}"),
                "Change that [[rule]]; `companion-sink config --defaults` shows its keys.",
            )
        })?;
        for (name, sink) in &mut self.sinks {
            if !sink.url_file.is_empty() {
                sink.url = read_secret(Path::new(&sink.url_file))?.trim().to_owned();
            }
            if sink.url.is_empty() {
                return Err(missing(format!("sink.{name}.url")));
            }
            if sink.topics.is_empty() {
                return Err(missing(format!("sink.{name}.topics")));
            }
            if let Kind::MongoHistory(mongo) = &sink.kind
                && ["admin", "config", "local"].contains(&mongo.database.as_str())
            {
                return Err(Error::configuration(
                    format!(
                        "{file_name}: sink.{name}.database: {} is MongoDB's own",
                        mongo.database
                    ),
                    "Give the history a database of its own.",
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
                    return Err(Error::configuration(
                        format!("{file_name}: sink.{name}.tables: \"{wrong}\" is not schema.table"),
                        "Write tables = {\"public.customer\" = \"crm.kunde\"}.",
                    ));
                }
            }
        }
        Ok(())
    }

    /// This configuration with the parts of `read` that take effect in a running process: rules, and what the files with
    /// secrets hold.
    pub fn with_live_parts_of(&self, read: &Config) -> Config {
        let mut next = self.clone();
        next.rules.clone_from(&read.rules);
        if next.kafka.config_file == read.kafka.config_file {
            next.kafka.properties.clone_from(&read.kafka.properties);
            next.kafka.named_files.clone_from(&read.kafka.named_files);
        }
        if next.http.token_file == read.http.token_file {
            next.http.token.clone_from(&read.http.token);
        }
        let source_file = &next.source.url_file;
        if !source_file.is_empty() && *source_file == read.source.url_file {
            next.source.url.clone_from(&read.source.url);
        }
        for (name, sink) in &mut next.sinks {
            let read = read.sinks.get(name);
            let same_file = read.filter(|read| read.url_file == sink.url_file);
            if let Some(read) = same_file.filter(|read| !read.url_file.is_empty()) {
                sink.url.clone_from(&read.url);
            }
        }
        next
    }

    /// The configuration as TOML; of connection strings only where they lead.
    pub fn to_toml(&self) -> String {
        let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut out = format!(
            "name = {}\nlog = {{ level = {}, format = {} }}\n\n[kafka]\nbrokers = {}\nsource = {}\nconfig_file = {}\nfetch_memory = \"{}B\"\n\n[source]\nurl = {}\n\n[http]\nlisten = {}\ntoken_file = {}\npeers = [{}]\n\n[dead_letters]\nretention = \"{}ms\"\nmax_parked_keys_per_minute = {}\n",
            quote(&self.name),
            quote(&self.log.level),
            quote(&self.log.format),
            quote(&self.kafka.brokers),
            quote(&self.kafka.source),
            quote(&self.kafka.config_file),
            self.kafka.fetch_memory,
            quote(&shown_url::shown(&self.source.url)),
            quote(&self.http.listen),
            quote(&self.http.token_file),
            self.http
                .peers
                .iter()
                .map(|peer| quote(peer))
                .collect::<Vec<_>>()
                .join(", "),
            self.dead_letters.retention.as_millis(),
            self.dead_letters.max_parked_keys_per_minute,
        );
        for rule in &self.rules {
            let sinks: Vec<_> = rule.sinks.iter().map(|sink| quote(sink)).collect();
            out += &format!(
                "\n[[rule]]\ntopic = {}\nname = {}\nreject_if = {}\nsinks = [{}]\n",
                quote(&rule.topic),
                quote(&rule.name),
                quote(&rule.reject_if),
                sinks.join(", "),
            );
        }
        for (name, sink) in &self.sinks {
            let topics: Vec<_> = sink.topics.iter().map(|topic| quote(topic)).collect();
            out += &format!(
                "\n[sink.{}]\nkind = \"{}\"\nenabled = {}\ntopics = [{}]\nbatch = {{ rows = {}, wait = \"{}ms\" }}\nstuck_after = \"{}ms\"\nurl = {}\n",
                quote(name),
                sink.kind_name(),
                sink.enabled,
                topics.join(", "),
                sink.batch_rows(),
                sink.batch_wait().as_millis(),
                sink.stuck_after().as_millis(),
                quote(&shown_url::shown(&sink.url)),
            );
            out += &match &sink.kind {
                Kind::MongoHistory(mongo) => format!(
                    "database = {}\ncollection = {}\nseveral_topics = {}\n",
                    quote(&mongo.database),
                    quote(&mongo.collection),
                    quoted_list(&mongo.several_topics)
                ),
                Kind::Postgres(postgres) => format!(
                    "consistency = {}\nschema = {}\ntables = {}\ncolumns = {}\ncreate_tables = {}\nfollow_schema = {}\non_error = {}\ntruncate = {}\nstate_schema = {}\nschemas = {}\nseveral_topics = {}\n",
                    quote(postgres.consistency.name()),
                    quote(&postgres.schema),
                    quoted_map(&postgres.tables),
                    quoted_map(&postgres.columns),
                    postgres.create_tables,
                    quote(postgres.follow_schema.name()),
                    quote(postgres.on_error().name()),
                    quote(&postgres.truncate),
                    quote(&postgres.state_schema),
                    quoted_list(&postgres.schemas),
                    quoted_list(&postgres.several_topics)
                ),
            };
        }
        out
    }
}

/// A list of texts.
fn quoted_list(list: &[String]) -> String {
    toml::Value::from(list.to_vec()).to_string()
}

/// An inline table of texts.
fn quoted_map(map: &BTreeMap<String, String>) -> String {
    let quote = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let pairs = map
        .iter()
        .map(|(name, value)| format!("{} = {}", quote(name), quote(value)));
    format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
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
            Error::configuration(
                "no configuration: neither ./companion-sink.toml nor /etc/companion-sink.toml is there",
                "Write one (`companion-sink config --defaults > companion-sink.toml`), or name it with --config.",
            )
        })
}

fn bad_value(file_name: &str, error: &toml::de::Error) -> Error {
    Error::configuration(
        format!("{file_name}: {}", error.message()),
        "`companion-sink config --defaults` shows every key.",
    )
}

/// librdkafka's properties in a file.
fn kafka_properties(path: &Path) -> Result<Vec<(String, String)>> {
    let mut properties = Vec::new();
    for (number, line) in read_secret(path)?.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| {
            Error::configuration(
                format!("{}:{}: not a property", path.display(), number + 1),
                "Write key=value, one on each line.",
            )
        })?;
        properties.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(properties)
}

/// What the files are that librdkafka's properties name. One that cannot be read is librdkafka's to complain about.
fn named_files(properties: &[(String, String)]) -> Vec<[u8; 32]> {
    properties
        .iter()
        .filter(|(name, _)| name.ends_with(".location"))
        .filter_map(|(_, path)| std::fs::read(path).ok())
        .map(|content| openssl::sha::sha256(&content))
        .collect()
}

/// Reads a file that holds a secret; it must be this user's, or root's, and others must not be able to read it (CDC1002). What is
/// looked at is what is read, whatever the path leads to meanwhile.
pub fn read_secret(path: &Path) -> Result<String> {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    const LONGEST_BYTES: u64 = 1 << 20;
    let failed = |error: std::io::Error| {
        Error::configuration(
            format!("cannot read {}: {error}", path.display()),
            "Make the file readable for this user, or change the path.",
        )
    };
    let refused = |why: String, remedy: String| Err(Error::new(Code::SecretFile, why, remedy));
    let mut options = std::fs::OpenOptions::new();
    // A pipe that nobody writes would be waited for.
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return refused(
            format!("{} is no ordinary file", path.display()),
            "Write the secret into a file of mode 0600.".to_owned(),
        );
    }
    let mode = metadata.mode();
    if mode & 0o077 != 0 {
        return refused(
            format!(
                "{} can be read by others (mode {:04o})",
                path.display(),
                mode & 0o7777
            ),
            format!("chmod 0600 {}", path.display()),
        );
    }
    // SAFETY: it takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    if metadata.uid() != user && metadata.uid() != 0 {
        return refused(
            format!(
                "{} belongs to user {}, who can change it, and this process runs as {user}",
                path.display(),
                metadata.uid()
            ),
            format!("chown {user} {}", path.display()),
        );
    }
    let mut text = String::new();
    let read = file.take(LONGEST_BYTES).read_to_string(&mut text);
    read.map_err(failed)?;
    Ok(text)
}

/// Sets the key `A__B__C` of the environment to `value`.
fn override_key(table: &mut toml::Table, name: &str, value: String) -> Result<()> {
    let path: Vec<String> = name.split("__").map(str::to_lowercase).collect();
    let Some((last, parents)) = path.split_last() else {
        return Ok(());
    };
    let variable = format!("{ENVIRONMENT_PREFIX}{name}");
    let mut current = table;
    for part in parents {
        // Names of sinks may hold capitals; the environment does not tell.
        let existing = current
            .keys()
            .find(|key| key.to_lowercase() == *part)
            .cloned();
        current = current
            .entry(existing.unwrap_or_else(|| part.clone()))
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| {
                Error::configuration(
                    format!("{variable}: {part} is not a table"),
                    "Correct the variable's name, or unset it.",
                )
            })?;
    }
    // What reads as a TOML value of another kind than text is one: true, 500, ["a", "b"], { rows = 5 }.
    let parsed = format!("value = {value}").parse::<toml::Table>().ok();
    let typed = parsed
        .and_then(|mut table| table.remove("value"))
        .filter(|value| !matches!(value, toml::Value::Datetime(_)));
    current.insert(last.clone(), typed.unwrap_or(toml::Value::String(value)));
    Ok(())
}

fn default_name() -> String {
    "companion".into()
}

fn yes() -> bool {
    true
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_size(&text).ok_or_else(|| serde::de::Error::custom("not a size such as \"64MB\""))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).ok_or_else(|| serde::de::Error::custom("not a duration such as \"5s\""))
}

fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "kafka.brokers = \"b:9092\"\n[sink.Replica]\nkind = \"postgres\"\ntopics = [\"*\"]\nurl = \"postgres://u:secret@h/d\"\n";

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse("f.toml", text, environment)
    }

    #[test]
    fn the_default_file_is_accepted_and_says_the_defaults() {
        let config = parse(DEFAULT_FILE, &[]).unwrap();
        let bare = parse(SMALL, &[]).unwrap();
        assert_eq!(config.kafka.fetch_memory, bare.kafka.fetch_memory);
        assert_eq!(config.http.listen, bare.http.listen);
        assert_eq!(config.dead_letters.retention, bare.dead_letters.retention);
        let replica = &config.sinks["replica"];
        assert_eq!(replica.batch_rows(), bare.sinks["Replica"].batch_rows());
        assert_eq!(replica.batch_wait(), bare.sinks["Replica"].batch_wait());
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
        assert_eq!(config.sinks["Replica"].url, "postgres://other/x");
        assert_eq!(config.sinks["Replica"].batch_rows(), 5);
        assert_eq!(config.kafka.fetch_memory, 1 << 20);
        let error = parse(SMALL, &[("SINK__REPLICA__URRL", "x")]).unwrap_err();
        assert!(error.what.contains("did you mean \"url\"?"), "{error}");
    }

    #[test]
    fn what_is_required_is_named() {
        let text = |text: &str| parse(text, &[]).unwrap_err().what;
        assert!(text("").contains("kafka.brokers is missing"));
        assert!(text("kafka.brokers = \"b\"").contains("[sink.NAME] is missing"));
        assert!(text("kafka.brokers = \"b\"\n[sink.a]\n").contains("sink.a.kind is missing"));
        assert!(
            text(&SMALL.replace("topics = [\"*\"]", "")).contains("sink.Replica.topics is missing")
        );
        let own = SMALL.replace("\"postgres\"", "\"mongo-history\"\ndatabase = \"admin\"");
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
                Kind::MongoHistory(_) => panic!("a replica"),
            }
        };
        assert_eq!(on_error(""), OnError::Halt);
        assert_eq!(on_error("consistency = \"row\"\n"), OnError::Park);
        assert_eq!(on_error("on_error = \"park\"\n"), OnError::Park);
    }

    fn with_rules(rules: &str) -> Result<Config> {
        parse(&format!("{SMALL}{rules}"), &[])
    }

    #[test]
    fn every_mistake_in_a_rule_is_found_at_load() {
        let rule = |name: &str, reject_if: &str, more: &str| {
            format!(
                "[[rule]]\ntopic = \"hr.*\"\nname = \"{name}\"\nreject_if = '{reject_if}'\n{more}\n"
            )
        };
        let good = rule("salary", "after.salary > 10000", "sinks = [\"Replica\"]");
        assert_eq!(with_rules(&good).unwrap().rules[0].name, "salary");
        for (wrong, told) in [
            (rule("a", "after.salary >", ""), "rule \"a\": reject_if: "),
            (
                rule("a", "aftr.salary > 1", ""),
                "unknown variable \"aftr\", did you mean \"after\"?",
            ),
            (
                rule("a", "after.name.startswith(\"x\")", ""),
                "unknown function \"startswith\"",
            ),
            (
                rule("a", "upper(after.name) == \"X\"", ""),
                "unknown function \"upper\"",
            ),
            (
                rule("a", "true", "sinks = [\"replica\"]"),
                "no sink \"replica\", did you mean \"Replica\"?",
            ),
            (rule("a b", "true", ""), "A-Z a-z 0-9 _ -"),
            (rule(&"a".repeat(65), "true", ""), "1 to 64"),
            (rule("", "true", ""), "a [[rule]] has no name"),
            (rule("a", "", ""), "rule \"a\": reject_if is missing"),
            (
                "[[rule]]\nname = \"a\"\nreject_if = \"true\"\n".into(),
                "rule \"a\": topic is missing",
            ),
            (
                good.clone() + &rule("salary", "true", ""),
                "two rules \"salary\" for topic hr.*",
            ),
        ] {
            let error = with_rules(&wrong).unwrap_err();
            assert_eq!(error.code, Code::Configuration);
            assert!(error.what.contains(told), "{wrong}: {error}");
        }
        let elsewhere = good.replace("hr.*", "shop.*");
        assert_eq!(with_rules(&(good + &elsewhere)).unwrap().rules.len(), 2);
    }

    #[test]
    fn a_running_process_takes_rules_and_secrets_and_nothing_else() {
        let rule = "[[rule]]\ntopic = \"*\"\nname = \"a\"\nreject_if = \"true\"\n";
        let running = with_rules("url_file = \"\"\n").unwrap();
        let mut read = with_rules(rule).unwrap();
        assert_eq!(running.with_live_parts_of(&read), read);
        read.kafka.brokers = "other".into();
        let next = running.with_live_parts_of(&read);
        assert_eq!((next.rules.len(), &*next.kafka.brokers), (1, "b:9092"));
        let mut of_file = running.clone();
        for config in [&mut read, &mut of_file] {
            config.sinks.get_mut("Replica").unwrap().url_file = "secret".into();
        }
        read.sinks.get_mut("Replica").unwrap().url = "postgres://new".into();
        let url = |config: Config| config.sinks["Replica"].url.clone();
        assert_eq!(url(of_file.with_live_parts_of(&read)), "postgres://new");
        assert_ne!(url(running.with_live_parts_of(&read)), "postgres://new");
    }

    #[test]
    fn no_password_is_printed() {
        let source = ("SOURCE__URL", "postgres://u:secret@h/d");
        let printed = parse(SMALL, &[source]).unwrap().to_toml();
        assert!(printed.contains("url = \"postgres://h/d\""), "{printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }

    #[test]
    fn a_secret_is_read_only_where_nobody_else_can() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        std::fs::write(&file, "hunter2").unwrap();
        for (mode, is_read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, permissions).unwrap();
            let read = read_secret(&file);
            assert_eq!(read.is_ok(), is_read, "{mode:o}");
            if let Err(error) = read {
                assert_eq!(error.code, Code::SecretFile);
            }
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read_secret(&file).unwrap_err().code, Code::Configuration);
        assert_eq!(
            read_secret(&std::env::temp_dir()).unwrap_err().code,
            Code::SecretFile
        );
    }
}
