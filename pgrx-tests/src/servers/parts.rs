//! Where the real parts are on this machine. `./dev setup` puts them there; a missing one is an error, never a skip.

use std::path::{Path, PathBuf};

/// A part made of jars, or of packages for Node.js.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Apache Kafka: broker, commands and client.
    Kafka,
    /// Debezium's connector for PostgreSQL, in Kafka Connect.
    Debezium,
    /// Debezium's JDBC sink, in Kafka Connect.
    DebeziumSink,
    /// MongoDB's connectors, in Kafka Connect.
    MongoSink,
    /// Flink SQL with its connector for Kafka.
    Flink,
    /// A client of Kafka in JavaScript.
    KafkaJs,
}

impl Part {
    /// The name of its folder in `pgrx-tests/parts`.
    fn name(self) -> &'static str {
        match self {
            Part::Kafka => "kafka",
            Part::Debezium => "debezium",
            Part::DebeziumSink => "debezium_sink",
            Part::MongoSink => "mongo_sink",
            Part::Flink => "flink",
            Part::KafkaJs => "kafkajs",
        }
    }

    /// Its version.
    ///
    /// # Panics
    /// When the files in `pgrx-tests/parts` do not have it.
    pub fn version(self) -> &'static str {
        let (file, before) = match self {
            Part::KafkaJs => (
                include_str!("../../parts/kafkajs/package.json"),
                "\"kafkajs\": \"".to_owned(),
            ),
            _ => (
                include_str!("../../parts/pom.xml"),
                format!("<{}.version>", self.name()),
            ),
        };
        let version = file
            .split_once(&before)
            .and_then(|(_, rest)| rest.split(['<', '"']).next());
        version.unwrap_or_else(|| panic!("no version of {}", self.name()))
    }

    /// The folder it was put into.
    fn folder(self) -> PathBuf {
        required(folder().join(format!("{}-{}", self.name(), self.version())))
    }

    /// Its jars, as Java's option `-cp` wants them.
    pub fn class_path(self) -> PathBuf {
        required(self.folder().join("libs")).join("*")
    }
}

/// The version of FerretDB.
pub const FERRETDB_VERSION: &str = "1.24.2";

/// The folder of the downloaded and built parts: `$PG_CDC_PARTS`, else `$HOME/.cache/pg_cdc`.
pub fn folder() -> PathBuf {
    match std::env::var_os("PG_CDC_PARTS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/pg_cdc"),
    }
}

/// Kafka's classes as Java loads them fast.
pub fn kafka_class_archive() -> PathBuf {
    required(Part::Kafka.folder().join("classes.jsa"))
}

/// Where Node.js finds kafkajs.
pub fn kafkajs_modules() -> PathBuf {
    required(Part::KafkaJs.folder().join("node_modules"))
}

/// FerretDB's binary.
pub fn ferretdb() -> PathBuf {
    required(folder().join(format!("ferretdb-{FERRETDB_VERSION}/ferretdb")))
}

/// The folder of PostgreSQL's programs: `$PG_CDC_PG_BIN`, else Debian's place for PostgreSQL 15.
pub fn postgres_bin() -> PathBuf {
    let folder = std::env::var_os("PG_CDC_PG_BIN").map_or_else(
        || PathBuf::from("/usr/lib/postgresql/15/bin"),
        PathBuf::from,
    );
    required(folder.join("postgres"));
    folder
}

/// The companion-sink binary: `$PG_CDC_COMPANION_SINK`, else the one built beside the running program.
pub fn companion_sink() -> PathBuf {
    if let Some(binary) = std::env::var_os("PG_CDC_COMPANION_SINK") {
        return required(PathBuf::from(binary));
    }
    built("companion-sink")
}

/// A program of this workspace: the one built beside the running program.
pub fn built(name: &str) -> PathBuf {
    // target/PROFILE/demo and target/PROFILE/deps/TEST: the same build's binary is one or two folders up.
    let program = std::env::current_exe().expect("the path of this program");
    let beside = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|binary| binary.exists());
    beside.unwrap_or_else(|| {
        panic!(
            "{name} is not built beside {}: run `./dev build`",
            program.display()
        )
    })
}

fn required(file: PathBuf) -> PathBuf {
    assert!(
        Path::new(&file).exists(),
        "{} is missing: run `./dev setup`",
        file.display()
    );
    file
}
