//! The limit: the records that the sender produced, already rendered, sent by librdkafka with the sender's settings.

use std::ffi::{CString, c_void};
use std::ops::Range;
use std::ptr;
use std::time::{Duration, Instant};

use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::topic;
use rdkafka::bindings as rd;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, Producer};

/// As in `crates/shipper/src/kafka.rs`.
pub const SETTINGS: [(&str, &str); 12] = [
    ("compression.type", "lz4"),
    ("linger.ms", "0.5"),
    ("batch.size", "1000000"),
    ("batch.num.messages", "100000"),
    ("message.max.bytes", "268000000"),
    ("queue.buffering.max.messages", "1000000"),
    ("queue.buffering.max.kbytes", "2097151"),
    ("statistics.interval.ms", "2000"),
    ("enable.idempotence", "true"),
    ("enable.gapless.guarantee", "true"),
    ("acks", "all"),
    ("message.timeout.ms", "0"),
];
/// Records produced before delivery reports are served again.
const RECORDS_PER_ROUND: usize = 512;
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Records in memory, in the order of their versions, which is the order in which the sender produced them.
pub struct Records {
    bytes: Vec<u8>,
    header_names: Vec<CString>,
    headers: Vec<Header>,
    records: Vec<Record>,
}

struct Header {
    /// Place of the name.
    name: usize,
    value: Range<usize>,
}

struct Record {
    partition: i32,
    key: Range<usize>,
    value: Range<usize>,
    headers: Range<usize>,
    version: Range<usize>,
}

impl Records {
    /// Reads the row changes of a topic back.
    ///
    /// # Panics
    /// When one has no key, no value, or not the headers that the sender gives it.
    pub fn read(kafka: &Kafka, topic: &str) -> Records {
        let mut read = Records {
            bytes: Vec::new(),
            header_names: Vec::new(),
            headers: Vec::new(),
            records: Vec::new(),
        };
        topic::visit(kafka, topic, |message| read.take(message));
        let Records { bytes, records, .. } = &mut read;
        records.sort_by(|one, other| bytes[one.version.clone()].cmp(&bytes[other.version.clone()]));
        read
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Bytes of keys, values and headers.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let headers = message.headers().expect("headers");
        let is_row_change = headers.iter().any(|header| {
            header.key == "cdc.op" && matches!(header.value, Some(b"c" | b"u" | b"d"))
        });
        if !is_row_change {
            return;
        }
        let key = self.keep(message.key().expect("a key"));
        let value = self.keep(message.payload().expect("a value"));
        let first = self.headers.len();
        let mut version = None;
        for header in headers.iter() {
            let kept = Header {
                name: self.header_name(header.key),
                value: self.keep(header.value.expect("a header's value")),
            };
            if header.key == "cdc.version" {
                version = Some(kept.value.clone());
            }
            self.headers.push(kept);
        }
        self.records.push(Record {
            partition: message.partition(),
            key,
            value,
            headers: first..self.headers.len(),
            version: version.expect("cdc.version"),
        });
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn header_name(&mut self, name: &str) -> usize {
        let mut known = self.header_names.iter();
        if let Some(place) = known.position(|known| known.as_bytes() == name.as_bytes()) {
            return place;
        }
        let name = CString::new(name).expect("a name without a zero byte");
        self.header_names.push(name);
        self.header_names.len() - 1
    }

    /// Sends all into a new topic, each into the partition that it was in; returns the seconds until all are
    /// acknowledged. The broker must give a new topic as many partitions.
    ///
    /// # Panics
    /// When the topic has other records afterwards than these.
    pub fn send(&self, kafka: &Kafka, topic: &str) -> f64 {
        let mut config = kafka.client_config();
        for (name, value) in SETTINGS {
            config.set(name, value);
        }
        let producer: BaseProducer = config.create().expect("a producer");
        let name = CString::new(topic).expect("a name without a zero byte");
        // SAFETY: the client's handle is live; the topic's handle is destroyed below, before it.
        let handle = unsafe {
            rd::rd_kafka_topic_new(
                producer.client().native_ptr(),
                name.as_ptr(),
                ptr::null_mut(),
            )
        };
        let mut arguments = Vec::new();
        // The sender is connected and known in every partition when a load comes: so is this.
        let partitions = self.records.iter().map(|record| record.partition).max();
        let partitions = partitions.map_or(0, |highest| highest + 1);
        let firsts = (0..partitions).filter_map(|number| {
            self.records
                .iter()
                .find(|record| record.partition == number)
        });
        let firsts: Vec<&Record> = firsts.collect();
        for record in &firsts {
            self.produce(&producer, handle, record, &mut arguments);
            wait_until_acknowledged(&producer);
        }

        let start = Instant::now();
        for round in self.records.chunks(RECORDS_PER_ROUND) {
            for record in round {
                self.produce(&producer, handle, record, &mut arguments);
            }
            producer.poll(Duration::ZERO);
        }
        wait_until_acknowledged(&producer);
        let seconds = start.elapsed().as_secs_f64();

        // SAFETY: made above, destroyed once; no record is on its way.
        unsafe { rd::rd_kafka_topic_destroy(handle) };
        let offsets = topic::offsets(kafka, topic).expect("the topic");
        let found: i64 = offsets.values().map(|offsets| offsets.end).sum();
        assert_eq!(
            found,
            (self.count() + firsts.len()) as i64,
            "records in {topic}"
        );
        seconds
    }

    /// The same call as the sender's, but keys and values stay where they are: nothing is copied.
    fn produce(
        &self,
        producer: &BaseProducer,
        topic: *mut rd::rd_kafka_topic_t,
        record: &Record,
        arguments: &mut Vec<rd::rd_kafka_vu_t>,
    ) {
        use rd::rd_kafka_vtype_t as kind;
        arguments.clear();
        let mut push = |vtype, u| arguments.push(rd::rd_kafka_vu_t { vtype, u });
        let bytes = |range: &Range<usize>| rd::rd_kafka_vu_s__bindgen_ty_1 {
            mem: rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                ptr: self.bytes[range.clone()]
                    .as_ptr()
                    .cast_mut()
                    .cast::<c_void>(),
                size: range.len(),
            },
        };
        push(
            kind::RD_KAFKA_VTYPE_RKT,
            rd::rd_kafka_vu_s__bindgen_ty_1 { rkt: topic },
        );
        push(
            kind::RD_KAFKA_VTYPE_PARTITION,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                i32_: record.partition,
            },
        );
        push(kind::RD_KAFKA_VTYPE_KEY, bytes(&record.key));
        push(kind::RD_KAFKA_VTYPE_VALUE, bytes(&record.value));
        for header in &self.headers[record.headers.clone()] {
            let value = &self.bytes[header.value.clone()];
            let header = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
                name: self.header_names[header.name].as_ptr(),
                val: value.as_ptr().cast(),
                size: value.len() as isize,
            };
            push(
                kind::RD_KAFKA_VTYPE_HEADER,
                rd::rd_kafka_vu_s__bindgen_ty_1 { header },
            );
        }
        loop {
            // SAFETY: every pointer outlives the call; the value, which is not copied, outlives its delivery, for `send`
            // borrows these records until all are acknowledged.
            let code = unsafe {
                let error = rd::rd_kafka_produceva(
                    producer.client().native_ptr(),
                    arguments.as_ptr(),
                    arguments.len(),
                );
                let code = rd::rd_kafka_error_code(error);
                if !error.is_null() {
                    rd::rd_kafka_error_destroy(error);
                }
                code
            };
            match code {
                rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => return,
                rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => {
                    producer.poll(Duration::from_millis(1));
                }
                code => panic!("librdkafka refuses a record: {code:?}"),
            }
        }
    }
}

fn wait_until_acknowledged(producer: &BaseProducer) {
    let start = Instant::now();
    while producer.in_flight_count() > 0 {
        assert!(start.elapsed() < TIMEOUT, "records are not acknowledged");
        producer.poll(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Names and values that the sender gives its producer, out of its source.
    fn of_the_sender() -> BTreeMap<String, String> {
        let source = concat!(
            include_str!("../../crates/shipper/src/kafka.rs"),
            include_str!("../../crates/shipper/src/client.rs")
        );
        let constant = |name: &str| -> String {
            let declaration = format!("const {name}: ");
            let (_, rest) = source.split_once(&declaration).expect(name);
            let (declaration, _) = rest.split_once(';').expect(name);
            let (_, value) = declaration.split_once(" = ").expect(name);
            value.to_owned()
        };
        let (_, body) = source.split_once("pub fn run(").expect("fn run");
        let (body, _) = body.split_once("create_with_context").expect("its end");
        let body = body
            .replace("LINGER_MS", &constant("LINGER_MS"))
            .replace("MAX_RECORD_BYTES", &constant("MAX_RECORD_BYTES"))
            .replace("max_batch_bytes", &constant("BATCH_BYTES"));
        let pairs = body.split("(\"").skip(1).filter_map(|text| {
            let (name, rest) = text.split_once('"')?;
            let value = rest.strip_prefix(", ")?;
            let value = value.split(')').next()?.split(".to_").next()?;
            let value: String = value.chars().filter(|c| !"\"_".contains(*c)).collect();
            Some((name.to_owned(), value))
        });
        pairs.collect()
    }

    #[test]
    fn the_settings_are_the_senders() {
        let ours: BTreeMap<String, String> = SETTINGS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(ours, of_the_sender());
    }
}
