//! Debezium's connector for PostgreSQL, in a worker of Kafka Connect: the reference for events that its readers parse,
//! and for speed.

use std::path::Path;
use std::time::Duration;

use crate::connect_worker::{ConnectWorker, write_properties};
use crate::kafka::Kafka;
use crate::parts::Part;
use crate::postgres::Postgres;
use crate::wait_until;

const TIMEOUT: Duration = Duration::from_secs(120);
const SLOT: &str = "debezium";
const CONVERTER: &str = "org.apache.kafka.connect.json.JsonConverter";

/// Topics are `<prefix>.<schema>.<table>`.
pub const TOPIC_PREFIX: &str = "dbz";

/// What a connector is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To compare its events with pg_cdc's, on the same server: the values and metadata that pg_cdc has too, in a process
    /// that is up soon.
    Events,
    /// To compare its speed: large batches, time and memory for Java's compilers, and otherwise Debezium's defaults, which
    /// cost it least.
    Speed,
    /// As [`Purpose::Speed`], for topics that Debezium's JDBC sink reads: it wants schemas, and needs no tombstones.
    Replica,
}

impl Purpose {
    /// Options of Java.
    pub fn java_options(self) -> &'static [&'static str] {
        match self {
            Purpose::Events => &["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],
            Purpose::Speed | Purpose::Replica => &["-Xmx2g"],
        }
    }

    /// Settings of Kafka Connect's worker that say how records are written and read.
    pub fn converters(self) -> [(&'static str, &'static str); 5] {
        let schemas = match self {
            Purpose::Events | Purpose::Speed => "false",
            Purpose::Replica => "true",
        };
        [
            ("key.converter", CONVERTER),
            ("key.converter.schemas.enable", schemas),
            ("value.converter", CONVERTER),
            ("value.converter.schemas.enable", schemas),
            ("plugin.discovery", "only_scan"),
        ]
    }

    /// Settings of Kafka Connect's worker, beside those that name places.
    pub fn worker_settings(self) -> Vec<(&'static str, &'static str)> {
        let mut settings = self.converters().to_vec();
        settings.extend_from_slice(match self {
            Purpose::Events => &[("offset.flush.interval.ms", "1000")],
            Purpose::Speed | Purpose::Replica => &[
                ("producer.linger.ms", "5"),
                ("producer.compression.type", "lz4"),
                ("producer.batch.size", "1000000"),
            ],
        });
        settings
    }

    /// Settings of the connector, beside those that name places.
    pub fn connector_settings(self) -> Vec<(&'static str, &'static str)> {
        let mut settings = vec![
            (
                "connector.class",
                "io.debezium.connector.postgresql.PostgresConnector",
            ),
            ("tasks.max", "1"),
            ("plugin.name", "pgoutput"),
            ("publication.autocreate.mode", "all_tables"),
            ("schema.include.list", "public"),
            ("snapshot.mode", "no_data"),
            ("poll.interval.ms", "10"),
        ];
        settings.extend_from_slice(match self {
            // Those that docs/debezium.md names.
            Purpose::Events => &[
                ("decimal.handling.mode", "string"),
                ("time.precision.mode", "isostring"),
                ("interval.handling.mode", "string"),
                ("binary.handling.mode", "base64"),
                ("hstore.handling.mode", "json"),
                ("provide.transaction.metadata", "true"),
                ("skipped.operations", "none"),
                ("tombstones.on.delete", "true"),
                ("include.unknown.datatypes", "true"),
                ("message.prefix.exclude.list", "pg_cdc"),
                ("signal.data.collection", "public.debezium_signal"),
            ],
            Purpose::Speed => &[("max.batch.size", "20480"), ("max.queue.size", "81920")],
            Purpose::Replica => &[
                ("max.batch.size", "20480"),
                ("max.queue.size", "81920"),
                ("tombstones.on.delete", "false"),
            ],
        });
        settings
    }
}

/// A running connector. Dropping it kills it.
#[derive(Debug)]
pub struct Debezium {
    worker: ConnectWorker,
}

impl Debezium {
    /// Starts it for the tables of the schema `public` in `database`, without a snapshot, and waits until it streams. The
    /// server must have `wal_level = logical`.
    ///
    /// # Panics
    /// When it ends instead, or does not stream in time.
    pub fn start(
        folder: &Path,
        kafka: &Kafka,
        source: &Postgres,
        database: &str,
        purpose: Purpose,
    ) -> Debezium {
        std::fs::create_dir_all(folder).expect("a folder for Debezium");
        let connector = folder.join("connector.properties");
        let places = [
            ("name", "debezium".to_owned()),
            ("database.hostname", "127.0.0.1".to_owned()),
            ("database.port", source.port().to_string()),
            ("database.user", "postgres".to_owned()),
            ("database.password", "unused".to_owned()),
            ("database.dbname", database.to_owned()),
            ("topic.prefix", TOPIC_PREFIX.to_owned()),
            ("slot.name", SLOT.to_owned()),
        ];
        write_properties(&connector, &purpose.connector_settings(), &places);
        let mut worker = ConnectWorker::start(
            "Debezium",
            Part::Debezium,
            folder,
            kafka,
            purpose.java_options(),
            &purpose.worker_settings(),
            &[&connector],
        );
        let mut client = source.connect("postgres");
        wait_until("Debezium to stream", TIMEOUT, || {
            worker.check_running().unwrap_or_else(|e| panic!("{e}"));
            // An active slot is not enough: it is active while it is made, too, and Debezium takes its first position after
            // that. What is written in between it does not send.
            let query = "SELECT FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid \
                         WHERE s.slot_name = $1 AND r.state IN ('catchup', 'streaming')";
            match client.query_opt(query, &[&SLOT]).expect("the slot") {
                Some(_) => Ok(()),
                None => Err(worker.log_tail()),
            }
        });
        Debezium { worker }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Freezes it (SIGSTOP): it keeps its connections and what Java has compiled, and takes no time. Its server should
    /// have `wal_sender_timeout = 0`.
    pub fn freeze(&self) {
        self.worker.freeze();
    }

    /// Ends [`Debezium::freeze`].
    pub fn thaw(&self) {
        self.worker.thaw();
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.worker.log_tail()
    }
}
