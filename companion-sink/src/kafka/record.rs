//! Records as they came from Kafka, owned: keys, values and headers of those that were read together in one buffer.

use change::event::headers::HeaderName;
use change::event::op::Op;
use std::borrow::Cow;
use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;

use rdkafka::bindings::{rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_resp_err_t};
use rdkafka::message::{BorrowedMessage, Message};

/// A record of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The topic's name.
    pub(crate) topic: Arc<str>,
    /// The partition of the topic.
    pub(crate) partition: i32,
    /// The offset in the partition.
    pub(crate) offset: i64,
    /// Which assignment of the partition brought it: what an earlier one still delivers is stale.
    pub(crate) epoch: u32,
    /// Its version was seen to be none: the sender has said for long enough that it has not come so far.
    pub(crate) is_disbelieved: bool,
    /// When it was made or came to Kafka, milliseconds since 1970; none where Kafka does not say.
    pub(crate) time_ms: Option<i64>,
    block: Arc<Block>,
    parts: Parts,
}

/// Where a record lies in its topic, and since when.
#[derive(Debug, Clone, Copy)]
struct Place {
    partition: i32,
    offset: i64,
    time_ms: Option<i64>,
}

impl Place {
    fn of(message: &BorrowedMessage<'_>) -> Place {
        Place {
            partition: message.partition(),
            offset: message.offset(),
            time_ms: message.timestamp().to_millis(),
        }
    }
}

/// What records that were read together consist of.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    headers: Vec<HeaderSpan>,
}

/// Where the parts of a record lie in its block.
#[derive(Debug, Clone)]
struct Parts {
    bytes: Range<u32>,
    key: Option<Range<u32>>,
    value: Option<Range<u32>>,
    headers: Range<u32>,
    /// The places of [`OP_HEADER`] and [`VERSION_HEADER`] in the block: every step asks for them.
    op: Option<u32>,
    version: Option<u32>,
    /// A header's name is not UTF-8.
    has_strange_header: bool,
}

const OP_HEADER: &str = HeaderName::OP.as_str();
const VERSION_HEADER: &str = HeaderName::VERSION.as_str();

#[derive(Debug, Clone)]
struct HeaderSpan {
    name: Range<u32>,
    value: Option<Range<u32>>,
}

/// Gathers records into one allocation, which lives as long as one of them: for those that are also dropped together.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    block: Block,
    records: Vec<(Arc<str>, Place, Parts)>,
    bytes: usize,
}

impl Gathering {
    /// Copies a message of `topic`.
    pub(crate) fn add(&mut self, message: &BorrowedMessage<'_>, topic: Arc<str>) {
        let (key, value) = (message.key(), message.payload());
        let parts = self.block.put(key, value, MessageHeaders::of(message));
        self.push(topic, Place::of(message), parts);
    }

    fn push(&mut self, topic: Arc<str>, place: Place, parts: Parts) {
        self.bytes += parts.size_bytes();
        self.records.push((topic, place, parts));
    }

    /// Memory that the records take, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes
    }

    /// The records in their order.
    pub(crate) fn finish(mut self) -> Vec<Record> {
        self.block.bytes.shrink_to_fit();
        self.block.headers.shrink_to_fit();
        let block = Arc::new(self.block);
        let records = self.records.into_iter();
        let record = |(topic, place, parts): (_, Place, _)| Record {
            topic,
            partition: place.partition,
            offset: place.offset,
            epoch: 0,
            is_disbelieved: false,
            time_ms: place.time_ms,
            block: Arc::clone(&block),
            parts,
        };
        records.map(record).collect()
    }
}

impl Block {
    fn put<'h>(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Parts {
        /// The headers of an event take about so much.
        const HEADER_BYTES: usize = 512;
        const HEADERS: usize = 16;
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        self.bytes
            .reserve(length(key) + length(value) + HEADER_BYTES);
        self.headers.reserve(HEADERS);
        let (first_byte, first_header) = (self.bytes.len() as u32, self.headers.len() as u32);
        let key = key.map(|key| self.put_bytes(key));
        let value = value.map(|value| self.put_bytes(value));
        let (mut op, mut version) = (None, None);
        let mut has_strange_header = false;
        for (name, value) in headers {
            let name = String::from_utf8_lossy(name);
            // Borrowed unless something of it had to be replaced.
            has_strange_header |= matches!(name, Cow::Owned(_));
            match &*name {
                OP_HEADER => op = op.or(Some(self.headers.len() as u32)),
                VERSION_HEADER => version = version.or(Some(self.headers.len() as u32)),
                _ => {}
            }
            let header = HeaderSpan {
                name: self.put_bytes(name.as_bytes()),
                value: value.map(|value| self.put_bytes(value)),
            };
            self.headers.push(header);
        }
        Parts {
            bytes: first_byte..self.bytes.len() as u32,
            key,
            value,
            headers: first_header..self.headers.len() as u32,
            op,
            version,
            has_strange_header,
        }
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len() as u32
    }
}

impl Parts {
    fn size_bytes(&self) -> usize {
        size_of::<Record>() + self.bytes.len() + self.headers.len() * size_of::<HeaderSpan>()
    }
}

/// The headers of a message. The names are bytes: whoever may write a topic may write any, and rdkafka's own way to them
/// panics where one is not UTF-8.
struct MessageHeaders<'m> {
    message: &'m BorrowedMessage<'m>,
    /// None where the message has none.
    headers: Option<*const rd_kafka_headers_t>,
    next: usize,
}

impl<'m> MessageHeaders<'m> {
    fn of(message: &'m BorrowedMessage<'m>) -> Self {
        let headers = message.headers();
        MessageHeaders {
            message,
            headers: headers.map(|headers| std::ptr::from_ref(headers).cast()),
            next: 0,
        }
    }
}

impl<'m> Iterator for MessageHeaders<'m> {
    type Item = (&'m [u8], Option<&'m [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let headers = self.headers?;
        let (mut name, mut value, mut length) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: rdkafka's `BorrowedHeaders` is nothing but the place of librdkafka's headers, which live as long as the message.
        let found = unsafe {
            rd_kafka_header_get_all(headers, self.next, &mut name, &mut value, &mut length)
        };
        if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return None;
        }
        self.next += 1;
        let _lives = self.message;
        // SAFETY: librdkafka ends names by a zero and gives the length of a value, null for none; both live with the message.
        unsafe {
            let name: &'m [u8] = CStr::from_ptr(name).to_bytes();
            let value =
                (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), length));
            Some((name, value))
        }
    }
}

impl Record {
    /// Copies the parts of a record.
    pub(crate) fn new<'h>(
        topic: Arc<str>,
        partition: i32,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Self {
        let headers = headers.map(|(name, value)| (name.as_bytes(), value));
        Record::of_parts(topic, partition, offset, key, value, headers)
    }

    fn of_parts<'h>(
        topic: Arc<str>,
        partition: i32,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h [u8], Option<&'h [u8]>)>,
    ) -> Self {
        let mut block = Block::default();
        let parts = block.put(key, value, headers);
        block.bytes.shrink_to_fit();
        block.headers.shrink_to_fit();
        Record {
            topic,
            partition,
            offset,
            epoch: 0,
            is_disbelieved: false,
            time_ms: None,
            block: Arc::new(block),
            parts,
        }
    }

    /// Copies a message of `topic`.
    pub(crate) fn of(message: &BorrowedMessage<'_>, topic: Arc<str>) -> Self {
        let (key, value) = (message.key(), message.payload());
        let (place, headers) = (Place::of(message), MessageHeaders::of(message));
        Record {
            time_ms: place.time_ms,
            ..Record::of_parts(topic, place.partition, place.offset, key, value, headers)
        }
    }

    /// The same with another value.
    pub(crate) fn with_value(&self, value: &[u8]) -> Self {
        Record {
            epoch: self.epoch,
            time_ms: self.time_ms,
            ..Record::new(
                Arc::clone(&self.topic),
                self.partition,
                self.offset,
                self.key(),
                Some(value),
                self.headers(),
            )
        }
    }

    /// The same, of a control topic, as one of the topic `topic` that it is about: as it stood there at `offset` of a partition.
    pub(crate) fn about(&self, topic: Arc<str>, partition: i32, offset: i64) -> Self {
        Record {
            topic,
            partition,
            offset,
            ..self.clone()
        }
    }

    /// The record's key.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.parts.key.as_ref().map(|range| self.slice(range))
    }

    /// The record's value; `None` is a tombstone.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.parts.value.as_ref().map(|range| self.slice(range))
    }

    /// All headers in their order.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> + Clone {
        self.spans().iter().map(|header| {
            // What is not UTF-8 was replaced when it came in, so this never falls back.
            let name = std::str::from_utf8(self.slice(&header.name)).unwrap_or_default();
            (name, header.value.as_ref().map(|range| self.slice(range)))
        })
    }

    /// The value of the first header `name` if it is UTF-8 text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.spans().iter();
        self.text(headers.find(|header| self.slice(&header.name) == name.as_bytes()))
    }

    /// The header `cdc.op`: what happened.
    pub(crate) fn op(&self) -> Option<Op> {
        self.op_text().and_then(Op::parse)
    }

    /// Whether it is about its table as a whole.
    pub(crate) fn is_about_table(&self) -> bool {
        self.op().is_some_and(Op::is_about_table)
    }

    /// The same as it stands there, known or not.
    pub(crate) fn op_text(&self) -> Option<&str> {
        self.text(self.block.headers.get(self.parts.op? as usize))
    }

    /// The header `cdc.version`: the event's place in the order of all.
    pub(crate) fn version(&self) -> Option<&str> {
        self.text(self.block.headers.get(self.parts.version? as usize))
    }

    fn text(&self, header: Option<&HeaderSpan>) -> Option<&str> {
        let range = header?.value.as_ref()?;
        std::str::from_utf8(self.slice(range)).ok()
    }

    /// The values of the first headers with these names, as [`Record::header`] gives them, in one pass.
    pub(crate) fn headers_of<const N: usize>(&self, names: &[&str; N]) -> [Option<&str>; N] {
        let mut values = [None; N];
        let mut found = [false; N];
        for header in self.spans() {
            let name = self.slice(&header.name);
            let Some(place) = names.iter().position(|wanted| wanted.as_bytes() == name) else {
                continue;
            };
            if !std::mem::replace(&mut found[place], true) {
                let value = header.value.as_ref().map(|range| self.slice(range));
                values[place] = value.and_then(|bytes| std::str::from_utf8(bytes).ok());
            }
        }
        values
    }

    /// Whether the name of a header is not UTF-8.
    pub(crate) fn has_strange_header(&self) -> bool {
        self.parts.has_strange_header
    }

    /// Memory that the record takes, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.parts.size_bytes()
    }

    /// The event id: the header `cdc.id`, or the place in Kafka where a malformed record lacks it.
    pub(crate) fn event_id(&self) -> String {
        match self.header(HeaderName::ID.as_str()) {
            Some(id) => id.to_owned(),
            None => format!("{}-{}-{}", self.topic, self.partition, self.offset),
        }
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.block.bytes[range.start as usize..range.end as usize]
    }

    fn spans(&self) -> &[HeaderSpan] {
        let Range { start, end } = self.parts.headers;
        &self.block.headers[start as usize..end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_are_gathered_are_as_alone() {
        type Parts = (
            Option<&'static [u8]>,
            Option<&'static [u8]>,
            &'static [&'static str],
        );
        let bodies: [Parts; 4] = [
            (
                Some(b"k1"),
                Some(b"first"),
                &["cdc.id", "cdc.op", "cdc.version"],
            ),
            (None, None, &[]),
            (None, Some(b""), &["cdc.version", "cdc.op", "cdc.op"]),
            (Some(b""), None, &["other"]),
        ];
        let mut gathering = Gathering::default();
        let mut alone = Vec::new();
        for (offset, (key, value, names)) in bodies.into_iter().enumerate() {
            let texts: Vec<String> = (0..names.len()).map(|n| format!("{offset}.{n}")).collect();
            let values = texts.iter().map(|text| Some(text.as_bytes()));
            let headers: Vec<_> = names.iter().copied().zip(values).collect();
            let as_bytes = headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), *value));
            let parts = gathering.block.put(key, value, as_bytes);
            let place = Place {
                partition: 3,
                offset: offset as i64,
                time_ms: None,
            };
            gathering.push("t".into(), place, parts);
            alone.push(Record::new(
                "t".into(),
                3,
                offset as i64,
                key,
                value,
                headers.into_iter(),
            ));
        }
        let bytes: usize = alone.iter().map(Record::size_bytes).sum();
        assert_eq!(gathering.size_bytes(), bytes);
        let together = gathering.finish();
        assert_eq!(together.len(), alone.len());
        for (one, other) in together.iter().zip(&alone) {
            assert_eq!(
                (one.offset, one.key(), one.value()),
                (other.offset, other.key(), other.value())
            );
            assert!(one.headers().eq(other.headers()));
            assert_eq!(
                (one.op_text(), one.version()),
                (other.header("cdc.op"), other.header("cdc.version"))
            );
        }
        assert_eq!(together[2].op_text(), Some("2.1"), "the first of its name");
    }

    #[test]
    fn parts_come_back_as_they_went_in() {
        let headers: [(&str, Option<&[u8]>); 3] = [
            ("cdc.id", Some(b"n-1")),
            ("empty", None),
            ("bytes", Some(&[0xff, 0])),
        ];
        let record = Record::new(
            "t".into(),
            1,
            2,
            Some(b"key"),
            None,
            headers.iter().copied(),
        );
        assert_eq!(record.key(), Some(&b"key"[..]));
        assert_eq!(record.value(), None);
        assert!(record.headers().eq(headers));
        assert_eq!(record.header("cdc.id"), Some("n-1"));
        assert_eq!(record.header("bytes"), None);
        assert_eq!(
            record.headers_of(&["empty", "none", "cdc.id"]),
            [None, None, Some("n-1")]
        );
        assert_eq!(record.event_id(), "n-1");
    }
}
