//! Where the real parts are on this machine. `./dev setup` puts them there; a missing one is an error, never a skip.

use std::path::{Path, PathBuf};

/// The version of Apache Kafka.
pub const KAFKA_VERSION: &str = "4.1.0";
/// The version of Debezium.
pub const DEBEZIUM_VERSION: &str = "3.3.1.Final";
/// The version of FerretDB.
pub const FERRETDB_VERSION: &str = "1.24.2";

/// The folder of the downloaded and built parts: `$PG_CDC_PARTS`, else `$HOME/.cache/pg_cdc`.
pub fn folder() -> PathBuf {
    match std::env::var_os("PG_CDC_PARTS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/pg_cdc"),
    }
}

/// The folder of Kafka's jars.
pub fn kafka_libs() -> PathBuf {
    let libs = folder().join(format!("kafka-{KAFKA_VERSION}/libs"));
    required(libs.join(format!("kafka_2.13-{KAFKA_VERSION}.jar")));
    libs
}

/// Kafka's classes as Java loads them fast.
pub fn kafka_class_archive() -> PathBuf {
    required(folder().join(format!("kafka-{KAFKA_VERSION}/classes.jsa")))
}

/// The folder of the jars of Debezium and Kafka Connect.
pub fn debezium_libs() -> PathBuf {
    let libs = folder().join(format!("debezium-{DEBEZIUM_VERSION}/libs"));
    for connector in ["postgres", "jdbc"] {
        required(libs.join(format!(
            "debezium-connector-{connector}-{DEBEZIUM_VERSION}.jar"
        )));
    }
    libs
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
    // target/PROFILE/demo and target/PROFILE/deps/TEST: the same build's binary is one or two folders up.
    let program = std::env::current_exe().expect("the path of this program");
    let beside = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("companion-sink"))
        .find(|binary| binary.exists());
    beside.unwrap_or_else(|| {
        panic!(
            "companion-sink is not built beside {}: run `./dev build`",
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
