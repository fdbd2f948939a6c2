//! The keys whose events wait, in memory.

use change::event::headers::HeaderName;
use std::collections::HashMap;
use std::sync::Arc;

use crate::event::is_version;
use crate::kafka::record::Record;

/// A key of a topic: the row's identity as JSON, empty for a table without a key.
pub(crate) type Key = (Arc<str>, Box<[u8]>);

/// An event that has to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeldKey<'r> {
    /// Its key.
    pub(crate) key: &'r [u8],
    /// The key that its row had before, if only that one is parked.
    pub(crate) waits_for: Option<&'r [u8]>,
}

/// What is known of a parked key.
#[derive(Default)]
struct WaitingKey {
    /// The version of its first parked event, empty if that has none. What is read again from before it does not wait.
    first: String,
    /// The key that the row had before, if it waits because of that.
    waits_for: Option<Box<[u8]>>,
}

/// The keys of which events are parked.
#[derive(Default)]
pub(crate) struct ParkedKeys {
    keys: HashMap<Key, WaitingKey>,
    /// Events are parked that are about no row: nothing waits for them.
    alone: bool,
}

impl ParkedKeys {
    /// Whether nothing at all is parked.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.alone
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> u64 {
        self.keys.len() as u64
    }

    /// What an event has to wait for: its own key, or the one that its row had before.
    pub(crate) fn holding_back<'r>(&self, record: &'r Record) -> Option<HeldKey<'r>> {
        if self.keys.is_empty() {
            return None;
        }
        let key = key_of(record)?;
        let version = version_of(record);
        let waits = |key: &[u8]| {
            let parked = self.keys.get(&(Arc::clone(&record.topic), key.into()));
            parked.is_some_and(|parked| version.is_empty() || version >= parked.first.as_str())
        };
        if waits(key) {
            return Some(HeldKey {
                key,
                waits_for: None,
            });
        }
        let old = old_key(record).filter(|old| waits(old))?;
        Some(HeldKey {
            key,
            waits_for: Some(old),
        })
    }

    /// An event of `version` was parked: of a key, with the one that its row had before if it waits for that, or of none.
    pub(crate) fn add(
        &mut self,
        topic: &Arc<str>,
        version: &str,
        key: Option<Box<[u8]>>,
        waits_for: Option<Box<[u8]>>,
    ) {
        let Some(key) = key else {
            self.alone = true;
            return;
        };
        let known = self.keys.entry((Arc::clone(topic), key));
        let known = known.or_insert_with(|| WaitingKey {
            first: version.to_owned(),
            waits_for: None,
        });
        if version < known.first.as_str() {
            version.clone_into(&mut known.first);
        }
        if waits_for.is_some() {
            known.waits_for = waits_for;
        }
    }

    /// Nothing of a key waits any more.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.keys.remove(key);
    }

    /// Notes whether events are parked that are about no row.
    pub(crate) fn set_alone(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// The keys that `is_held`, a refused event of their own, does not hold back, nor a key from before.
    pub(crate) fn freed(&self, is_held: impl Fn(&Key) -> bool) -> Vec<Key> {
        let is_parked =
            |topic: &Arc<str>, key: &[u8]| self.keys.contains_key(&(Arc::clone(topic), key.into()));
        let freed = self.keys.iter().filter(|(key, parked)| {
            let old = parked.waits_for.as_deref();
            !is_held(key) && !old.is_some_and(|old| is_parked(&key.0, old))
        });
        freed.map(|(key, _)| key.clone()).collect()
    }

    /// The keys of a topic.
    pub(crate) fn of_topic(&self, topic: &str) -> impl Iterator<Item = &[u8]> {
        let keys = self.keys.keys().filter(move |(of, _)| &**of == topic);
        keys.map(|(_, key)| &**key)
    }
}

/// The row that an event is about; none for one that is about a table.
pub(crate) fn key_of(record: &Record) -> Option<&[u8]> {
    match record.op() {
        Some(op) if op.is_about_table() => None,
        _ => Some(match record.header(HeaderName::IDENTITY.as_str()) {
            Some(identity) => identity.as_bytes(),
            None => record.key().unwrap_or_default(),
        }),
    }
}

/// The version of an event, empty if it has none.
pub(crate) fn version_of(record: &Record) -> &str {
    let version = record.version();
    version.filter(|text| is_version(text)).unwrap_or_default()
}

/// The key that a row had before, in the event of its new one.
pub(crate) fn old_key(record: &Record) -> Option<&[u8]> {
    record
        .header(HeaderName::OLD_KEY.as_str())
        .map(str::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u32) -> String {
        format!("0001-00000001-{number:016x}-0000000001-00")
    }

    fn record(key: &str, number: u32, headers: &[(&str, &str)]) -> Record {
        let version = version(number);
        let version = ("cdc.version", version.as_str());
        let headers = headers.iter().chain([&version]);
        let headers = headers.map(|(name, value)| (*name, Some(value.as_bytes())));
        Record::new("t".into(), 0, 0, Some(key.as_bytes()), None, headers)
    }

    fn key(text: &str) -> Box<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn a_new_key_waits_for_the_old_one() {
        let topic: Arc<str> = "t".into();
        let mut parked = ParkedKeys::default();
        let create = record("2", 5, &[("cdc.op", "c"), ("__debezium.oldkey", "1")]);
        assert_eq!(parked.holding_back(&create), None);
        parked.add(&topic, &version(4), Some(key("1")), None);
        let held = parked.holding_back(&create).unwrap();
        assert_eq!((held.key, held.waits_for), (&b"2"[..], Some(&b"1"[..])));
        parked.add(&topic, &version(5), Some(key("2")), Some(key("1")));
        let again = parked.holding_back(&create).unwrap();
        assert_eq!(again.waits_for, None, "its own key is parked now");
        let (one, two): (Key, Key) = ((topic.clone(), key("1")), (topic, key("2")));
        assert!(parked.freed(|key| *key == one).is_empty());
        parked.remove(&one);
        assert_eq!(parked.freed(|_| false), vec![two]);
        // The table's own events wait for no row.
        let schema = record("2", 6, &[("cdc.op", "schema")]);
        assert_eq!(parked.holding_back(&schema), None);
    }

    #[test]
    fn what_was_before_a_refused_event_does_not_wait_when_it_is_read_again() {
        let mut parked = ParkedKeys::default();
        parked.add(&"t".into(), &version(4), Some(key("1")), None);
        parked.add(&"t".into(), &version(5), Some(key("1")), None);
        let waits = |number| parked.holding_back(&record("1", number, &[])).is_some();
        assert_eq!([3, 4, 5, 6].map(waits), [false, true, true, true]);
    }

    #[test]
    fn the_identity_counts_where_the_key_is_another_one() {
        let other = record("7", 1, &[("cdc.op", "u"), ("cdc.identity", "1")]);
        assert_eq!(key_of(&other), Some(&b"1"[..]));
    }
}
