//! The course of a sink that applies each partition by itself: finds the partitions, gathers batches, drops later copies,
//! and holds events together that are for all partitions.

use crate::delivery::by_partition::gathering::Gathered;
use crate::event::Op;

pub(crate) mod gathering;

use crate::delivery::by_partition::lane::Lane;

pub(crate) mod lane;

mod assignment;
mod control;
mod control_course;
mod held;
mod shared;
mod stopped_topics;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use change::event::headers::HeaderName;
use change::topic_name;
use change::version::Version;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config;
use crate::config::topic_pattern::follows;
use crate::delivery::by_partition::control::{Before, ControlEvents};
use crate::delivery::by_partition::stopped_topics::StoppedTopics;
use crate::delivery::copied_offsets::CopiedOffsets;
use crate::delivery::doubt::{Doubts, is_far_beyond};
use crate::delivery::endless_copies;
use crate::delivery::runner::{Context, Course, Ended, Shared, ended, stopped};
use crate::delivery::watermark::Watermark;
use crate::error::{Recovery, Result};
use crate::event::{commit_time_us, is_for_others, is_version};
use crate::kafka::bounds::find_out_of_range;
use crate::kafka::discovery::Topics;
use crate::kafka::reader::{Fetched, Reader, TopicPartition};
use crate::kafka::record::Record;
use crate::sink::batch::Move;
use crate::sink::{SharedTarget, Sink};
use crate::status::SinkStatus;

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
            control: ControlEvents::default(),
            goal: context.goal.as_ref(),
        };
        let ended = tokio::select! {
            ended = run.run(stop) => ended,
            error = no_answer => Err(error),
        };
        match &ended {
            Ok(_) => self.sink.finish().await,
            Err(error) => {
                let goes_on = error.code.recovery() != Recovery::Halt;
                self.sink.rest(goes_on).await;
            }
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
    config: &'r config::SinkSettings,
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
    control: ControlEvents,
    /// The run ends when these offsets come next.
    goal: Option<&'r HashMap<TopicPartition, i64>>,
}

impl<S: Sink> Run<'_, S> {
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<Ended> {
        let mut cluster = self.shared.discovery.cluster();
        cluster.mark_changed();
        self.status.begins_anew();
        self.carry_out().await?;
        let mut position = self.shared.position.clone();
        // Whoever takes events of any producer waits for none, unless a row names what it belongs behind.
        if position.borrow().is_none() && !self.sink.takes_emitted() {
            tell_of_missing_position(&self.status.name);
        }
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
                changed = position.changed() => {
                    if changed.is_err() {
                        return Err(ended("the reading of positions"));
                    }
                    position.mark_unchanged();
                    self.read_control(false).await?;
                    self.do_due().await?;
                }
                fetched = self.reader.next() => match fetched {
                    None => return Err(ended("the reading thread")),
                    Some(fetched) => self.gather_and_apply(fetched).await?,
                },
            }
        }
    }

    fn is_at_goal(&self) -> bool {
        let Some(goal) = self.goal else { return false };
        let position = self.shared.position.borrow();
        let Some(position) = position.as_deref() else {
            return false;
        };
        let has_control = |(topic, _): &(&String, _)| topic_name::is_control(topic);
        let mut control = position.ends.iter().filter(has_control);
        let is_done = control.all(|(topic, ends)| {
            let end = ends.end.first().copied().unwrap_or_default();
            self.control.is_passed(topic, end, &self.lanes)
        });
        let is_passed = |at: &TopicPartition, end: i64| {
            self.lanes.get(at).is_some_and(|lane| {
                let is_told = lane.held.is_none() && lane.assigned.elapsed() > TOLD_AFTER;
                let is_read_to = || self.reader.is_read_to(at, end, lane.stored_next);
                lane.stored_next >= end || (is_told && is_read_to())
            })
        };
        is_done && goal.iter().all(|(at, end)| is_passed(at, *end))
    }

    /// Carries out what people decided about parked events.
    async fn carry_out(&mut self) -> Result<()> {
        let parked_keys = self.sink.carry_out(&self.shared.dead_letters).await?;
        self.status.figures().parked_keys = parked_keys;
        Ok(())
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
        self.release_held().await?;
        self.do_due().await
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
            if topic_name::is_control(&record.topic) {
                let position = self.shared.position.borrow();
                self.control.take(record, position.as_deref());
            } else {
                self.sort(record, gathered);
            }
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
        if lane.epoch != record.epoch || record.offset < lane.next || lane.rests() {
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
        if !copy && let Some(version) = version {
            let position = self.shared.position.borrow().clone();
            while let Some(lane) = self.lanes.get_mut(&at) {
                let before =
                    (self.control).before(&at, lane, &record, version, position.as_deref());
                match before {
                    Before::Nothing => break,
                    Before::Wait => {
                        if position.is_none() && self.sink.takes_emitted() {
                            tell_of_missing_position(&self.status.name);
                        }
                        let named = record.header(HeaderName::CONTROL.as_str());
                        lane.waits_for = named.map(str::to_owned);
                        self.reader.unassign(at);
                        return;
                    }
                    Before::Event(event) => {
                        if !self.do_control(&at, event, gathered) {
                            return;
                        }
                    }
                }
            }
        }
        let Some(lane) = self.lanes.get_mut(&at) else {
            return;
        };
        let op = record.op();
        lane.next = record.offset + 1;
        gathered.touched = true;
        // A table's topic has truncates for others, which have no control topic.
        if record.is_about_table() {
            return;
        }
        if copy {
            gathered.duplicates += 1;
        } else if let Some(version) = version {
            lane.version.clear();
            lane.version.push_str(version);
        }
        let is_nothing = op == Some(Op::Tombstone);
        let is_own = op == Some(Op::Emit) && !self.sink.takes_emitted();
        if !copy && !is_nothing && !is_own && !is_for_others(&record, &self.status.name) {
            gathered.bytes += record.size_bytes();
            gathered.batch.records.push(record);
        }
    }

    async fn apply(&mut self, mut gathered: Gathered) -> Result<()> {
        if !gathered.touched {
            return Ok(());
        }
        let batch = &mut gathered.batch;
        batch.moves = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.next != lane.stored_next || lane.is_version_new)
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
            lane.is_version_new = false;
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
        // One that a position tells of first is missing as long as it is not read.
        self.read_control(false).await?;
        if let Some(position) = self.shared.position.borrow().clone() {
            self.watermark.offer(position);
        }
        let (lanes, control) = (&self.lanes, &self.control);
        let topics = &self.config.topics;
        let is_passed = |topic: &str, partition: i32, end: i64| {
            let at = TopicPartition {
                topic: topic.into(),
                partition,
            };
            let stored_next = lanes.get(&at).map_or(0, |lane| lane.stored_next);
            match topic_name::is_control(topic) {
                true => control.is_passed(topic, end, lanes),
                false => stored_next >= end || !follows(topics, topic),
            }
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

/// Without positions nobody knows which control topics there are, and what is missing where no row comes.
pub(crate) fn tell_of_missing_position(sink: &str) {
    tracing::info!(
        sink,
        hint = "Nothing to do if the source has just been set up; else set [kafka] source_name to the server's cdc.source_name.",
        "waiting for a position of the sender"
    );
}

/// Waits until another instance acted; for ever where there can be none.
async fn others_acted(shared: Option<&impl SharedTarget>) {
    match shared {
        Some(shared) => shared.others_acted().await,
        None => std::future::pending().await,
    }
}
