//! kafkajs, which undoes no compression but gzip by itself.

use std::process::Output;

use pg_cdc_tests::{Database, TestBed, process, reader, topic};
use serde_json::Value;

use crate::reading;

fn read(database: &Database<'_>) -> Output {
    let kafka = database.bed().kafka();
    let arguments = [
        &kafka.brokers(),
        &database.topic("reading"),
        database.name(),
    ];
    process::output(reader::kafkajs("read_topic.js", &arguments), None)
}

#[test]
fn kafkajs_reads_gzip_and_gives_up_at_lz4() {
    let bed = TestBed::start_with(&[("cdc.compression", "gzip")]);
    let (database, _client) = reading::send(&bed, "packed");
    let output = read(&database);
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{errors}");
    let mut found: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    found.sort_by_key(|record| {
        let offset = record["offset"].as_str().expect("an offset");
        (record["partition"].as_i64(), offset.parse::<i64>().ok())
    });
    let records = topic::read(bed.kafka(), &database.topic("reading"));
    let text = |bytes: &Option<Vec<u8>>| {
        bytes
            .as_deref()
            .map(String::from_utf8_lossy)
            .map(Value::from)
    };
    let wanted: Vec<Value> = records
        .iter()
        .map(|record| {
            serde_json::json!({
                "partition": record.partition, "offset": record.offset.to_string(),
                "key": text(&record.key), "value": text(&record.value),
            })
        })
        .collect();
    assert_eq!(found, wanted);

    bed.source().set("cdc.compression", "lz4");
    bed.source().reload();
    let (database, _client) = reading::send(&bed, "lz4");
    let output = read(&database);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        errors.contains("LZ4 compression not implemented"),
        "{errors}"
    );
}
