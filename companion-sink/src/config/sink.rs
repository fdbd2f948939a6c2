//! `[sink.NAME]`: what all kinds share, and what each has of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::effect::{EffectSettings, MailSettings, WebhookSettings};
use crate::config::shown_url::Url;
use crate::config::statistics::StatisticsSettings;
use crate::config::units::{optional_count, optional_duration};
use crate::config::view::MongoViewSettings;

/// `[sink.NAME]`: what all kinds share, and the kind's own part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SinkSettings {
    /// Whether `run` starts it.
    #[serde(default = "yes")]
    pub(crate) enabled: bool,
    /// Names or `*` patterns of topics.
    #[serde(default)]
    pub(crate) topics: Vec<String>,
    /// How events are gathered.
    #[serde(default)]
    pub(crate) batch: BatchSettings,
    /// After what time without progress the sink is shown as stuck.
    #[serde(default, with = "optional_duration")]
    pub(crate) stuck_after: Option<Duration>,
    /// Where the target is.
    #[serde(default)]
    pub(crate) url: Url,
    /// A file that holds the URL instead.
    #[serde(default)]
    pub(crate) url_file: String,
    /// What belongs to one kind.
    #[serde(flatten)]
    pub(crate) kind: Kind,
}

/// `batch`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BatchSettings {
    /// Events at most; without it the kind's default.
    #[serde(deserialize_with = "optional_count")]
    pub(crate) rows: Option<usize>,
    /// How long a batch waits for more while more is arriving.
    #[serde(with = "optional_duration")]
    pub(crate) wait: Option<Duration>,
}

/// The kinds of sinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Kind {
    /// One document for each change of a row.
    MongoHistory(MongoHistorySettings),
    /// A document for each row of a table, with rows of others in it.
    MongoView(MongoViewSettings),
    /// A replica of the tables.
    Postgres(PostgresSettings),
    /// A request for each event.
    Webhook(WebhookSettings),
    /// A mail for each event.
    Mail(MailSettings),
    /// Figures of rows and events, by period.
    Statistics(StatisticsSettings),
}

impl Kind {
    /// The value of `kind`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::MongoHistory(_) => "mongo_history",
            Kind::MongoView(_) => "mongo_view",
            Kind::Postgres(_) => "postgres",
            Kind::Webhook(_) => "webhook",
            Kind::Mail(_) => "mail",
            Kind::Statistics(_) => "statistics",
        }
    }

    /// Whether its events may be anybody's: it needs no server of pg_cdc.
    pub(crate) fn takes_plain_events(&self) -> bool {
        matches!(self, Kind::Webhook(_) | Kind::Mail(_) | Kind::Statistics(_))
    }

    /// What a kind whose events have effects, and no table, has in common with the others of them.
    pub(crate) fn effect(&self) -> Option<&EffectSettings> {
        match self {
            Kind::Webhook(webhook) => Some(&webhook.effect),
            Kind::Mail(mail) => Some(&mail.effect),
            Kind::MongoHistory(_)
            | Kind::MongoView(_)
            | Kind::Postgres(_)
            | Kind::Statistics(_) => None,
        }
    }
}

/// What a `mongo_history` sink has of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MongoHistorySettings {
    /// The database of the documents and of the offsets.
    pub(crate) database: String,
    /// The collection's name, made of {database}, {schema} and {table}, or {schema_}: the schema with `_` behind, nothing for public.
    pub(crate) collection: String,
    /// Names or `*` patterns of the source's tables (`schema.table`) that may come in more than one topic.
    pub(crate) several_topics: Vec<String>,
}

/// What a `postgres` sink has of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PostgresSettings {
    /// What readers may rely on.
    pub(crate) consistency: Consistency,
    /// The target's schema, made of {database} and {schema}.
    pub(crate) schema: String,
    /// Tables of other names, `schema.table` on the target by `schema.table` of the source.
    pub(crate) tables: BTreeMap<String, String>,
    /// Columns of other names on the target, by `schema.table.column` of the source.
    pub(crate) columns: BTreeMap<String, String>,
    /// Whether missing tables are made.
    pub(crate) create_tables: bool,
    /// Which changes of definitions the target follows.
    pub(crate) follow_schema: FollowSchema,
    /// What becomes of an event that cannot be applied; without it what suits the consistency.
    pub(crate) on_error: Option<OnError>,
    /// How a table is emptied.
    pub(crate) truncate: Emptying,
    /// The schema of the offsets and the parked events.
    pub(crate) state_schema: String,
    /// Names or `*` patterns of the target's schemas that may be written; empty for all but those that are nobody's.
    pub(crate) schemas: Vec<String>,
    /// Names or `*` patterns of the source's tables (`schema.table`) that may come in more than one topic.
    pub(crate) several_topics: Vec<String>,
}

/// `consistency`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consistency {
    /// Readers see whole transactions of the source, in the order of their commits.
    Transaction,
    /// Each row is right by itself.
    Row,
}

/// `follow_schema`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FollowSchema {
    /// Every change that the source's table went through.
    All,
    /// Only what takes nothing away: columns more, NULLs allowed.
    Add,
    /// None: the sink halts.
    Halt,
}

/// `truncate`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Emptying {
    /// At once, also for readers with old snapshots.
    Truncate,
    /// Readers with old snapshots keep their rows.
    Delete,
}

/// `on_error`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnError {
    /// The sink halts at the event.
    Halt,
    /// The event and the later ones of its key wait, the others go on.
    Park,
}

impl PostgresSettings {
    /// What becomes of an event that cannot be applied.
    pub(crate) fn on_error(&self) -> OnError {
        self.on_error.unwrap_or(match self.consistency {
            Consistency::Transaction => OnError::Halt,
            Consistency::Row => OnError::Park,
        })
    }
}

impl Default for MongoHistorySettings {
    fn default() -> Self {
        MongoHistorySettings {
            database: "history".into(),
            collection: "{schema_}{table}_history".into(),
            several_topics: Vec::new(),
        }
    }
}

impl Default for PostgresSettings {
    fn default() -> Self {
        PostgresSettings {
            consistency: Consistency::Transaction,
            schema: "{schema}".into(),
            tables: BTreeMap::new(),
            columns: BTreeMap::new(),
            create_tables: true,
            follow_schema: FollowSchema::All,
            on_error: None,
            truncate: Emptying::Truncate,
            state_schema: "companion".into(),
            schemas: Vec::new(),
            several_topics: Vec::new(),
        }
    }
}

impl SinkSettings {
    /// Whether there is a server that `url` leads to.
    pub(crate) fn has_url(&self) -> bool {
        !matches!(self.kind, Kind::Mail(_) | Kind::Statistics(_))
    }

    /// The value of `kind`.
    pub(crate) fn kind_name(&self) -> &'static str {
        self.kind.name()
    }

    /// Puts the kind's own defaults where the file says nothing.
    pub(crate) fn fill_in(&mut self, name: &str) {
        self.batch.rows = Some(self.batch_rows());
        self.batch.wait = Some(self.batch_wait());
        self.stuck_after = Some(self.stuck_after());
        if let Kind::Postgres(postgres) = &mut self.kind {
            postgres.on_error = Some(postgres.on_error());
        }
        if let Kind::MongoView(view) = &mut self.kind
            && view.collection.is_empty()
        {
            name.clone_into(&mut view.collection);
        }
    }

    /// Events in a batch at most.
    pub(crate) fn batch_rows(&self) -> usize {
        self.batch.rows.unwrap_or(match self.kind {
            Kind::MongoHistory(_) | Kind::MongoView(_) | Kind::Webhook(_) | Kind::Mail(_) => 2_000,
            Kind::Postgres(_) | Kind::Statistics(_) => 20_000,
        })
    }

    /// After what time without progress the sink is shown as stuck.
    pub(crate) fn stuck_after(&self) -> Duration {
        self.stuck_after.unwrap_or(Duration::from_secs(60))
    }

    /// How long a batch waits for more while more is arriving.
    pub(crate) fn batch_wait(&self) -> Duration {
        self.batch.wait.unwrap_or(Duration::from_millis(20))
    }
}

fn yes() -> bool {
    true
}
