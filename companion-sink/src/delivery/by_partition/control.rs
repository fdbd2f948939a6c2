//! Control events, put where they belong among the rows of each partition: before the first row that is newer, and, where no row
//! comes, when a position says that nothing older is missing. The control topics are read from their beginnings: what a
//! partition has had of them its version says.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use change::event::headers::HeaderName;
use change::position::Position;

use crate::delivery::by_partition::lane::Lane;
use crate::delivery::control_topics;
use crate::event::{Op, is_version};
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;

/// The control events that are known, and how far they are.
#[derive(Default)]
pub(crate) struct ControlEvents {
    topics: HashMap<Arc<str>, Reading>,
    /// By the topic that they are about, and their versions.
    events: HashMap<Arc<str>, BTreeMap<String, Event>>,
    /// What was done of a topic's, while the replica was consistent by transactions.
    done: HashMap<Arc<str>, String>,
}

/// A control topic that is read.
struct Reading {
    epoch: u32,
    /// The offset that comes next.
    next: i64,
    /// The highest version that was read, but for what the sender has not come to.
    version: String,
}

struct Event {
    record: Record,
    /// Where it lies in its control topic.
    control: Arc<str>,
    offset: i64,
}

/// What a partition does before its next record.
pub(crate) enum Before {
    /// Takes the record.
    Nothing,
    /// Waits until more of the control topic is read.
    Wait,
    /// Does this event.
    Event(Record),
}

impl ControlEvents {
    /// A control topic is read from `next` on.
    pub(super) fn begin(&mut self, topic: Arc<str>, next: i64, epoch: u32) {
        let reading = Reading {
            epoch,
            next,
            version: String::new(),
        };
        self.topics.insert(topic, reading);
    }

    pub(super) fn reads(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// What was done of the control events about a topic.
    pub(super) fn note_done(&mut self, topic: &Arc<str>, version: String) {
        self.done.insert(Arc::clone(topic), version);
    }

    /// Takes a record of a control topic in.
    pub(super) fn take(&mut self, record: Record, position: Option<&Position>) {
        let Some(reading) = self.topics.get_mut(&record.topic) else {
            return;
        };
        if record.epoch != reading.epoch || record.offset < reading.next {
            return;
        }
        reading.next = record.offset + 1;
        let Some(version) = record.version().filter(|version| is_version(version)) else {
            return;
        };
        let is_sent = |position: &Position| {
            control_topics::is_up_to(version, crate::delivery::doubt::newest(position))
        };
        if version > reading.version.as_str() && position.is_none_or(is_sent) {
            version.clone_into(&mut reading.version);
        }
        let Some(topic) = control_topics::subject(&record) else {
            return;
        };
        let (topic, version) = (Arc::from(topic), version.to_owned());
        let event = Event {
            control: Arc::clone(&record.topic),
            offset: record.offset,
            record,
        };
        self.events.entry(topic).or_default().insert(version, event);
    }

    /// Whether what a row names as the newest control event before it, `control`, was read, with all before it.
    pub(super) fn has_read(&self, topic: &str, control: &str, position: &Position) -> bool {
        let newest = position
            .ends
            .get(topic)
            .and_then(|ends| ends.control.as_ref());
        let Some(newest) = newest else { return false };
        let Some(reading) = self.topics.get(&*newest.topic) else {
            return false;
        };
        reading.version.as_str() >= control
            || (control_topics::is_up_to(control, position.complete_place())
                && self.is_read_to_end(&newest.topic, position))
    }

    /// Whether everything of a control topic was read that a position tells of.
    fn is_read_to_end(&self, control: &str, position: &Position) -> bool {
        let end = control_topics::end(position, control).unwrap_or_default();
        let reading = self.topics.get(control);
        reading.is_some_and(|reading| reading.next >= end)
    }

    /// The next event about the topic of `at` that its partition has not had. `is_due` says so of its version.
    fn next_of(
        &self,
        at: &TopicPartition,
        lane: &Lane,
        position: &Position,
        is_due: impl Fn(&str) -> bool,
    ) -> Option<&Record> {
        let done = self.done.get(&at.topic).map_or("", String::as_str);
        let after = lane.version.as_str().max(done);
        let events = self.events.get(&at.topic)?;
        let events = events.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let mut events = events.take_while(|(version, _)| is_due(version));
        let is_next = |(_, event): &(&String, &Event)| {
            // Of a log that was cut the rows are missing that came before.
            let is_of_missing =
                lane.is_cut && lane.version.is_empty() && event.record.op() != Some(Op::Schema);
            !is_of_missing && control_topics::speaks_for(position, &event.control, &at.topic)
        };
        let (_, event) = events.find(is_next)?;
        Some(&event.record)
    }

    /// What the partition `at` does before `record`, its next one, of `version`.
    pub(super) fn before(
        &self,
        at: &TopicPartition,
        lane: &Lane,
        record: &Record,
        version: &str,
        position: Option<&Position>,
    ) -> Before {
        let named = record.header(HeaderName::CONTROL.as_str());
        let named = named.filter(|control| *control > lane.version.as_str() && *control < version);
        let Some(position) = position else {
            return match named {
                Some(_) => Before::Wait,
                None => Before::Nothing,
            };
        };
        if let Some(event) = self.next_of(at, lane, position, |control| control < version) {
            return Before::Event(event.about(Arc::clone(&at.topic), at.partition, lane.next - 1));
        }
        let done = self.done.get(&at.topic).map_or("", String::as_str);
        match named {
            Some(control) if control > done && !self.has_read(&at.topic, control, position) => {
                Before::Wait
            }
            _ => Before::Nothing,
        }
    }

    /// The event that comes next in the partition `at`, which is read to the end that `position` names, if any is due.
    pub(super) fn due(
        &self,
        at: &TopicPartition,
        lane: &Lane,
        position: &Position,
    ) -> Option<Record> {
        let place = position.complete_place();
        let is_due = |version: &str| control_topics::is_up_to(version, place);
        let event = self.next_of(at, lane, position, is_due)?;
        Some(event.about(Arc::clone(&at.topic), at.partition, lane.next - 1))
    }

    /// Forgets what all partitions of a topic have had.
    pub(super) fn forget_done(&mut self, lanes: &HashMap<TopicPartition, Lane>) {
        for (topic, events) in &mut self.events {
            let of_topic = lanes.iter().filter(|(at, _)| at.topic == *topic);
            let lowest = of_topic.map(|(_, lane)| lane.version.as_str()).min();
            if let Some(lowest) = lowest {
                events.retain(|version, _| version.as_str() > lowest);
            }
        }
        self.events.retain(|_, events| !events.is_empty());
    }

    /// Whether a control topic is read to `end`, and everything before that was done in all of `lanes`.
    pub(super) fn is_passed(
        &self,
        control: &str,
        end: i64,
        lanes: &HashMap<TopicPartition, Lane>,
    ) -> bool {
        let Some(reading) = self.topics.get(control) else {
            return true;
        };
        let is_open = |(at, lane): (&TopicPartition, &Lane)| {
            let done = self.done.get(&at.topic).map_or("", String::as_str);
            let after = lane.version.as_str().max(done);
            let events = self.events.get(&at.topic);
            let mut events = events.into_iter().flat_map(|events| {
                events.range::<str, _>((Bound::Excluded(after), Bound::Unbounded))
            });
            events.any(|(_, event)| *event.control == *control && event.offset < end)
        };
        reading.next >= end && !lanes.iter().any(is_open)
    }
}
