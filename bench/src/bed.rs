//! The servers of a bench, and its progress on standard output.

use std::time::Instant;

use pg_cdc_tests::TestBed;
use pg_cdc_tests::bed::Ports;
use postgres::Client;

/// What every server of a bench has: large enough not to measure checkpoints.
pub(crate) const SERVER_SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "1GB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
];
/// Topics that are not made by pg_cdc have as many partitions as those that are (cdc.topic_partitions).
pub(crate) const KAFKA_SETTINGS: [(&str, &str); 1] = [("num.partitions", "3")];

/// A bed with the source server and Kafka running.
pub(crate) fn start_bed() -> TestBed {
    let bed = TestBed::prepare(Ports::free(), &SERVER_SETTINGS, &KAFKA_SETTINGS);
    step("Kafka", || drop(bed.kafka().brokers()));
    step("PostgreSQL", || drop(bed.source().url("")));
    bed
}

/// Does one step, and says how long it took.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!(" ✓ {name:<60} {:>7.2} s", start.elapsed().as_secs_f64());
    result
}

/// The sender's process.
pub(crate) fn sender_pid(client: &mut Client) -> u32 {
    let pid: i32 = client
        .query_one("SELECT pid FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0);
    u32::try_from(pid).expect("a process id")
}
