//! The other side of a comparison: a server of its own with `wal_level = logical`, and Debezium, which is frozen while
//! pg_cdc is measured.

use std::thread;
use std::time::{Duration, Instant};

use pg_cdc_tests::TestBed;
use pg_cdc_tests::debezium::{Debezium, Purpose, TOPIC_PREFIX};
use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::{port, process};
use postgres::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

use crate::account;
use crate::bed::SERVER_SETTINGS;
use crate::outcome::settings;

/// The database that is shipped.
pub(crate) const DATABASE: &str = "bench";
/// What its server has beside the settings that pg_cdc's has too. Nobody answers the server while Debezium is frozen.
const LOGICAL_SETTINGS: [(&str, &str); 2] = [("wal_level", "logical"), ("wal_sender_timeout", "0")];
/// How long Debezium may take to ship what was committed.
const TIMEOUT: Duration = Duration::from_secs(1800);
/// How often the ends of the topic are asked for: what a measured time may be off by.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Debezium and the server that it reads.
pub(crate) struct OtherSide {
    // Dropped in this order.
    debezium: Debezium,
    server: Postgres,
    consumer: BaseConsumer,
}

impl OtherSide {
    /// Starts both, and freezes Debezium, which is there for its speed as a source.
    ///
    /// # Panics
    /// When one does not start.
    pub(crate) fn start(bed: &TestBed) -> OtherSide {
        OtherSide::start_for(bed, Purpose::Speed)
    }

    /// As [`OtherSide::start`], for another purpose.
    pub(crate) fn start_for(bed: &TestBed, purpose: Purpose) -> OtherSide {
        let server_settings = [&SERVER_SETTINGS[..], &LOGICAL_SETTINGS].concat();
        let folder = bed.path("logical");
        let server = Postgres::create(&folder, port::free(), &server_settings);
        server.start();
        server.create_database(DATABASE);
        let folder = bed.path("debezium");
        let debezium = Debezium::start(&folder, bed.kafka(), &server, DATABASE, purpose);
        debezium.freeze();
        let consumer = bed.kafka().client_config().create();
        OtherSide {
            debezium,
            server,
            consumer: consumer.expect("a consumer"),
        }
    }

    /// Its server.
    pub(crate) fn server(&self) -> &Postgres {
        &self.server
    }

    /// Debezium's process.
    pub(crate) fn pid(&self) -> u32 {
        self.debezium.pid()
    }

    /// The topic of `account`.
    pub(crate) fn topic() -> String {
        format!("{TOPIC_PREFIX}.public.account")
    }

    /// Makes the table `account` anew; events are to have the rows as they were.
    pub(crate) fn create_account(client: &mut Client) {
        account::create(client);
        account::run(client, "ALTER TABLE account REPLICA IDENTITY FULL");
    }

    /// Does the work with Debezium thawed.
    pub(crate) fn awake<T>(&self, work: impl FnOnce() -> T) -> T {
        self.debezium.thaw();
        let result = work();
        self.debezium.freeze();
        result
    }

    /// Records in the topic; none before there is a topic.
    pub(crate) fn records(&self, kafka: &Kafka) -> i64 {
        match pg_cdc_tests::topic::offsets(kafka, &OtherSide::topic()) {
            None => 0,
            Some(offsets) => offsets.values().map(|offsets| offsets.end).sum(),
        }
    }

    /// Waits until the topic has so many records.
    ///
    /// # Panics
    /// When Debezium has ended, or takes longer than half an hour.
    pub(crate) fn wait_for_records(&self, kafka: &Kafka, wanted: i64) {
        let start = Instant::now();
        // The first events make the topic.
        while self.records(kafka) == 0 {
            self.check(start, 0, wanted);
        }
        let topic = OtherSide::topic();
        let partitions = pg_cdc_tests::topic::offsets(kafka, &topic).expect("the topic");
        loop {
            let ends = partitions.keys().map(|&partition| {
                let offsets = self
                    .consumer
                    .fetch_watermarks(&topic, partition, ANSWER_TIMEOUT);
                offsets.expect("the offsets of Debezium's topic").1
            });
            let records: i64 = ends.sum();
            if records >= wanted {
                return;
            }
            self.check(start, records, wanted);
        }
    }

    fn check(&self, start: Instant, records: i64, wanted: i64) {
        assert!(
            process::exists(self.pid()) && start.elapsed() < TIMEOUT,
            "{records} of {wanted} records after {:.0} s. Debezium's log ends:\n{}",
            start.elapsed().as_secs_f64(),
            self.debezium.log_tail()
        );
        thread::sleep(LOOK_EVERY);
    }

    /// How it is set up, for the record.
    pub(crate) fn settings() -> Value {
        OtherSide::settings_for(Purpose::Speed)
    }

    /// As [`OtherSide::settings`], for another purpose.
    pub(crate) fn settings_for(purpose: Purpose) -> Value {
        json!({
            "postgresql": settings(&LOGICAL_SETTINGS),
            "java_options": purpose.java_options(),
            "worker": settings(&purpose.worker_settings()),
            "connector": settings(&purpose.connector_settings()),
        })
    }
}
