//! One record as it came from Kafka, owned: key, value and headers in one buffer.

use std::ops::Range;
use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Headers, Message};

/// A record of a topic. All its bytes lie in one allocation, whose size bounds what a batch holds.
#[derive(Debug, Clone)]
pub struct Record {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition of the topic.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// Which assignment of the partition brought it: what an earlier one still delivers is stale.
    pub epoch: u32,
    buffer: Box<[u8]>,
    key: Option<Range<u32>>,
    value: Option<Range<u32>>,
    headers: Box<[HeaderSpan]>,
}

#[derive(Debug, Clone)]
struct HeaderSpan {
    name: Range<u32>,
    value: Option<Range<u32>>,
}

impl Record {
    /// Copies the parts of a record into one buffer.
    pub fn new<'h>(
        topic: Arc<str>,
        partition: i32,
        offset: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
    ) -> Self {
        /// The headers of an event take about so much.
        const HEADER_BYTES: usize = 320;
        const HEADERS: usize = 16;
        let body_bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        let mut buffer = Vec::with_capacity(body_bytes + HEADER_BYTES);
        let mut put = |bytes: &[u8]| {
            let start = buffer.len() as u32;
            buffer.extend_from_slice(bytes);
            start..buffer.len() as u32
        };
        let key = key.map(&mut put);
        let value = value.map(&mut put);
        let mut spans = Vec::with_capacity(HEADERS);
        spans.extend(headers.map(|(name, value)| HeaderSpan {
            name: put(name.as_bytes()),
            value: value.map(&mut put),
        }));
        Record {
            topic,
            partition,
            offset,
            epoch: 0,
            buffer: buffer.into_boxed_slice(),
            key,
            value,
            headers: spans.into_boxed_slice(),
        }
    }

    /// Copies a message of `topic`.
    pub fn of(message: &BorrowedMessage<'_>, topic: Arc<str>) -> Self {
        let headers = message.headers();
        let headers = headers
            .into_iter()
            .flat_map(|headers| headers.iter().map(|header| (header.key, header.value)));
        Record::new(
            topic,
            message.partition(),
            message.offset(),
            message.key(),
            message.payload(),
            headers,
        )
    }

    /// The same with another value.
    pub fn with_value(&self, value: &[u8]) -> Self {
        Record {
            epoch: self.epoch,
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

    /// The record's key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_ref().map(|range| self.slice(range))
    }

    /// The record's value; `None` is a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_ref().map(|range| self.slice(range))
    }

    /// All headers in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> + Clone {
        self.headers.iter().map(|header| {
            // The name came in as a str, so this never falls back.
            let name = std::str::from_utf8(self.slice(&header.name)).unwrap_or_default();
            (name, header.value.as_ref().map(|range| self.slice(range)))
        })
    }

    /// The value of the first header `name` if it is UTF-8 text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|header| self.slice(&header.name) == name.as_bytes())
            .and_then(|header| header.value.as_ref())
            .and_then(|range| std::str::from_utf8(self.slice(range)).ok())
    }

    /// The values of the first headers with these names, as [`Record::header`] gives them, in one pass.
    pub fn headers_of<const N: usize>(&self, names: &[&str; N]) -> [Option<&str>; N] {
        let mut values = [None; N];
        let mut found = [false; N];
        for header in &self.headers {
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

    /// Memory that the record takes, in bytes.
    pub fn size_bytes(&self) -> usize {
        size_of::<Record>() + self.buffer.len() + self.headers.len() * size_of::<HeaderSpan>()
    }

    /// The event id: the header `cdc.id`, or the place in Kafka where a malformed record lacks it.
    pub fn event_id(&self) -> String {
        match self.header("cdc.id") {
            Some(id) => id.to_owned(),
            None => format!("{}-{}-{}", self.topic, self.partition, self.offset),
        }
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.buffer[range.start as usize..range.end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
