//! Control events, put where they belong among the rows of each partition: before the first row that is newer, and, where no row
//! comes, when a position says that nothing older is missing. The control topics are read from their beginnings: what a
//! partition has had of them its version says.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use change::event::headers::HeaderName;
use change::position::Position;

use crate::delivery::by_partition::gathering::Gathered;
use crate::delivery::by_partition::lane::Lane;
use crate::delivery::by_partition::{Run, TOLD_AFTER, waits_for_all_partitions};
use crate::delivery::control_topics;
use crate::error::Result;
use crate::event::{Op, is_for_others, is_version};
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::Sink;

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
        self.events
            .entry(topic)
            .or_default()
            .insert(version, event);
    }

    /// Whether what a row names as the newest control event before it, `control`, was read, with all before it.
    fn has_read(&self, topic: &str, control: &str, position: &Position) -> bool {
        let newest = position.ends.get(topic).and_then(|ends| ends.control.as_ref());
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
    fn due(&self, at: &TopicPartition, lane: &Lane, position: &Position) -> Option<Record> {
        let place = position.complete_place();
        let is_due = |version: &str| control_topics::is_up_to(version, place);
        let event = self.next_of(at, lane, position, is_due)?;
        Some(event.about(Arc::clone(&at.topic), at.partition, lane.next - 1))
    }

    /// Forgets what all partitions of a topic have had.
    fn forget_done(&mut self, lanes: &HashMap<TopicPartition, Lane>) {
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

impl<S: Sink> Run<'_, S> {
    /// Reads the control topics of the topics that are followed; from their beginnings where there are `fresh` partitions.
    pub(super) async fn read_control(&mut self, fresh: bool) -> Result<()> {
        let position = self.shared.position.borrow().clone();
        let Some(position) = position else {
            return Ok(());
        };
        for control in control_topics::of(&position, &self.config.topics) {
            if self.control.reads(control) && !fresh {
                continue;
            }
            let at = control_topics::partition_of(control);
            let bounds = self.shared.discovery.bounds(&at.topic, at.partition);
            match bounds.await {
                Ok((begin, _)) => {
                    if self.control.reads(control) {
                        self.reader.unassign(at.clone());
                    }
                    self.epoch += 1;
                    self.control.begin(Arc::clone(&at.topic), begin, self.epoch);
                    self.reader.assign(at, begin, self.epoch);
                }
                Err(error) => {
                    tracing::debug!(sink = %self.status.name, %error, "asked again");
                    self.incomplete = true;
                }
            }
        }
        Ok(())
    }

    /// What the partition `at` does with a control event that comes next there; false where it waits at it.
    pub(super) fn do_control(
        &mut self,
        at: &TopicPartition,
        event: Record,
        gathered: &mut Gathered,
    ) -> bool {
        let for_others = is_for_others(&event, &self.status.name);
        let waits = !for_others && waits_for_all_partitions(event.op(), &event);
        let waits = waits && self.sink.waits_together(&event);
        let Some(lane) = self.lanes.get_mut(at) else {
            return false;
        };
        if waits {
            self.reader.unassign(at.clone());
            lane.held = Some(event);
            lane.is_noted = false;
            return false;
        }
        lane.version.clear();
        lane.version.push_str(event.version().unwrap_or_default());
        lane.is_version_new = true;
        if !for_others {
            gathered.bytes += event.size_bytes();
            gathered.batch.records.push(event);
        }
        gathered.touched = true;
        true
    }

    /// Does the control events that are due where no row comes, and reads on where one waited for them.
    pub(super) async fn follow_control(&mut self) -> Result<()> {
        let position = self.shared.position.borrow().clone();
        let Some(position) = position else {
            return Ok(());
        };
        self.read_control(false).await?;
        self.end_waits(&position);
        let mut gathered = Gathered::default();
        let idle: Vec<TopicPartition> = self.lanes.keys().cloned().collect();
        for at in idle {
            while let Some(lane) = self.lanes.get(&at)
                && lane.held.is_none()
                && lane.doubted.is_none()
                && self.is_at_end(&at, lane, &position)
                && let Some(event) = self.control.due(&at, lane, &position)
            {
                if !self.do_control(&at, event, &mut gathered) {
                    break;
                }
            }
        }
        self.apply(gathered).await?;
        self.control.forget_done(&self.lanes);
        self.release_held().await
    }

    /// Whether a partition is applied up to where a position says that it ends.
    fn is_at_end(&self, at: &TopicPartition, lane: &Lane, position: &Position) -> bool {
        let ends = position.ends.get(&*at.topic);
        let end = ends.and_then(|ends| ends.end.get(usize::try_from(at.partition).ok()?));
        let is_told = lane.assigned.elapsed() > TOLD_AFTER;
        end.is_some_and(|end| {
            lane.next >= *end || (is_told && self.reader.is_read_to(at, *end, lane.stored_next))
        })
    }

    /// Reads on where a record waited for a control event that was read meanwhile.
    fn end_waits(&mut self, position: &Position) {
        let is_over = |(at, lane): &(&TopicPartition, &Lane)| {
            let control = lane.waits_for.as_deref();
            control.is_some_and(|control| self.control.has_read(&at.topic, control, position))
        };
        let over = self.lanes.iter().filter(is_over);
        let over: Vec<TopicPartition> = over.map(|(at, _)| at.clone()).collect();
        for at in over {
            if let Some(lane) = self.lanes.get(&at) {
                let (next, version) = (lane.stored_next, lane.version.clone());
                self.go_on(at, next, version);
            }
        }
    }
}
