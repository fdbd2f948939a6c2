//! The course of a sink that applies each partition by itself: finds the partitions, gathers batches, drops later copies,
//! and holds events together that are for all partitions.

use crate::delivery::by_partition::gathering::Gathered;
use crate::event::Op;

pub(crate) mod gathering;

use crate::delivery::by_partition::lane::Lane;

pub(crate) mod lane;

mod held;
mod shared;
mod stopped_topics;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use change::version::Version;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config;
use crate::config::topic_pattern::follows;
use crate::delivery::by_partition::stopped_topics::StoppedTopics;
use crate::delivery::copied_offsets::CopiedOffsets;
use crate::delivery::doubt::{Doubts, is_far_beyond};
use crate::delivery::endless_copies;
use crate::delivery::endless_copies::EndlessCopies;
use crate::delivery::opening::Opening;
use crate::delivery::runner::{Context, Course, Ended, Shared, ended, stopped};
use crate::delivery::watermark::Watermark;
use crate::error::{Recovery, Result};
use crate::event::snapshot::SnapshotBody;
use crate::event::{commit_time_us, is_for_others, is_version};
use crate::kafka::bounds::find_out_of_range;
use crate::kafka::discovery::Cluster;
use crate::kafka::discovery::Topics;
use crate::kafka::reader::{Fetched, Reader, TopicPartition};
use crate::kafka::record::Record;
use crate::sink::batch::Move;
use crate::sink::{SharedTarget, Sink, all_partitions};
use crate::status::{SinkStatus, State};

/// How soon a new partition is asked again that has no leader yet.
const RETRY: Duration = Duration::from_millis(100);
/// What the reader says of a partition's end is of the last second: before, it may be of what was assigned earlier.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// From so many records on in one go, more is on its way and worth waiting for.
const BURST_RECORDS: usize = 32;

/// Applies each partition's events in their order, partitions independently.
pub(crate) struct ByPartition<S> {
    sink: S,
}

impl<S: Sink> ByPartition<S> {
    /// The course of `sink`.
    pub(crate) fn new(sink: S) -> Self {
        ByPartition { sink }
    }
}

impl<S: Sink> Course for ByPartition<S> {
    async fn run(&mut self, context: &Context) -> Result<Ended> {
        let mut stop = context.shared.stop.clone();
        tokio::select! {
            () = stopped(&mut stop) => return Ok(Ended::Stopped),
            connected = self.sink.connect() => connected?,
        }
        let reader = Reader::start(&context.client, &context.name)?;
        let no_answer = self.sink.no_answer(&context.status);
        let run = Run {
            sink: &mut self.sink,
            config: &context.config,
            shared: &context.shared,
            status: &context.status,
            reader,
            wanted: Topics::new(),
            lanes: HashMap::new(),
            epoch: 0,
            incomplete: false,
            copied: CopiedOffsets::default(),
            watermark: Watermark::default(),
            doubts: Doubts::default(),
            stopped: StoppedTopics::default(),
            goal: context.goal.as_ref(),
        };
        let ended = tokio::select! {
            ended = run.run(stop) => ended,
            error = no_answer => Err(error),
        };
        if let Err(error) = &ended {
            let goes_on = error.code.recovery() != Recovery::Halt;
            self.sink.rest(goes_on).await;
        }
        // Whatever ended it: the others need not wait for this one.
        if let Some(shared) = self.sink.shared_mut() {
            shared.leave().await;
        }
        if self.sink.shared().is_some() {
            context.status.figures().partitions = Some(0);
        }
        ended
    }

    async fn resumed(&mut self) {
        self.sink.resumed().await;
    }
}

/// One run of a sink, from connecting to the first error.
struct Run<'r, S> {
    sink: &'r mut S,
    config: &'r config::Sink,
    shared: &'r Shared,
    status: &'r SinkStatus,
    reader: Reader,
    /// The topics to follow, with their numbers of partitions.
    wanted: Topics,
    lanes: HashMap<TopicPartition, Lane>,
    /// That of the newest assignment of a partition.
    epoch: u32,
    /// Something waits that nobody tells about: a leader of a new partition, or another instance.
    incomplete: bool,
    copied: CopiedOffsets,
    watermark: Watermark,
    /// Events beyond what the sender has come to.
    doubts: Doubts,
    /// Topics that wait at an event about their table which the target cannot follow.
    stopped: StoppedTopics,
    /// The run ends when these offsets come next.
    goal: Option<&'r HashMap<TopicPartition, i64>>,
}

impl<S: Sink> Run<'_, S> {
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<Ended> {
        let mut cluster = self.shared.discovery.cluster();
        cluster.mark_changed();
        self.status.begins_anew();
        self.carry_out().await?;
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.is_at_goal() {
                return Ok(Ended::Reached);
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => {
                    self.copy_offsets();
                    return Ok(Ended::Stopped);
                }
                changed = cluster.changed() => {
                    if changed.is_err() {
                        return Err(ended("discovery"));
                    }
                    let known = cluster.borrow_and_update().clone();
                    self.follow(known).await?;
                }
                () = sleep(RETRY), if self.incomplete => {
                    let known = cluster.borrow().clone();
                    self.follow(known).await?;
                }
                _ = second.tick() => {
                    self.copy_offsets();
                    self.pass_markers();
                    self.clear_doubts();
                    self.note_complete().await?;
                    self.look_at_others().await?;
                }
                () = self.sink.decided() => {
                    self.carry_out().await?;
                    self.stopped.try_now();
                    self.look_at_others().await?;
                }
                () = others_acted(self.sink.shared()) => self.look_at_others().await?,
                fetched = self.reader.next() => match fetched {
                    None => return Err(ended("the reading thread")),
                    Some(fetched) => self.gather_and_apply(fetched).await?,
                },
            }
        }
    }

    fn is_at_goal(&self) -> bool {
        let is_passed = |at: &TopicPartition, end: i64| {
            self.lanes.get(at).is_some_and(|lane| {
                let is_told = lane.held.is_none() && lane.assigned.elapsed() > TOLD_AFTER;
                let is_read_to = || self.reader.is_read_to(at, end, lane.stored_next);
                lane.stored_next >= end || (is_told && is_read_to())
            })
        };
        self.goal
            .is_some_and(|goal| goal.iter().all(|(at, end)| is_passed(at, *end)))
    }

    /// Carries out what people decided about parked events.
    async fn carry_out(&mut self) -> Result<()> {
        let parked_keys = self.sink.carry_out(&self.shared.dead_letters).await?;
        self.status.figures().parked_keys = parked_keys;
        Ok(())
    }

    /// Assigns the partitions that are new.
    async fn follow(&mut self, cluster: Cluster) -> Result<()> {
        let Some(topics) = cluster.topics else {
            if let Some(error) = cluster.error {
                self.status.set_error(&error);
                self.status.set_state(State::Retrying);
            }
            return Ok(());
        };
        // What is read already is read on, whatever became of the topic.
        let lanes = &self.lanes;
        self.wanted
            .retain(|topic, _| lanes.keys().any(|at| *at.topic == **topic));
        for (topic, partitions) in topics.iter() {
            if follows(&self.config.topics, topic) {
                let known = self.wanted.entry(topic.clone()).or_default();
                *known = (*partitions).max(*known);
            }
        }
        self.share().await?;
        self.release_held().await?;
        self.tell_state(cluster.error.is_some());
        Ok(())
    }

    fn tell_state(&self, is_kafka_away: bool) {
        let others_have_all = self.lanes.is_empty() && !self.incomplete && !self.wanted.is_empty();
        self.status.set_state(match is_kafka_away {
            true => State::Retrying,
            false if others_have_all => State::Standby,
            false => State::Running,
        });
    }

    /// Has the partitions that are this instance's now, and no others.
    async fn share(&mut self) -> Result<()> {
        let mine = match self.sink.shared_mut() {
            Some(shared) => shared.share(&self.wanted).await?,
            None => all_partitions(&self.wanted),
        };
        let given_up: Vec<TopicPartition> = self
            .lanes
            .keys()
            .filter(|at| !mine.contains(at))
            .cloned()
            .collect();
        for at in &given_up {
            let lane = self.lanes.remove(at);
            if !self.lanes.keys().any(|left| left.topic == at.topic) {
                self.goes_on(&at.topic);
            }
            self.status.gives_up(at);
            // Where it was held, it is not read.
            if lane.is_some_and(|lane| lane.held.is_none() && lane.doubted.is_none()) {
                self.reader.unassign(at.clone());
            }
        }
        if !given_up.is_empty() {
            tracing::info!(sink = %self.status.name, partitions = given_up.len(), "partitions given up to other instances");
        }
        let fresh: Vec<TopicPartition> = mine
            .into_iter()
            .filter(|at| !self.lanes.contains_key(at))
            .collect();
        self.incomplete = false;
        if !fresh.is_empty() {
            self.assign(fresh).await?;
            if self.sink.shared().is_some() {
                // Of their keys as well.
                self.carry_out().await?;
            }
        }
        if self.sink.shared().is_some() {
            self.status.figures().partitions = Some(self.lanes.len());
        }
        Ok(())
    }

    async fn assign(&mut self, fresh: Vec<TopicPartition>) -> Result<()> {
        let stored = self.sink.positions(&fresh).await?;
        let mut opening = Opening::default();
        for (at, stored) in fresh.into_iter().zip(stored) {
            let bounds = self.shared.discovery.bounds(&at.topic, at.partition);
            match bounds.await {
                Ok(bounds) => opening.add(at, stored, bounds)?,
                Err(error) => {
                    tracing::debug!(sink = %self.status.name, %error, "asked again");
                    self.incomplete = true;
                }
            }
        }
        for (at, position) in opening.begin(self.sink, &self.status.name).await? {
            self.go_on(at, position.next_offset, position.version);
        }
        Ok(())
    }

    /// Reads a partition from a position that the target has.
    fn go_on(&mut self, at: TopicPartition, next: i64, version: String) {
        self.epoch += 1;
        let lane = Lane {
            stored_next: next,
            next,
            version,
            epoch: self.epoch,
            assigned: Instant::now(),
            held: None,
            is_noted: false,
            doubted: None,
            disbelieved: None,
            copies: EndlessCopies::default(),
        };
        self.reader.assign(at.clone(), next, lane.epoch);
        self.status.is_at(&at, next);
        self.lanes.insert(at, lane);
    }

    /// Gathers what has arrived, and what is arriving, up to a batch; applies it.
    async fn gather_and_apply(&mut self, first: Fetched) -> Result<()> {
        let began = Instant::now();
        let rows = self.config.batch_rows();
        let mut gathered = Gathered::default();
        let mut fetched = Some(first);
        loop {
            let mut arrived = 0;
            while let Some(some) = fetched.take() {
                arrived += self.take(some, &mut gathered).await?;
                if gathered.is_full(rows) {
                    break;
                }
                fetched = self.reader.next_now();
            }
            let left = self.config.batch_wait().saturating_sub(began.elapsed());
            if gathered.is_full(rows) || arrived < BURST_RECORDS || left.is_zero() {
                break;
            }
            match timeout(left, self.reader.next()).await {
                Ok(Some(more)) => fetched = Some(more),
                Ok(None) => return Err(ended("the reading thread")),
                Err(_) => break,
            }
        }
        self.apply(gathered).await?;
        self.release_held().await
    }

    /// Sorts records into the batch; returns how many were looked at.
    async fn take(&mut self, fetched: Fetched, gathered: &mut Gathered) -> Result<usize> {
        let records = match fetched {
            Fetched::Records(records) => records,
            Fetched::OutOfRange => {
                self.find_out_of_range().await?;
                return Ok(0);
            }
        };
        let looked_at = records.len();
        for record in records {
            self.sort(record, gathered);
        }
        Ok(looked_at)
    }

    /// Reads on where it has become clear whether an event is the source's.
    fn clear_doubts(&mut self) {
        let position = self.shared.position.borrow().clone();
        let Some(position) = position else { return };
        self.doubts.look_at(&position);
        let mut clear = Vec::new();
        for (at, lane) in &self.lanes {
            let Some((place, offset)) = lane.doubted else {
                continue;
            };
            let is_over = self.doubts.is_over(at, offset, &position);
            if is_over || !is_far_beyond(place, at, &position) {
                let version = lane.version.clone();
                clear.push((at.clone(), offset, version, is_over.then_some(offset)));
            }
        }
        for (at, offset, version, disbelieved) in clear {
            let stored_next = self.lanes.get(&at).map(|lane| lane.stored_next);
            self.doubts.forget(&at);
            self.go_on(at.clone(), offset, version);
            if let Some(lane) = self.lanes.get_mut(&at) {
                lane.stored_next = stored_next.unwrap_or(offset);
                lane.disbelieved = disbelieved;
            }
        }
    }

    fn sort(&mut self, mut record: Record, gathered: &mut Gathered) {
        let at = TopicPartition::of(&record);
        let Some(lane) = self.lanes.get_mut(&at) else {
            return;
        };
        let waits = lane.held.is_some() || lane.doubted.is_some();
        if lane.epoch != record.epoch || record.offset < lane.next || waits {
            return;
        }
        record.is_disbelieved = lane.disbelieved == Some(record.offset);
        let version = record.version().filter(|version| is_version(version));
        let version = version.filter(|_| !record.is_disbelieved);
        let copy = version.is_some_and(|version| version <= lane.version.as_str());
        if lane.copies.note(copy) {
            let version = version.unwrap_or_default();
            endless_copies::tell(&self.status.name, &at.topic, at.partition, version);
        }
        if let Some(place) = version
            .and_then(Version::parse)
            .map(|version| version.place())
            && let Some(position) = self.shared.position.borrow().as_deref()
            && is_far_beyond(place, &at, position)
        {
            self.reader.unassign(at.clone());
            lane.doubted = Some((place, record.offset));
            return;
        }
        let op = record.op();
        let for_others = is_for_others(&record, &self.status.name);
        let held =
            !copy && !for_others && !record.is_disbelieved && waits_for_all_partitions(op, &record);
        if held && self.sink.waits_together(&record) {
            self.reader.unassign(at);
            lane.held = Some(record);
            lane.is_noted = false;
            return;
        }
        lane.next = record.offset + 1;
        if copy {
            gathered.duplicates += 1;
        } else if let Some(version) = version {
            lane.version.clear();
            lane.version.push_str(version);
        }
        // An application's own event is nobody's row.
        if !copy && !matches!(op, Some(Op::Tombstone | Op::Emit)) && !for_others {
            gathered.bytes += record.size_bytes();
            gathered.batch.records.push(record);
        }
        gathered.touched = true;
    }

    async fn apply(&mut self, mut gathered: Gathered) -> Result<()> {
        if !gathered.touched {
            return Ok(());
        }
        let batch = &mut gathered.batch;
        batch.moves = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.next != lane.stored_next)
            .map(|(at, lane)| Move {
                at: at.clone(),
                begin: lane.stored_next,
                end: lane.next,
                version: lane.version.clone(),
            })
            .collect();
        // One order for all instances, so that they queue up behind each other instead of into a deadlock.
        batch.moves.sort_by(|a, b| a.at.cmp(&b.at));
        let began = Instant::now();
        let applied = self.sink.apply(batch, &self.shared.dead_letters).await?;
        let last_commit_us = batch.records.last().and_then(commit_time_us);
        self.status.applied(began.elapsed(), last_commit_us);
        self.status.moved(&batch.moves);
        self.count(&gathered, &applied);
        for lane in self.lanes.values_mut() {
            lane.stored_next = lane.next;
        }
        Ok(())
    }

    fn count(&self, gathered: &Gathered, applied: &crate::sink::batch::Applied) {
        let mut figures = self.status.figures();
        figures.duplicates += gathered.duplicates;
        figures.count(&gathered.batch.records, applied);
    }

    /// Copies the applied offsets into the consumer group, for lag tools only.
    fn copy_offsets(&mut self) {
        let stored = self.lanes.iter().map(|(at, lane)| (at, lane.stored_next));
        let moved = self.copied.moved(stored);
        if !moved.is_empty() {
            self.reader.commit(moved);
        }
    }

    /// Tells the target up to which commit it has everything.
    async fn note_complete(&mut self) -> Result<()> {
        if let Some(position) = self.shared.position.borrow().clone() {
            self.watermark.offer(position);
        }
        let (lanes, topics) = (&self.lanes, &self.config.topics);
        let is_passed = |topic: &str, partition: i32, end: i64| {
            let at = TopicPartition {
                topic: topic.into(),
                partition,
            };
            let stored_next = lanes.get(&at).map_or(0, |lane| lane.stored_next);
            stored_next >= end || !follows(topics, topic)
        };
        match self.watermark.advance(is_passed) {
            Some(complete) => self.sink.note_complete(complete).await,
            None => Ok(()),
        }
    }

    /// Tells of what lies behind the last events that nothing of it is one.
    fn pass_markers(&self) {
        for (at, lane) in &self.lanes {
            let next = self.reader.nothing_before(at, lane.stored_next);
            if next > lane.stored_next && lane.held.is_none() {
                self.status.has_nothing_before(at, next);
            }
        }
    }

    /// Kafka refused an offset: finds out which one.
    async fn find_out_of_range(&self) -> Result<()> {
        let lanes = self.lanes.iter().map(|(at, lane)| (at, lane.next));
        find_out_of_range(&self.shared.discovery, lanes).await
    }
}

/// Waits until another instance acted; for ever where there can be none.
async fn others_acted(shared: Option<&impl SharedTarget>) {
    match shared {
        Some(shared) => shared.others_acted().await,
        None => std::future::pending().await,
    }
}

/// Truncates, changes of definitions, and the beginnings and ends of snapshots.
fn waits_for_all_partitions(op: Option<Op>, record: &Record) -> bool {
    match op {
        Some(Op::Truncate | Op::Schema) => true,
        Some(Op::Snapshot) => SnapshotBody::parse(record)
            .is_ok_and(|snapshot| snapshot.is_beginning() || snapshot.is_end()),
        _ => false,
    }
}
