//! An event whose effect is not done: the event itself, for its topic may have lost it by then, and what was tried.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::effect::state::event_place::EventPlace;
use crate::kafka::record::Record;

/// An event whose effect is not done.
#[derive(Debug, Clone)]
pub(crate) struct Unfinished {
    /// The event.
    pub(crate) record: Record,
    /// What was tried.
    pub(crate) tried: Tried,
    id: String,
}

/// What was tried to have an effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tried {
    /// Attempts that failed.
    pub(crate) attempts: u32,
    /// When the event was read, microseconds since 1970.
    pub(crate) read_us: i64,
    /// Not before, microseconds since 1970.
    pub(crate) next_us: i64,
    /// Why the last attempt failed, without any value of the row.
    pub(crate) last_error: Option<String>,
}

/// As Kafka has it.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: Option<Piece>,
    value: Piece,
    headers: Vec<(String, Option<Piece>)>,
    #[serde(flatten)]
    tried: Tried,
}

/// Bytes; as text where they are one.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes { base64: String },
}

impl Piece {
    fn of(bytes: &[u8]) -> Piece {
        match std::str::from_utf8(bytes) {
            Ok(text) => Piece::Text(text.to_owned()),
            Err(_) => Piece::Bytes {
                base64: BASE64.encode(bytes),
            },
        }
    }

    fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Piece::Text(text) => Ok(text.into_bytes()),
            Piece::Bytes { base64 } => {
                let bytes = BASE64.decode(base64);
                bytes.map_err(|error| format!("base64: {error}"))
            }
        }
    }
}

impl Unfinished {
    /// One that nothing was tried for.
    pub(crate) fn new(record: Record, read_us: i64) -> Unfinished {
        let tried = Tried {
            read_us,
            ..Tried::default()
        };
        Unfinished::tried(record, tried)
    }

    fn tried(record: Record, tried: Tried) -> Unfinished {
        Unfinished {
            id: record.event_id(),
            record,
            tried,
        }
    }

    /// The event's id; that of a plain event is its place in Kafka.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Where the event lies.
    pub(crate) fn place(&self) -> EventPlace {
        EventPlace {
            topic: Arc::clone(&self.record.topic),
            partition: self.record.partition,
            offset: self.record.offset,
        }
    }

    /// Bytes of memory.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.record.size_bytes() as u64
    }

    /// As Kafka has it.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let headers = self.record.headers();
        let stored = Stored {
            key: self.record.key().map(Piece::of),
            value: Piece::of(self.record.value().unwrap_or_default()),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.map(Piece::of)))
                .collect(),
            tried: self.tried.clone(),
        };
        // Texts and numbers alone: nothing of it can fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`Unfinished::to_json`] made of the event at `place`.
    pub(crate) fn of_json(place: &EventPlace, json: &[u8]) -> Result<Unfinished, String> {
        let stored: Stored = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let key = stored.key.map(Piece::bytes).transpose()?;
        let value = stored.value.bytes()?;
        let mut headers = Vec::with_capacity(stored.headers.len());
        for (name, value) in stored.headers {
            headers.push((name, value.map(Piece::bytes).transpose()?));
        }
        let headers = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()));
        let (topic, partition) = (Arc::clone(&place.topic), place.partition);
        let (key, value) = (key.as_deref(), Some(value.as_slice()));
        let record = Record::new(topic, partition, place.offset, key, value, headers);
        Ok(Unfinished::tried(record, stored.tried))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_as_the_same() {
        let headers: [(&str, Option<&[u8]>); 3] = [
            ("cdc.id", Some(b"n-1")),
            ("odd", Some(&[0xff])),
            ("none", None),
        ];
        let (key, value) = (Some(&[0xfe, 1][..]), Some(&b"{\"a\":1}"[..]));
        let record = Record::new("t".into(), 2, 7, key, value, headers.into_iter());
        let mut unfinished = Unfinished::new(record, 5);
        unfinished.tried.attempts = 3;
        unfinished.tried.last_error = Some("it hangs".into());
        let place = unfinished.place();
        let read = Unfinished::of_json(&place, &unfinished.to_json()).unwrap();
        assert_eq!(read.place(), place);
        assert_eq!((read.id(), &read.tried), ("n-1", &unfinished.tried));
        assert_eq!(read.record.key(), unfinished.record.key());
        assert_eq!(read.record.value(), unfinished.record.value());
        assert!(read.record.headers().eq(unfinished.record.headers()));
        assert!(Unfinished::of_json(&place, b"{}").is_err());
    }
}
