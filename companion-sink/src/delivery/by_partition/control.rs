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
    topics: HashMap<Arc<str>, ControlReading>,
    /// By the topic that they are about, and their versions.
    events: HashMap<Arc<str>, BTreeMap<String, Event>>,
    /// What was done of a topic's, while the replica was consistent by transactions.
    done: HashMap<Arc<str>, String>,
}

/// A control topic that is read.
#[derive(Default)]
struct ControlReading {
    epoch: u32,
    /// The offset that comes next; none as long as nobody has told where the topic begins.
    next: Option<i64>,
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
    /// A control topic is to be read, from its beginning.
    pub(super) fn expect(&mut self, topic: Arc<str>) {
        self.topics.insert(topic, ControlReading::default());
    }

    /// A control topic is read from `next` on.
    pub(super) fn begin(&mut self, topic: Arc<str>, next: i64, epoch: u32) {
        let reading = ControlReading {
            epoch,
            next: Some(next),
            version: String::new(),
        };
        self.topics.insert(topic, reading);
    }

    pub(super) fn reads(&self, topic: &str) -> bool {
        let reading = self.topics.get(topic);
        reading.is_some_and(|reading| reading.next.is_some())
    }

    /// Whether no event is known that a partition has still to do.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
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
        let is_new = reading.next.is_some_and(|next| record.offset >= next);
        if record.epoch != reading.epoch || !is_new {
            return;
        }
        reading.next = Some(record.offset + 1);
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
        reading.is_some_and(|reading| reading.is_at(end))
    }

    /// The version up to which a partition has had the control events about its topic.
    fn had<'v>(&'v self, at: &TopicPartition, lane: &'v Lane) -> &'v str {
        let done = self.done.get(&at.topic).map_or("", String::as_str);
        lane.version.as_str().max(done)
    }

    /// The events about the topic of `at` that its partition has not had.
    fn open<'v>(
        &'v self,
        at: &TopicPartition,
        lane: &'v Lane,
    ) -> impl Iterator<Item = (&'v String, &'v Event)> {
        let after = (Bound::Excluded(self.had(at, lane)), Bound::Unbounded);
        let events = self.events.get(&at.topic).into_iter();
        events.flat_map(move |events| events.range::<str, _>(after))
    }

    /// The next event about the topic of `at` that its partition has not had. `is_due` says so of its version.
    fn next_of<'v>(
        &'v self,
        at: &TopicPartition,
        lane: &'v Lane,
        position: &Position,
        is_due: impl Fn(&str) -> bool,
    ) -> Option<&'v Record> {
        let mut events = self
            .open(at, lane)
            .take_while(|(version, _)| is_due(version));
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
        let named = named.filter(|control| *control > self.had(at, lane) && *control < version);
        let Some(position) = position else {
            return match named {
                Some(_) => Before::Wait,
                None => Before::Nothing,
            };
        };
        if let Some(event) = self.next_of(at, lane, position, |control| control < version) {
            return Before::Event(event.about(Arc::clone(&at.topic), at.partition, lane.next - 1));
        }
        match named {
            Some(control) if !self.has_read(&at.topic, control, position) => Before::Wait,
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

    /// Forgets what all partitions of a topic have had. New partitions read the control topics from their beginnings.
    pub(super) fn forget_done(&mut self, lanes: &HashMap<TopicPartition, Lane>) {
        self.events.retain(|topic, events| {
            let of_topic = lanes.iter().filter(|(at, _)| at.topic == *topic);
            let lowest = of_topic.map(|(_, lane)| lane.version.as_str()).min();
            events.retain(|version, _| lowest.is_some_and(|lowest| version.as_str() > lowest));
            !events.is_empty()
        });
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
            let is_before = |event: &Event| *event.control == *control && event.offset < end;
            self.open(at, lane).any(|(_, event)| is_before(event))
        };
        reading.is_at(end) && !lanes.iter().any(is_open)
    }
}

impl ControlReading {
    fn is_at(&self, end: i64) -> bool {
        self.next.is_some_and(|next| next >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "d.cdc-control";

    fn version(lsn: u64) -> String {
        format!("0001-00000001-{lsn:016x}-0000000001-00")
    }

    /// A record that stands in a topic, about another one if it is a control event.
    fn record(topic: &str, offset: i64, op: &str, headers: &[(&str, &str)]) -> Record {
        let mut all = vec![("cdc.op", op)];
        all.extend_from_slice(headers);
        let headers = all
            .into_iter()
            .map(|(name, value)| (name, Some(value.as_bytes())));
        Record::new(topic.into(), 0, offset, None, None, headers)
    }

    fn control(offset: i64, op: &str, lsn: u64) -> Record {
        let version = version(lsn);
        let headers = [("cdc.version", version.as_str()), ("cdc.topic", "t")];
        record(CONTROL, offset, op, &headers)
    }

    /// A row of the topic `t` that names the control event at `named`.
    fn row(lsn: u64, named: u64) -> Record {
        let (version, named) = (version(lsn), version(named));
        let headers = [
            ("cdc.version", version.as_str()),
            ("cdc.control", named.as_str()),
        ];
        record("t", 0, "c", &headers)
    }

    /// Everything up to `lsn` is in Kafka: so many control events, of which the newest about `t` is at `newest`.
    fn position(lsn: u64, control_end: i64, newest: u64, database: u32) -> Position {
        let json = serde_json::json!({
            "format": 1, "record": "full", "source": "s", "name": "pg", "generation": 1, "epoch": 1, "timeline": 1,
            "timeline_start": "0/0", "commit_lsn": format!("0/{lsn:X}"), "restart_lsn": "0/0", "nonce": "",
            "events": {"done": 1, "of": 1}, "effective_ts_us": 1, "sent_ts_us": 1, "heartbeat_ms": 1, "node": "n",
            "cluster_id": "k", "mac": "", "ends": {
                "t": {"topic_id": "x", "partitions": 1, "end": [5], "database": 5,
                    "control": {"version": version(newest), "topic": CONTROL}},
                CONTROL: {"topic_id": "y", "partitions": 1, "end": [control_end], "database": database},
                "e.cdc-control": {"topic_id": "z", "partitions": 1, "end": [1], "database": 6},
            },
        });
        serde_json::from_value(json).expect("a position")
    }

    fn lane(version: &str, is_cut: bool) -> Lane {
        Lane {
            is_cut,
            ..Lane::new(5, version.to_owned(), 0)
        }
    }

    fn at() -> TopicPartition {
        TopicPartition {
            topic: "t".into(),
            partition: 0,
        }
    }

    fn reading() -> ControlEvents {
        let mut events = ControlEvents::default();
        for topic in [CONTROL, "e.cdc-control"] {
            events.begin(topic.into(), 0, 0);
        }
        events
    }

    /// What comes before a row: the LSN's version, `wait`, or nothing.
    fn before(events: &ControlEvents, lane: &Lane, row: &Record, position: &Position) -> String {
        let version = row.version().expect("a version");
        match events.before(&at(), lane, row, version, Some(position)) {
            Before::Nothing => String::new(),
            Before::Wait => "wait".to_owned(),
            Before::Event(event) => event.version().expect("a version").to_owned(),
        }
    }

    #[test]
    fn a_row_waits_for_what_it_names_and_comes_behind_it() {
        let mut events = reading();
        let position = position(10, 1, 10, 5);
        let row = row(30, 20);
        assert_eq!(before(&events, &lane("", false), &row, &position), "wait");
        events.take(control(0, "schema", 10), Some(&position));
        let first = before(&events, &lane("", false), &row, &position);
        assert_eq!(first, version(10));
        // The sender has not said that it is at 20.
        events.take(control(1, "t", 20), Some(&position));
        let newer = super::tests::position(20, 2, 20, 5);
        let second = lane(&version(10), false);
        assert_eq!(before(&events, &second, &row, &newer), version(20));
        let third = lane(&version(20), false);
        assert_eq!(before(&events, &third, &row, &newer), "");
        // One that is newer than the row does not belong before it.
        events.take(control(2, "t", 40), Some(&newer));
        assert_eq!(before(&events, &third, &row, &newer), "");
    }

    #[test]
    fn where_no_row_comes_a_position_says_what_is_due() {
        let mut events = reading();
        let old = position(10, 1, 10, 5);
        events.take(control(0, "schema", 10), Some(&old));
        events.take(control(1, "t", 20), Some(&old));
        let due = |version: &str, position: &Position| {
            let event = events.due(&at(), &lane(version, false), position);
            event.map(|event| (event.version().unwrap_or_default().to_owned(), event.offset))
        };
        assert_eq!(
            due("", &old),
            Some((version(10), 4)),
            "where the partition is"
        );
        assert_eq!(due(&version(10), &old), None);
        let new = position(20, 2, 20, 5);
        assert_eq!(due(&version(10), &new), Some((version(20), 4)));
        assert_eq!(due(&version(20), &new), None);
    }

    #[test]
    fn only_the_sender_of_a_topic_speaks_for_it() {
        let mut events = reading();
        let position = position(30, 1, 10, 5);
        let text = version(20);
        let headers = [("cdc.version", text.as_str()), ("cdc.topic", "t")];
        events.take(record("e.cdc-control", 0, "t", &headers), Some(&position));
        assert!(events.due(&at(), &lane("", false), &position).is_none());
        events.take(control(0, "t", 20), Some(&position));
        assert!(events.due(&at(), &lane("", false), &position).is_some());
    }

    #[test]
    fn of_a_log_that_was_cut_definitions_alone_count() {
        let mut events = reading();
        let position = position(30, 2, 20, 5);
        events.take(control(0, "t", 10), Some(&position));
        events.take(control(1, "schema", 20), Some(&position));
        let first = |is_cut| {
            let event = events.due(&at(), &lane("", is_cut), &position);
            event.and_then(|event| event.version().map(str::to_owned))
        };
        assert_eq!(first(false), Some(version(10)));
        assert_eq!(first(true), Some(version(20)));
    }

    #[test]
    fn what_all_partitions_have_had_is_forgotten_and_passed() {
        let mut events = reading();
        let position = position(20, 2, 20, 5);
        events.take(control(0, "schema", 10), Some(&position));
        events.take(control(1, "t", 20), Some(&position));
        let mut lanes = HashMap::from([(at(), lane(&version(10), false))]);
        events.forget_done(&lanes);
        assert!(events.is_passed(CONTROL, 1, &lanes));
        assert!(!events.is_passed(CONTROL, 2, &lanes));
        lanes.insert(at(), lane(&version(20), false));
        assert!(events.is_passed(CONTROL, 2, &lanes));
        assert!(!events.is_passed(CONTROL, 3, &lanes), "not read so far");
    }

    #[test]
    fn a_control_topic_that_is_to_be_read_anew_is_not_passed() {
        let mut events = reading();
        let position = position(20, 1, 10, 5);
        let lanes = HashMap::from([(at(), lane(&version(10), false))]);
        events.take(control(0, "schema", 10), Some(&position));
        assert!(events.is_passed(CONTROL, 1, &lanes));
        events.expect(CONTROL.into());
        assert!(!events.reads(CONTROL));
        assert!(!events.is_passed(CONTROL, 1, &lanes));
        events.begin(CONTROL.into(), 0, 1);
        assert!(events.reads(CONTROL));
        assert!(!events.is_passed(CONTROL, 1, &lanes), "not read so far");
    }

    #[test]
    fn what_is_about_a_topic_without_partitions_here_is_not_kept() {
        let mut events = reading();
        let position = position(20, 1, 10, 5);
        events.take(control(0, "schema", 10), Some(&position));
        assert!(!events.is_empty());
        events.forget_done(&HashMap::new());
        assert!(events.is_empty());
    }
}
