//! The configuration: one TOML file, any key of which the environment can override.

mod environment;
mod file;
mod load;
mod mistake;
mod rule;
mod secret;
pub(crate) mod shown_url;
mod sink;
pub(crate) mod topic_pattern;
mod units;
mod view;

pub(crate) use self::file::{Config, DEFAULT_FILE, Http, Log, LogFormat};
pub(crate) use self::load::Loaded;
pub(crate) use self::mistake::nearest;
pub(crate) use self::rule::RuleSettings;
pub(crate) use self::secret::read_secret;
pub(crate) use self::sink::{
    Consistency, Emptying, FollowSchema, Kind, MongoHistorySettings, OnError, PostgresSettings,
    SinkSettings,
};
pub(crate) use self::view::{IndexSettings, JoinSettings, MongoViewSettings};
