//! Debezium's JDBC sink connector in a worker of its own: the replica to compare companion-sink's with.

use std::path::Path;

use serde_json::{Map, Value};

use crate::connect_worker::ConnectWorker;
use crate::debezium::Purpose;
use crate::kafka::Kafka;
use crate::parts::Part;
use crate::postgres::Postgres;

/// How Java runs it: its default collector needs half as much CPU again.
pub const JAVA_OPTIONS: [&str; 2] = ["-Xmx2g", "-XX:+UseParallelGC"];
/// Settings of the connector, beside those that name places: the fastest of those tried. A task for each partition; more
/// records at a time only make its heap work harder.
pub const CONNECTOR_SETTINGS: [(&str, &str); 12] = [
    (
        "connector.class",
        "io.debezium.connector.jdbc.JdbcSinkConnector",
    ),
    ("tasks.max", "3"),
    ("insert.mode", "upsert"),
    ("delete.enabled", "true"),
    ("primary.key.mode", "record_key"),
    ("schema.evolution", "none"),
    ("batch.size", "5000"),
    ("use.reduction.buffer", "true"),
    ("consumer.override.max.poll.records", "5000"),
    ("consumer.override.max.partition.fetch.bytes", "10485760"),
    // Longer than it is ever frozen: it is not to lose its place in the group.
    ("consumer.override.session.timeout.ms", "1800000"),
    ("consumer.override.max.poll.interval.ms", "1800000"),
];
/// Parameters of the connection: the driver makes one statement of many rows out of a batch.
pub const CONNECTION_PARAMETERS: &str = "reWriteBatchedInserts=true";

/// A worker for sink connectors. Dropping it kills it.
#[derive(Debug)]
pub struct DebeziumSink {
    worker: ConnectWorker,
}

impl DebeziumSink {
    /// Starts the worker in `folder` (created), without a connector, and waits until it answers.
    ///
    /// # Panics
    /// When it ends instead, or does not answer in time.
    pub fn start(folder: &Path, kafka: &Kafka) -> DebeziumSink {
        let mut worker = ConnectWorker::start(
            "Debezium's sink",
            Part::DebeziumSink,
            folder,
            kafka,
            &JAVA_OPTIONS,
            &Purpose::Replica.converters(),
            &[],
        );
        worker.wait_until_up();
        DebeziumSink { worker }
    }

    /// Starts a connector, which applies `topic` from its beginning to `table` of a database, and waits until one of
    /// its tasks runs.
    ///
    /// # Panics
    /// When it fails instead, or does not run in time.
    pub fn add(
        &self,
        connector: &str,
        topic: &str,
        table: &str,
        target: &Postgres,
        database: &str,
    ) {
        let settings = CONNECTOR_SETTINGS.map(|(name, value)| (name, value.to_owned()));
        let url = format!(
            "jdbc:postgresql://127.0.0.1:{}/{database}?{CONNECTION_PARAMETERS}",
            target.port()
        );
        let places = [
            ("topics", topic.to_owned()),
            ("collection.name.format", table.to_owned()),
            ("connection.url", url),
            ("connection.username", "postgres".to_owned()),
            ("connection.password", "unused".to_owned()),
        ];
        let config: Map<String, Value> = settings
            .into_iter()
            .chain(places)
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect();
        self.worker.add(connector, &Value::from(config));
    }

    /// Ends a connector.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn remove(&self, connector: &str) {
        self.worker.remove(connector);
    }

    /// Fails when a task of a connector has failed.
    ///
    /// # Errors
    /// Its tasks, as the worker tells about them, or why that cannot be asked.
    pub fn check(&self, connector: &str) -> Result<(), String> {
        self.worker.check(connector)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Freezes it (SIGSTOP): it keeps its connections and what Java has compiled, and takes no time.
    pub fn freeze(&self) {
        self.worker.freeze();
    }

    /// Ends [`DebeziumSink::freeze`].
    pub fn thaw(&self) {
        self.worker.thaw();
    }
}
