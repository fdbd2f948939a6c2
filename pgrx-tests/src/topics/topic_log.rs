//! What a broker keeps on its disk of a topic: batches of records.

use std::path::Path;

use crate::kafka::Kafka;

/// Bytes of a batch before its records, and where some things are there (Kafka's record format 2, big endian).
const HEADER_BYTES: usize = 61;
const LENGTH_AT: usize = 8;
const ATTRIBUTES_AT: usize = 21;
/// What the length does not count.
const BYTES_BEFORE_LENGTH: usize = 12;

/// How the batches of a topic's first partition are compressed, in their order.
///
/// # Panics
/// When there is no such topic, or its log is not what Kafka writes.
pub fn compressions(kafka: &Kafka, topic: &str) -> Vec<&'static str> {
    let mut segments: Vec<_> = kafka
        .partition_folder(topic, 0)
        .read_dir()
        .expect("the folder of the partition")
        .map(|file| file.expect("a file of the partition").path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    segments.iter().flat_map(|file| of_segment(file)).collect()
}

fn of_segment(file: &Path) -> Vec<&'static str> {
    let bytes = std::fs::read(file).expect("a segment");
    let mut rest = bytes.as_slice();
    let mut found = Vec::new();
    // The broker may have written only a part of the last one.
    while rest.len() >= HEADER_BYTES {
        let length = rest[LENGTH_AT..].first_chunk().expect("four bytes");
        let length = usize::try_from(i32::from_be_bytes(*length)).expect("a length");
        let attributes = rest[ATTRIBUTES_AT..].first_chunk().expect("two bytes");
        found.push(match i16::from_be_bytes(*attributes) & 7 {
            0 => "none",
            1 => "gzip",
            2 => "snappy",
            3 => "lz4",
            4 => "zstd",
            other => panic!("compression {other}"),
        });
        rest = rest.get(BYTES_BEFORE_LENGTH + length..).unwrap_or_default();
    }
    found
}
