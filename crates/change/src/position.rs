//! The position record: how far the events in Kafka are complete, and where they end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hex::hex;
use crate::mac_key::MacKey;
use crate::version::Place;

/// What a record is for; each kind has its own key, so that compaction keeps the newest of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// Names every partition.
    Full,
    /// Names the partitions that changed since the full record whose LSN it gives.
    Tip,
    /// A sender has taken over with a new epoch.
    Claim,
}

/// Key of a position record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub record: Record,
    pub source: String,
    /// Number of the part; left out for the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub part: u32,
}

/// A position of many topics is several records, written in one Kafka transaction: each has its share of the topics, and everything
/// else whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 0.
    pub number: u32,
    pub of: u32,
}

/// Events of the newest transaction that are in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Events {
    pub done: u64,
    pub of: u64,
}

/// Where one topic ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Kafka's id of the topic (base64url, as its tools print it): a topic made anew has another one.
    pub topic_id: String,
    pub partitions: i32,
    /// Last offset + 1, per partition.
    pub end: Vec<i64>,
    /// Oid of the database that has written to it last; 0 if that is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub database: u32,
    /// Its table is not tracked any more, as far as its events tell.
    #[serde(default, skip_serializing_if = "is_false")]
    pub untracked: bool,
    /// The newest control event about it; none of a control topic itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<NewestControl>,
}

/// The newest control event about a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NewestControl {
    /// Its version.
    pub version: String,
    /// The control topic that has it.
    pub topic: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A position. Everything that committed up to `commit_lsn` lies in Kafka before the offsets in `ends`, but for topics that
/// are put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub format: u32,
    pub record: Record,
    /// Source id, random, made once.
    pub source: String,
    pub name: String,
    pub generation: u16,
    /// Raised by every sender that takes over: the newest position is the one of the highest (epoch, timeline, LSN).
    pub epoch: u64,
    pub timeline: u32,
    /// LSN at which the timeline began.
    #[serde(with = "lsn_as_text")]
    pub timeline_start: u64,
    #[serde(with = "lsn_as_text")]
    pub commit_lsn: u64,
    /// Reading must start here: the first chunk of the oldest transaction that was open at `commit_lsn`.
    #[serde(with = "lsn_as_text")]
    pub restart_lsn: u64,
    /// Nonce of the transaction that committed at `commit_lsn`, empty before the first.
    pub nonce: String,
    pub events: Events,
    /// Highest commit time so far, microseconds since 1970: never goes back.
    pub effective_ts_us: i64,
    pub sent_ts_us: i64,
    pub heartbeat_ms: u64,
    pub node: String,
    pub cluster_id: String,
    pub ends: BTreeMap<String, Ends>,
    /// Topics that are put aside, and the LSN of the commit from which on they have nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aside: BTreeMap<String, String>,
    /// None if the record is the whole position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// Tip records: `commit_lsn` of the full record they add to.
    #[serde(
        with = "optional_lsn_text",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub full: Option<u64>,
    /// Keyed MAC over the record with an empty `mac`, so that only a server of this source can move the position.
    pub mac: String,
}

/// `format` of the records written here.
pub const FORMAT: u32 = 1;

impl Position {
    /// The order in which positions are newer.
    pub fn rank(&self) -> (u64, u32, u64) {
        (self.epoch, self.timeline, self.commit_lsn)
    }

    /// The same between positions of one commit: more of the transaction is there, and reading may start later. A copy of an
    /// older record, which anybody may write who has it, is never the newest.
    pub fn progress(&self) -> (u64, u32, u64, u64, u64) {
        let (epoch, timeline, commit_lsn) = self.rank();
        let done = self.events.done;
        (epoch, timeline, commit_lsn, done, self.restart_lsn)
    }

    /// Everything that committed up to here is in Kafka whole; the transaction at `commit_lsn` may be there in part.
    pub fn complete_lsn(&self) -> u64 {
        match self.events.done < self.events.of {
            true => self.commit_lsn.saturating_sub(1),
            false => self.commit_lsn,
        }
    }

    /// The newest commit that is in Kafka whole, with everything before it.
    pub fn complete_place(&self) -> Place {
        Place {
            generation: self.generation,
            timeline: self.timeline,
            commit_lsn: self.complete_lsn(),
        }
    }

    /// Bytes that a topic takes in a record, about.
    fn bytes_of(topic: &str, ends: &Ends) -> usize {
        topic.len() + ends.topic_id.len() + 300 + 20 * ends.end.len()
    }

    /// The records that make up this position: of each the topics take about `max_bytes`.
    pub fn split(mut self, max_bytes: usize) -> Vec<Position> {
        let mut shares = vec![(BTreeMap::new(), BTreeMap::new())];
        let mut bytes = 0;
        let mut next = |more: usize, shares: &mut Vec<_>| {
            if bytes + more > max_bytes && bytes > 0 {
                shares.push((BTreeMap::new(), BTreeMap::new()));
                bytes = 0;
            }
            bytes += more;
        };
        for (topic, ends) in std::mem::take(&mut self.ends) {
            next(Self::bytes_of(&topic, &ends), &mut shares);
            if let Some((share, _)) = shares.last_mut() {
                share.insert(topic, ends);
            }
        }
        for (topic, from) in std::mem::take(&mut self.aside) {
            next(topic.len() + 40, &mut shares);
            if let Some((_, share)) = shares.last_mut() {
                share.insert(topic, from);
            }
        }
        let of = shares.len() as u32;
        let numbered = (0..).zip(shares).map(|(number, (ends, aside))| Position {
            ends,
            aside,
            part: (of > 1).then_some(Part { number, of }),
            ..self.clone()
        });
        numbered.collect()
    }

    /// The record's JSON with its MAC.
    pub fn seal(mut self, key: &MacKey) -> Result<Vec<u8>, serde_json::Error> {
        self.mac = String::new();
        self.mac = hex(&key.mac(&[&serde_json::to_vec(&self)?]));
        serde_json::to_vec(&self)
    }

    /// Reads a record; `None` if it is not one, or was not sealed with `key`.
    pub fn open(bytes: &[u8], key: &MacKey) -> Option<Position> {
        let position: Position = serde_json::from_slice(bytes).ok()?;
        let resealed = position.clone().seal(key).ok()?;
        let same = serde_json::from_slice::<Position>(&resealed).ok()?.mac == position.mac;
        (same && position.format == FORMAT).then_some(position)
    }
}

/// Puts positions together that consist of several records, which follow each other.
#[derive(Debug, Default)]
pub struct Parts {
    begun: Option<Position>,
    next: u32,
}

impl Parts {
    /// Whether no position is begun.
    pub fn is_empty(&self) -> bool {
        self.begun.is_none()
    }

    /// Takes the next record in; the position that is whole with it, if one is. Parts whose beginning is not there, or that
    /// compaction has left over, make none.
    pub fn take(&mut self, mut record: Position) -> Option<Position> {
        let Some(part) = record.part.take() else {
            self.begun = None;
            return Some(record);
        };
        let begun = self.begun.take();
        let whole = match begun {
            _ if part.number == 0 => record,
            Some(mut begun)
                if part.number == self.next
                    && begun.record == record.record
                    && begun.rank() == record.rank()
                    && begun.sent_ts_us == record.sent_ts_us =>
            {
                begun.ends.append(&mut record.ends);
                begun.aside.append(&mut record.aside);
                begun
            }
            _ => return None,
        };
        self.next = part.number + 1;
        if self.next == part.of {
            return Some(whole);
        }
        self.begun = Some(whole);
        None
    }
}

/// Writes an LSN as PostgreSQL does: `16/B374D848`.
pub fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn as u32)
}

/// Reads an LSN in PostgreSQL's form.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(
        u64::from(u32::from_str_radix(high, 16).ok()?) << 32
            | u64::from(u32::from_str_radix(low, 16).ok()?),
    )
}

/// For `#[serde(with = …)]`: an LSN as PostgreSQL writes it.
pub mod lsn_as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(lsn: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::lsn_text(*lsn))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_lsn(&text).ok_or_else(|| D::Error::custom("not an LSN"))
    }
}

mod optional_lsn_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(
        lsn: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match lsn {
            Some(lsn) => serializer.serialize_str(&super::lsn_text(*lsn)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(None),
            Some(text) => super::parse_lsn(&text)
                .map(Some)
                .ok_or_else(|| D::Error::custom("not an LSN")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        Position {
            format: FORMAT,
            record: Record::Full,
            source: "6f0c9b1e-7d42-4a55-9d1c-3a8e40c6b2f1".into(),
            name: "pg".into(),
            generation: 1,
            epoch: 7,
            timeline: 1,
            timeline_start: 0,
            commit_lsn: 0x15A3098,
            restart_lsn: 0x15A2F00,
            nonce: "5b".repeat(16),
            events: Events { done: 2, of: 2 },
            effective_ts_us: 1,
            sent_ts_us: 2,
            heartbeat_ms: 10_000,
            node: "db1".into(),
            cluster_id: "kA3".into(),
            ends: BTreeMap::from([(
                "shop.public.customer".into(),
                Ends {
                    topic_id: "Qm9".into(),
                    partitions: 3,
                    end: vec![120, 98, 133],
                    database: 0,
                    untracked: false,
                    control: None,
                },
            )]),
            aside: BTreeMap::new(),
            part: None,
            full: None,
            mac: String::new(),
        }
    }

    #[test]
    fn only_the_key_opens_what_it_sealed() {
        let key = MacKey::derive("test", b"secret");
        let sealed = position().seal(&key).unwrap();
        let opened = Position::open(&sealed, &key).unwrap();
        assert_eq!(opened.commit_lsn, 0x15A3098);
        assert!(
            String::from_utf8(sealed.clone())
                .unwrap()
                .contains("\"commit_lsn\":\"0/15A3098\"")
        );
        assert!(Position::open(&sealed, &MacKey::derive("test", b"other")).is_none());
        let forged = String::from_utf8(sealed)
            .unwrap()
            .replace("0/15A3098", "0/25A3098");
        assert!(Position::open(forged.as_bytes(), &key).is_none());
    }

    #[test]
    fn a_position_of_many_topics_comes_back_from_its_parts() {
        let key = MacKey::derive("test", b"secret");
        let mut many = position();
        let one = many.ends["shop.public.customer"].clone();
        let named = |number: u32| {
            (
                format!("shop.public.{}{number}", "x".repeat(200)),
                one.clone(),
            )
        };
        many.ends = (0..10_000).map(named).collect();
        many.aside = (0..1000)
            .map(|number| (named(number).0, "0/15A3098".to_owned()))
            .collect();
        let parts = many.clone().split(400_000);
        let sealed: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|part| part.seal(&key).unwrap())
            .collect();
        assert!(sealed.len() > 5 && sealed.iter().all(|part| part.len() < 900_000));
        let opened: Vec<Position> = sealed
            .iter()
            .map(|part| Position::open(part, &key).unwrap())
            .collect();
        let put_together = |records: &[Position]| {
            let mut parts = Parts::default();
            let whole = records
                .iter()
                .cloned()
                .filter_map(|record| parts.take(record));
            whole
                .map(|whole| Position {
                    mac: String::new(),
                    ..whole
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(put_together(&opened), [many.clone()]);
        // What is left of an older one, one that lacks its beginning or its end, a whole one.
        assert_eq!(put_together(&opened[1..]), []);
        assert_eq!(put_together(&opened[..3]), []);
        let mut older = opened[1].clone();
        older.sent_ts_us -= 1;
        assert_eq!(
            put_together(&[opened[0].clone(), older, opened[2].clone()]),
            []
        );
        assert_eq!(position().split(400_000), [position()]);
        assert_eq!(put_together(&[position()]), [position()]);
    }
}
