//! The configuration: one TOML file, any key of which the environment can override.

mod environment;
mod file;
mod load;
mod mistake;
mod rule;
mod secret;
pub mod shown_url;
mod sink;
pub mod topic_pattern;
mod units;

pub use self::file::{Config, DEFAULT_FILE, Http, Kafka, Log, LogFormat};
pub use self::load::Loaded;
pub use self::mistake::nearest;
pub use self::rule::Rule;
pub use self::secret::read_secret;
pub use self::sink::{
    Consistency, Emptying, FollowSchema, Kind, MongoHistory, OnError, Postgres, Sink,
};
