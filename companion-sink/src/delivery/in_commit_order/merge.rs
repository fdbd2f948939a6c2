//! Brings the records of all partitions into the order of the source's commits, up to a position of the sender.
//!
//! By the prefix rule the events of a partition rise in version, later copies aside. What a position says is
//! complete lies before its ends; so the lowest version among the next records of all partitions is the next one overall, as
//! soon as every partition has a next record or has been read to its end. Nothing is looked at beyond the position, for of that
//! a part may be missing.

use crate::delivery::in_commit_order::merge_lane::{LaneKind, MergeLane};
use crate::event::Op;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use change::version::{Place, Version};

use crate::delivery::control_topics;
use crate::delivery::endless_copies;
use crate::delivery::endless_copies::EndlessCopies;
use crate::event::{is_for_others, is_version};
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::batch::Move;

/// The merged partitions.
pub(crate) struct Merge {
    /// Whom the records are for.
    sink: String,
    /// It is for applications' own events, too.
    takes_emitted: bool,
    lanes: Vec<MergeLane>,
    places: HashMap<TopicPartition, usize>,
    /// The lanes that have a next record, by its version.
    next: BinaryHeap<Reverse<(Version, usize)>>,
    /// Lanes that have none and have not been read to their end.
    hungry: Vec<usize>,
    goal: Place,
    duplicates: u64,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// An event of this commit, which [`Merge::take`] hands out.
    Event(Place),
    /// First the partition at this place must be read on.
    Missing(usize),
    /// Nothing is left up to the goal.
    Reached,
}

impl Merge {
    /// Nothing to merge yet, for the sink `sink`.
    pub(crate) fn new(sink: &str, takes_emitted: bool) -> Self {
        Merge {
            sink: sink.to_owned(),
            takes_emitted,
            lanes: Vec::new(),
            places: HashMap::new(),
            next: BinaryHeap::new(),
            hungry: Vec::new(),
            goal: Place::default(),
            duplicates: 0,
        }
    }

    /// The place of a partition.
    pub(crate) fn place(&self, at: &TopicPartition) -> Option<usize> {
        self.places.get(at).copied()
    }

    /// The partition at a place.
    pub(crate) fn at(&self, place: usize) -> &TopicPartition {
        &self.lanes[place].at
    }

    /// How many of those before the partition at a place are read from Kafka.
    pub(crate) fn queue(&self, place: usize) -> usize {
        self.lanes[place].queue
    }

    /// Partitions of tables' topics with the offset that comes next in the target.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        let lanes = self.lanes.iter();
        let lanes = lanes.filter(|lane| lane.kind == LaneKind::Rows);
        lanes.map(|lane| (&lane.at, lane.stored_next))
    }

    /// Partitions that are read, with the offset from which on they have not been.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        let lanes = self.lanes.iter();
        let lanes = lanes.filter(|lane| lane.kind != LaneKind::Control);
        lanes.map(|lane| (&lane.at, lane.read_to))
    }

    /// Later copies dropped since the last call.
    pub(crate) fn take_duplicates(&mut self) -> u64 {
        std::mem::take(&mut self.duplicates)
    }

    /// Merges one more partition, from `next_offset` on; `version` is the highest one before, empty for none. Its place.
    pub(crate) fn add(&mut self, at: TopicPartition, next_offset: i64, version: &str) -> usize {
        self.add_lane(LaneKind::Rows, at, next_offset, version)
    }

    /// Merges the control events about `topic`, of which the target has `next_offset`, up to `version`. What some partition of the
    /// topic is behind was done, too.
    pub(crate) fn add_control(&mut self, topic: &Arc<str>, next_offset: i64, version: &str) {
        let at = control_topics::lane_of(Arc::clone(topic));
        let of_topic = self.lanes.iter().filter(|lane| lane.at.topic == *topic);
        let behind = of_topic.filter_map(|lane| lane.version).max();
        let place = self.add_lane(LaneKind::Control, at, next_offset, version);
        let lane = &mut self.lanes[place];
        lane.version = lane.version.max(behind);
    }

    /// Reads a control topic's partition, from its beginning at `offset` on.
    pub(crate) fn add_control_topic(&mut self, at: TopicPartition, offset: i64) {
        self.add_lane(LaneKind::Source, at, offset, "");
    }

    fn add_lane(
        &mut self,
        kind: LaneKind,
        at: TopicPartition,
        next_offset: i64,
        version: &str,
    ) -> usize {
        let place = self.lanes.len();
        self.places.insert(at.clone(), place);
        self.lanes.push(MergeLane {
            kind,
            queue: self.read().count(),
            at,
            stored_next: next_offset,
            read_to: next_offset,
            end: next_offset,
            version: Version::parse(version),
            waiting: VecDeque::new(),
            copies: EndlessCopies::default(),
        });
        place
    }

    /// The commit up to which the target has something of some partition: what it has of others up to there must come with it.
    pub(crate) fn begun(&self) -> Option<Place> {
        let versions = self.lanes.iter().filter_map(|lane| lane.version);
        versions.map(|version| version.place()).max()
    }

    /// Goes on up to the commit `goal`. What is complete up to there ends where `end_of` says of each partition, `None` for one
    /// that the position does not name.
    pub(crate) fn set_goal(
        &mut self,
        goal: Place,
        end_of: impl Fn(&TopicPartition) -> Option<i64>,
    ) {
        self.goal = goal;
        self.hungry.clear();
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            lane.end = end_of(&lane.at).unwrap_or(lane.end);
            if lane.is_hungry() {
                self.hungry.push(place);
            }
        }
    }

    /// A record that came of the partition at `place`; an older one than those before is passed over. Of a control topic `speaks_for`
    /// says whether it is one of a topic's.
    pub(crate) fn offer(
        &mut self,
        place: usize,
        record: Record,
        speaks_for: impl Fn(&TopicPartition, &str) -> bool,
    ) {
        let lane = &mut self.lanes[place];
        if record.offset < lane.read_to {
            return;
        }
        lane.read_to = record.offset + 1;
        if lane.kind == LaneKind::Rows {
            return self.offer_to(place, record);
        }
        let control = lane.at.clone();
        let Some(topic) = control_topics::subject(&record) else {
            return;
        };
        let at = control_topics::lane_of(Arc::from(topic));
        let version = record.version().filter(|version| is_version(version));
        let version = version.and_then(Version::parse);
        if let Some(place) = self.place(&at)
            && version > self.lanes[place].version
            && speaks_for(&control, topic)
        {
            let lane = &mut self.lanes[place];
            let record = record.about(at.topic, at.partition, lane.read_to);
            lane.read_to += 1;
            self.offer_to(place, record);
        }
    }

    fn offer_to(&mut self, place: usize, record: Record) {
        let lane = &mut self.lanes[place];
        let passed_over = match record.op() {
            Some(Op::Tombstone) => true,
            Some(Op::Emit) => !self.takes_emitted,
            // A table's topic has truncates for others.
            _ if lane.kind == LaneKind::Rows && record.is_about_table() => true,
            // Only a snapshot's events name sinks.
            Some(Op::Read | Op::Snapshot) => is_for_others(&record, &self.sink),
            _ => false,
        };
        let version = record.version().filter(|version| is_version(version));
        let version = version.and_then(Version::parse);
        if passed_over {
            self.duplicates += u64::from(version.is_some() && version <= lane.version);
            return;
        }
        lane.waiting.push_back((version, record));
        if lane.waiting.len() == 1 {
            self.promote(place);
        }
    }

    /// Passes over copies at the head of the partition at `place`; what is there then is among those that may come next.
    fn promote(&mut self, place: usize) {
        let lane = &mut self.lanes[place];
        while let Some((version, record)) = lane.waiting.front() {
            let is_copy = version.is_some() && *version <= lane.version;
            if lane.copies.note(is_copy) {
                let version = record.version().unwrap_or_default();
                endless_copies::tell(&self.sink, &lane.at.topic, lane.at.partition, version);
            }
            if !is_copy {
                // One without a version is malformed: it stays where it was found.
                let version = version.or(lane.version).unwrap_or_default();
                self.next.push(Reverse((version, place)));
                return;
            }
            self.duplicates += 1;
            lane.waiting.pop_front();
        }
        if lane.is_hungry() {
            self.hungry.push(place);
        }
    }

    /// The partitions whose next record is of a later commit than `newest`, with its offset.
    pub(crate) fn beyond(&self, newest: Place) -> Vec<(usize, i64)> {
        let heads = self.next.iter().map(|Reverse(head)| head);
        let beyond = heads.filter(|(version, _)| version.place() > newest);
        let offset = |place: usize| self.lanes[place].next_offset();
        beyond.map(|(_, place)| (*place, offset(*place))).collect()
    }

    /// The next record of the partition at `place` is of no commit of the source: it is handed out where it stands, and marked.
    pub(crate) fn disbelieve(&mut self, place: usize) {
        self.next.retain(|Reverse((_, lane))| *lane != place);
        if let Some((version, record)) = self.lanes[place].waiting.front_mut() {
            *version = None;
            record.is_disbelieved = true;
        }
        self.promote(place);
    }

    /// The partition at `place` has nothing before `offset` that was not offered.
    pub(crate) fn offer_end(&mut self, place: usize, offset: i64) {
        let lane = &mut self.lanes[place];
        lane.read_to = lane.read_to.max(offset);
    }

    /// What comes next.
    pub(crate) fn next(&mut self) -> Next {
        while let Some(place) = self.hungry.last() {
            if self.lanes[*place].is_hungry() {
                return Next::Missing(*place);
            }
            self.hungry.pop();
        }
        let Some(Reverse((version, _))) = self.next.peek() else {
            return Next::Reached;
        };
        match version.place() > self.goal {
            true => Next::Reached,
            false => Next::Event(version.place()),
        }
    }

    /// Hands out the event that comes next; `None` if there is none.
    pub(crate) fn take(&mut self) -> Option<Record> {
        let Reverse((version, place)) = self.next.pop()?;
        let lane = &mut self.lanes[place];
        let (_, record) = lane.waiting.pop_front()?;
        // A malformed one without a version, before any that has one, stands at the beginning.
        if version > Version::default() {
            lane.version = Some(version);
        }
        self.promote(place);
        Some(record)
    }

    /// How the partitions' positions move by what was handed out.
    pub(crate) fn moves(&self) -> Vec<Move> {
        let lanes = self.lanes.iter();
        let moved = lanes
            .filter(|lane| lane.kind != LaneKind::Source && lane.next_offset() != lane.stored_next);
        let moved = moved.map(|lane| Move {
            at: lane.at.clone(),
            begin: lane.stored_next,
            end: lane.next_offset(),
            version: lane
                .version
                .map_or_else(String::new, |version| version.to_string()),
        });
        let mut moves: Vec<Move> = moved.collect();
        moves.sort_by(|a, b| a.at.cmp(&b.at));
        moves
    }

    /// The target has these positions.
    pub(crate) fn moved(&mut self, moves: &[Move]) {
        for moved in moves {
            if let Some(place) = self.place(&moved.at) {
                self.lanes[place].stored_next = moved.end;
            }
        }
    }
}

#[cfg(test)]
mod tests;
