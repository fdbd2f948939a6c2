//! `cdc.compression`: what it says is how the records lie in Kafka, from the next reload on.

use std::time::Duration;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{TestBed, topic_log, wait_until};

const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn records_are_compressed_as_the_setting_says() {
    let bed = TestBed::start_with(&[("cdc.topic_partitions", "1")]);
    let (database, mut client) = bed.tracked_table("packed", "id serial PRIMARY KEY, note text");
    let name = database.topic("t");
    let mut insert_until_packed = |compression: &str| {
        // What was sent before the sender had the new setting is as it was.
        wait_until(compression, TIMEOUT, || {
            run(
                &mut client,
                &["INSERT INTO t (note) VALUES (repeat('x', 5000))"],
            );
            database.wait_until_in_kafka();
            let found = topic_log::compressions(bed.kafka(), &name);
            match found.last() {
                Some(last) if *last == compression => Ok(()),
                _ => Err(format!("{found:?}")),
            }
        });
    };
    insert_until_packed("lz4");
    for compression in ["gzip", "none", "snappy", "zstd", "lz4"] {
        bed.source().set("cdc.compression", compression);
        bed.source().reload();
        insert_until_packed(compression);
    }
    // The file's own property wins, under either of its names.
    for property in ["compression.type=gzip", "compression.codec=snappy"] {
        let path = bed
            .source()
            .write_file("kafka.properties", property.as_bytes(), 0o600);
        bed.source().set("cdc.kafka_config_file", &path);
        bed.source().reload();
        let (_, compression) = property.split_once('=').expect("a property");
        insert_until_packed(compression);
    }
    let changes = database
        .events("t")
        .into_iter()
        .filter(Record::is_row_change);
    let row = client.query_one("SELECT count(*) FROM t", &[]);
    let rows: i64 = row.expect("count").get(0);
    assert_eq!(changes.count() as i64, rows, "all can be read");
}
