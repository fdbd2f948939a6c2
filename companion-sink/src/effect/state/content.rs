//! What a sink of effects keeps: how far each partition is read, and the events whose effect is not done. Each is a record of its
//! own in a compacted topic.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::effect::state::event_place::EventPlace;
use crate::effect::state::unfinished::Unfinished;
use crate::kafka::reader::TopicPartition;
use crate::sink::batch::Position;

/// What a record of the state is about: its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateKey {
    /// The sink has begun: topics that come now are read from their beginnings.
    Begun,
    /// How far a partition is read.
    Position { topic: String, partition: i32 },
    /// An event whose effect is not done.
    Event(EventPlace),
}

/// A change of the state.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// What changes.
    pub(crate) key: StateKey,
    /// What it is from now on; none for an event that is done.
    pub(crate) value: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct StoredPosition {
    next_offset: i64,
    version: String,
}

/// All that a sink keeps.
#[derive(Debug, Default)]
pub(crate) struct EffectState {
    /// It started at some time.
    pub(crate) has_begun: bool,
    /// How far the partitions are read.
    pub(crate) positions: HashMap<TopicPartition, Position>,
    /// The events whose effect is not done.
    pub(crate) events: BTreeMap<EventPlace, Unfinished>,
}

impl Change {
    /// The sink has begun.
    pub(crate) fn begun() -> Change {
        Change {
            key: StateKey::Begun,
            value: Some(b"{}".to_vec()),
        }
    }

    /// A partition is read up to `position`.
    pub(crate) fn position(at: &TopicPartition, position: &Position) -> Change {
        let stored = StoredPosition {
            next_offset: position.next_offset,
            version: position.version.clone(),
        };
        Change {
            key: StateKey::Position {
                topic: at.topic.to_string(),
                partition: at.partition,
            },
            value: serde_json::to_vec(&stored).ok(),
        }
    }

    /// An event is not done.
    pub(crate) fn unfinished(event: &Unfinished) -> Change {
        Change {
            key: StateKey::Event(event.place()),
            value: Some(event.to_json()),
        }
    }

    /// An event is done.
    pub(crate) fn done(place: EventPlace) -> Change {
        Change {
            key: StateKey::Event(place),
            value: None,
        }
    }

    /// The record's key.
    pub(crate) fn key_json(&self) -> Vec<u8> {
        // Texts and numbers alone: nothing of it can fail.
        serde_json::to_vec(&self.key).unwrap_or_default()
    }
}

impl EffectState {
    /// Takes a record of the state in, the newest last; why not, if it is none.
    pub(crate) fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let key: StateKey = serde_json::from_slice(key).map_err(|error| error.to_string())?;
        match (key, value) {
            (StateKey::Begun, value) => self.has_begun = value.is_some(),
            (StateKey::Position { topic, partition }, value) => {
                let at = TopicPartition {
                    topic: topic.into(),
                    partition,
                };
                let Some(value) = value else {
                    self.positions.remove(&at);
                    return Ok(());
                };
                let stored: StoredPosition =
                    serde_json::from_slice(value).map_err(|error| error.to_string())?;
                let position = Position {
                    next_offset: stored.next_offset,
                    version: stored.version,
                };
                self.positions.insert(at, position);
            }
            (StateKey::Event(place), None) => drop(self.events.remove(&place)),
            (StateKey::Event(place), Some(value)) => {
                let event = Unfinished::of_json(&place, value)?;
                self.events.insert(place, event);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;

    fn apply(state: &mut EffectState, change: &Change) {
        let value = change.value.as_deref();
        state.take(&change.key_json(), value).unwrap();
    }

    #[test]
    fn the_newest_record_of_a_key_counts() {
        let mut state = EffectState::default();
        let at = TopicPartition {
            topic: "t".into(),
            partition: 1,
        };
        let headers = std::iter::empty();
        let record = Record::new("t".into(), 1, 4, None, Some(b"{}"), headers);
        let event = Unfinished::new(record, 0);
        for next_offset in [4, 5] {
            let position = Position {
                next_offset,
                version: "v".into(),
            };
            apply(&mut state, &Change::position(&at, &position));
        }
        apply(&mut state, &Change::begun());
        apply(&mut state, &Change::unfinished(&event));
        assert_eq!(state.positions[&at].next_offset, 5);
        assert!(state.has_begun && state.events.contains_key(&event.place()));
        apply(&mut state, &Change::done(event.place()));
        assert!(state.events.is_empty());
        assert!(state.take(b"{\"other\":1}", None).is_err());
        assert!(state.take(b"\"begun\"", Some(b"{}")).is_ok());
    }
}
