//! The configuration: one TOML file, any key of which the environment can override.

mod effect;
mod environment;
mod file;
mod load;
mod mistake;
mod nearest;
mod rule;
mod secret;
pub(crate) mod shown_url;
mod sink;
pub(crate) mod statistics;
pub(crate) mod topic_pattern;
mod units;
mod view;

pub(crate) use self::effect::{
    EffectBegin, EffectSettings, MailSettings, RetrySettings, WebhookSettings,
};
pub(crate) use self::file::{Config, DEFAULT_FILE, Http, Log, LogFormat};
pub(crate) use self::load::Loaded;
pub(crate) use self::mistake::with_place;
pub(crate) use self::nearest::nearest;
pub(crate) use self::rule::RuleSettings;
pub(crate) use self::secret::{Secret, read_secret};
pub(crate) use self::sink::{
    Consistency, Emptying, FollowSchema, Kind, MongoHistorySettings, OnError, PostgresSettings,
    SinkSettings,
};
pub(crate) use self::statistics::StatisticsSettings;
pub(crate) use self::view::{IndexSettings, JoinSettings, MongoViewSettings};
