//! The limit: the records that the sender produced, already rendered, sent by librdkafka with the sender's settings.

use std::ffi::CString;
use std::ops::Range;
use std::time::{Duration, Instant};

use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::topic;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, Producer};
use shipper::kafka::produce::{self, Arguments, Topic};
use shipper::kafka::settings::{BATCH_BYTES, event_defaults, event_promises};

/// Those that the sender gives its producer.
pub(crate) fn settings() -> Vec<(&'static str, String)> {
    let settings = event_defaults("lz4").into_iter();
    settings.chain(event_promises(BATCH_BYTES)).collect()
}

/// Records produced before delivery reports are served again.
const RECORDS_PER_ROUND: usize = 512;
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Records in memory, in the order of their versions, which is the order in which the sender produced them.
pub(crate) struct Records {
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
    pub(crate) fn read(kafka: &Kafka, topic: &str) -> Records {
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
    pub(crate) fn count(&self) -> usize {
        self.records.len()
    }

    /// Bytes of keys, values and headers.
    pub(crate) fn bytes(&self) -> usize {
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
    pub(crate) fn send(&self, kafka: &Kafka, topic: &str) -> f64 {
        let mut config = kafka.client_config();
        for (name, value) in settings() {
            config.set(name, value);
        }
        let producer: BaseProducer = config.create().expect("a producer");
        let handle = Topic::new(&producer, topic);
        let mut arguments = Arguments::default();
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
            self.produce(&producer, &handle, record, &mut arguments);
            wait_until_acknowledged(&producer);
        }

        let start = Instant::now();
        for round in self.records.chunks(RECORDS_PER_ROUND) {
            for record in round {
                self.produce(&producer, &handle, record, &mut arguments);
            }
            producer.poll(Duration::ZERO);
        }
        wait_until_acknowledged(&producer);
        let seconds = start.elapsed().as_secs_f64();

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
        topic: &Topic<'_>,
        kept: &Record,
        arguments: &mut Arguments,
    ) {
        let record = produce::Record {
            topic,
            partition: kept.partition,
            key: Some(&self.bytes[kept.key.clone()]),
            value: Some(&self.bytes[kept.value.clone()]),
            opaque: 0,
        };
        loop {
            let headers = self.headers[kept.headers.clone()].iter();
            let headers = headers.map(|header| {
                let name = self.header_names[header.name].as_c_str();
                (name, &self.bytes[header.value.clone()])
            });
            // SAFETY: `send` borrows these records until all are acknowledged.
            match unsafe { arguments.produce_in_place(producer, &record, headers) } {
                Ok(()) => return,
                Err(RDKafkaErrorCode::QueueFull) => {
                    producer.poll(Duration::from_millis(1));
                }
                Err(code) => panic!("librdkafka refuses a record: {code}"),
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
