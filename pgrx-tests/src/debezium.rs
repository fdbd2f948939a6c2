//! Debezium's connector for PostgreSQL, in Kafka Connect's standalone worker: the reference for events that its readers parse.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::process::{self, Process};
use crate::{parts, port, wait_until};

const TIMEOUT: Duration = Duration::from_secs(120);
const SLOT: &str = "debezium";

/// Topics are `<prefix>.<schema>.<table>`.
pub const TOPIC_PREFIX: &str = "dbz";

/// A running connector. Dropping it kills it.
#[derive(Debug)]
pub struct Debezium {
    _process: Process,
    log: PathBuf,
}

impl Debezium {
    /// Starts it for the tables of the schema `public` in `database`, without a snapshot, and waits until it streams. The
    /// server must have `wal_level = logical`.
    ///
    /// # Panics
    /// When it ends instead, or does not stream in time.
    pub fn start(folder: &Path, kafka: &Kafka, source: &Postgres, database: &str) -> Debezium {
        std::fs::create_dir_all(folder).expect("a folder for Debezium");
        let worker = folder.join("worker.properties");
        let connector = folder.join("connector.properties");
        let offsets = folder.join("offsets");
        std::fs::write(&worker, worker_properties(kafka, &offsets)).expect("worker.properties");
        std::fs::write(&connector, connector_properties(source, database))
            .expect("connector.properties");
        let mut java = Command::new("java");
        java.args([
            "-Xmx1g",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ])
        .arg("-cp")
        .arg(parts::debezium_libs().join("*"))
        .arg("org.apache.kafka.connect.cli.ConnectStandalone")
        .arg(&worker)
        .arg(&connector);
        let log = folder.join("debezium.log");
        let mut process = Process::start("Debezium", java, None, &log, libc::SIGKILL);
        let mut client = source.connect("postgres");
        wait_until("Debezium to stream", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            let query = "SELECT active FROM pg_replication_slots WHERE slot_name = $1";
            match client.query_opt(query, &[&SLOT]).expect("the slot") {
                Some(row) if row.get::<_, bool>(0) => Ok(()),
                _ => Err(process::log_tail(&log, 20)),
            }
        });
        Debezium {
            _process: process,
            log,
        }
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        process::log_tail(&self.log, 20)
    }
}

fn worker_properties(kafka: &Kafka, offsets: &Path) -> String {
    let converter = "org.apache.kafka.connect.json.JsonConverter";
    format!(
        "bootstrap.servers={}
key.converter={converter}
key.converter.schemas.enable=false
value.converter={converter}
value.converter.schemas.enable=false
offset.storage.file.filename={}
offset.flush.interval.ms=1000
plugin.discovery=only_scan
listeners=http://127.0.0.1:{}
",
        kafka.brokers(),
        offsets.display(),
        port::free()
    )
}

/// The settings that DESIGN section 4 names.
fn connector_properties(source: &Postgres, database: &str) -> String {
    format!(
        "name=debezium
connector.class=io.debezium.connector.postgresql.PostgresConnector
tasks.max=1
plugin.name=pgoutput
database.hostname=127.0.0.1
database.port={}
database.user=postgres
database.password=unused
database.dbname={database}
topic.prefix={TOPIC_PREFIX}
slot.name={SLOT}
publication.autocreate.mode=all_tables
schema.include.list=public
snapshot.mode=no_data
decimal.handling.mode=string
time.precision.mode=isostring
interval.handling.mode=string
binary.handling.mode=base64
hstore.handling.mode=json
provide.transaction.metadata=true
skipped.operations=none
tombstones.on.delete=true
include.unknown.datatypes=true
message.prefix.exclude.list=pg_cdc
poll.interval.ms=10
",
        source.port()
    )
}
