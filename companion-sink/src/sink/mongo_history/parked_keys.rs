//! The keys whose events wait, in memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::record::Record;

/// A key of a topic: the row's identity as JSON, empty for a table without a key.
pub type Key = (Arc<str>, Box<[u8]>);

/// An event that has to wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Held<'r> {
    /// Its key.
    pub key: &'r [u8],
    /// The key that its row had before, if only that one is parked.
    pub waits_for: Option<&'r [u8]>,
}

/// The keys of which events are parked.
#[derive(Default)]
pub struct ParkedKeys {
    /// With the key that a row had before, for one that waits because of that.
    keys: HashMap<Key, Option<Box<[u8]>>>,
    /// Events are parked that are about no row: nothing waits for them.
    alone: bool,
}

impl ParkedKeys {
    /// Whether nothing at all is parked.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.alone
    }

    /// How many keys there are.
    pub fn len(&self) -> u64 {
        self.keys.len() as u64
    }

    /// What an event has to wait for: its own key, or the one that its row had before.
    pub fn holding_back<'r>(&self, record: &'r Record) -> Option<Held<'r>> {
        if self.keys.is_empty() {
            return None;
        }
        let key = key_of(record)?;
        if self.contains(&record.topic, key) {
            return Some(Held {
                key,
                waits_for: None,
            });
        }
        let old = old_key(record).filter(|old| self.contains(&record.topic, old))?;
        Some(Held {
            key,
            waits_for: Some(old),
        })
    }

    /// Whether a key is parked.
    pub fn contains(&self, topic: &Arc<str>, key: &[u8]) -> bool {
        self.keys.contains_key(&(Arc::clone(topic), key.into()))
    }

    /// An event was parked: of a key, with the one that its row had before, or of none.
    pub fn add(&mut self, topic: &str, key: Option<Box<[u8]>>, waits_for: Option<Box<[u8]>>) {
        match key {
            Some(key) => {
                let known = self.keys.entry((topic.into(), key)).or_default();
                if waits_for.is_some() {
                    *known = waits_for;
                }
            }
            None => self.alone = true,
        }
    }

    /// Nothing of a key waits any more.
    pub fn remove(&mut self, key: &Key) {
        self.keys.remove(key);
    }

    /// Notes whether events are parked that are about no row.
    pub fn set_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// The keys that `is_held`, a refused event of their own, does not hold back, nor a key from before.
    pub fn freed(&self, is_held: impl Fn(&Key) -> bool) -> Vec<Key> {
        let freed = self.keys.iter().filter(|(key, waits_for)| {
            let waits = |old: &[u8]| *old != *key.1 && self.contains(&key.0, old);
            !is_held(key) && !waits_for.as_deref().is_some_and(waits)
        });
        freed.map(|(key, _)| key.clone()).collect()
    }

    /// The keys of a topic.
    pub fn of_topic(&self, topic: &str) -> impl Iterator<Item = &[u8]> {
        let keys = self.keys.keys().filter(move |(of, _)| &**of == topic);
        keys.map(|(_, key)| &**key)
    }
}

/// The row that an event is about; none for one that is about a table.
pub fn key_of(record: &Record) -> Option<&[u8]> {
    match record.header("cdc.op") {
        Some("t" | "schema" | "snapshot" | "barrier" | "m") => None,
        _ => Some(match record.header("cdc.identity") {
            Some(identity) => identity.as_bytes(),
            None => record.key().unwrap_or_default(),
        }),
    }
}

/// The key that a row had before, in the event of its new one.
pub fn old_key(record: &Record) -> Option<&[u8]> {
    record.header("__debezium.oldkey").map(str::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, headers: &[(&str, &str)]) -> Record {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        Record::new("t".into(), 0, 0, Some(key.as_bytes()), None, headers)
    }

    #[test]
    fn a_new_key_waits_for_the_old_one() {
        let mut parked = ParkedKeys::default();
        let create = record("2", &[("cdc.op", "c"), ("__debezium.oldkey", "1")]);
        assert_eq!(parked.holding_back(&create), None);
        parked.add("t", Some(b"1".as_slice().into()), None);
        let held = parked.holding_back(&create).unwrap();
        assert_eq!((held.key, held.waits_for), (&b"2"[..], Some(&b"1"[..])));
        parked.add("t", Some(held.key.into()), held.waits_for.map(Box::from));
        let again = parked.holding_back(&create).unwrap();
        assert_eq!(again.waits_for, None, "its own key is parked now");
        let one: Key = ("t".into(), b"1".as_slice().into());
        let two: Key = ("t".into(), b"2".as_slice().into());
        assert!(parked.freed(|key| *key == one).is_empty());
        parked.remove(&one);
        assert_eq!(parked.freed(|_| false), vec![two]);
        // The table's own events wait for no row, and other topics for none of this.
        assert_eq!(
            parked.holding_back(&record("2", &[("cdc.op", "schema")])),
            None
        );
    }

    #[test]
    fn the_identity_counts_where_the_key_is_another_one() {
        let other = record("7", &[("cdc.op", "u"), ("cdc.identity", "1")]);
        assert_eq!(key_of(&other), Some(&b"1"[..]));
    }
}
