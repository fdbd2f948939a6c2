//! The course of a sink that takes whole transactions of the source, in the order of their commits, over all tables and
//! partitions. One instance is active. What is in Kafka whole, and where it ends, the sender's positions say.

mod merge;
mod merge_lane;
mod merged_partitions;
mod part;

use std::time::{Duration, Instant};

use change::position::Position as SenderPosition;
use change::trouble::Trouble;
use change::version::Place;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::config::topic_pattern::follows;
use crate::delivery::by_partition::tell_of_missing_position;
use crate::delivery::control_topics;
use crate::delivery::copied_offsets::CopiedOffsets;
use crate::delivery::doubt;
use crate::delivery::doubt::Doubts;
use crate::delivery::in_commit_order::merge::{Merge, Next};
use crate::delivery::in_commit_order::part::Part;
use crate::delivery::runner::{Context, Course, Ended, ended, stopped};
use crate::error::{Code, Recovery, Result};
use crate::event::commit_time_us;
use crate::kafka::bounds::find_out_of_range;
use crate::kafka::partition_queues::{PartitionQueues, Polled};
use crate::kafka::reader::TopicPartition;
use crate::sink::ordered::{Commit, OrderedSink, PartEnd, PartOutcome, Poison, Uncommitted};
use crate::status::State;

/// How long Kafka may owe what a position says it has, while the target holds a commit that is not whole.
const OWED_MAX: Duration = Duration::from_secs(15);
/// How long a new partition may be without a leader before that is an error.
const LEADER_WAIT: Duration = Duration::from_secs(5);
const LEADER_RETRY: Duration = Duration::from_millis(100);

/// Applies whole transactions in the order of their commits.
pub(crate) struct InCommitOrder<S> {
    target: S,
}

impl<S: OrderedSink> InCommitOrder<S> {
    /// The course of `target`.
    pub(crate) fn new(target: S) -> Self {
        InCommitOrder { target }
    }
}

impl<S: OrderedSink> Course for InCommitOrder<S> {
    async fn run(&mut self, context: &Context) -> Result<Ended> {
        let no_answer = self.target.no_answer(&context.status);
        let ended = tokio::select! {
            ended = self.follow_all(context) => ended,
            error = no_answer => Err(error),
        };
        if let Err(error) = &ended {
            let is_over = error.code.recovery() != Recovery::Halt;
            self.target.rest(is_over).await;
        }
        ended
    }

    async fn resumed(&mut self) {
        self.target.resumed().await;
    }
}

impl<S: OrderedSink> InCommitOrder<S> {
    /// Until the process stops, or the goal is reached, or something fails.
    async fn follow_all(&mut self, context: &Context) -> Result<Ended> {
        let mut poison: Option<Box<Poison>> = None;
        loop {
            let mut stop = context.shared.stop.clone();
            tokio::select! {
                () = stopped(&mut stop) => return Ok(Ended::Stopped),
                connected = self.target.connect() => connected?,
            }
            let takes_emitted = self.target.takes_emitted();
            let position = context.shared.position.borrow().clone();
            let partitions = position.map_or(0, |position| partitions(context, &position));
            let mut second = interval(Duration::from_secs(1));
            second.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let run = CommitOrderRun {
                target: &mut self.target,
                context,
                queues: PartitionQueues::start(&context.client, &context.name, partitions)?,
                merge: Merge::new(&context.name, takes_emitted),
                part: Part::default(),
                begun: None,
                poison: poison.take(),
                copied: CopiedOffsets::default(),
                doubts: Doubts::default(),
                second,
                stop,
            };
            match run.run().await? {
                Followed::Poisoned(found) => poison = Some(found),
                Followed::Again => tracing::debug!(
                    sink = context.name,
                    "the target refuses a transaction at its end: the event is looked for"
                ),
                Followed::Outgrown => {
                    tracing::debug!(sink = context.name, "new topics: connecting again")
                }
                Followed::Reached => return Ok(Ended::Reached),
                Followed::Stopped => return Ok(Ended::Stopped),
            }
        }
    }
}

/// One run, from connecting to the first error.
struct CommitOrderRun<'r, S> {
    target: &'r mut S,
    context: &'r Context,
    queues: PartitionQueues,
    merge: Merge,
    part: Part,
    /// Of some partition the target has something up to here, so only from here on it may show what it has.
    begun: Option<Place>,
    /// An event that cannot be applied, found by the run before: what was committed before it is applied first.
    poison: Option<Box<Poison>>,
    copied: CopiedOffsets,
    /// Events beyond what the sender has come to.
    doubts: Doubts,
    second: Interval,
    stop: watch::Receiver<bool>,
}

/// How far a goal was followed.
enum Followed {
    Reached,
    Stopped,
    /// There are new topics, or many more partitions than the memory was shared for. Nothing of them was read.
    Outgrown,
    /// This event cannot be applied. Nothing of what was taken is left.
    Poisoned(Box<Poison>),
    /// Nothing of what was taken is left, which is to be given once more.
    Again,
}

impl From<Uncommitted> for Followed {
    fn from(undone: Uncommitted) -> Self {
        match undone {
            Uncommitted::Poisoned(poison) => Followed::Poisoned(poison),
            Uncommitted::Again => Followed::Again,
        }
    }
}

impl<S: OrderedSink> CommitOrderRun<'_, S> {
    /// Until the process stops, or the goal is reached, or an event is found that cannot be applied.
    async fn run(mut self) -> Result<Followed> {
        let mut position = self.context.shared.position.clone();
        position.mark_changed();
        self.carry_out().await?;
        if position.borrow().is_none() {
            tell_of_missing_position(&self.context.name);
        }
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => {
                    self.copy_offsets();
                    return Ok(Followed::Stopped);
                }
                _ = self.second.tick() => {
                    self.every_second();
                    let newest = position.borrow().clone();
                    if let Some(newest) = newest
                        && self.disbelieve(&newest)
                    {
                        match self.follow(&newest).await? {
                            Followed::Reached if self.context.goal.is_none() => {}
                            end => return Ok(end),
                        }
                    }
                }
                () = self.target.decided() => self.carry_out().await?,
                changed = position.changed() => {
                    if changed.is_err() {
                        return Err(ended("the reading of positions"));
                    }
                    let newest = position.borrow_and_update().clone();
                    let Some(newest) = newest else { continue };
                    self.doubts.look_at(&newest);
                    match self.follow(&newest).await? {
                        Followed::Reached if self.context.goal.is_none() => {}
                        end => return Ok(end),
                    }
                }
            }
        }
    }

    /// Carries out what people decided about parked events.
    async fn carry_out(&mut self) -> Result<()> {
        let dead_letters = &self.context.shared.dead_letters;
        let parked_keys = self.target.carry_out(dead_letters).await?;
        self.context.status.figures().parked_keys = parked_keys;
        Ok(())
    }

    /// Applies everything up to a position.
    async fn follow(&mut self, position: &SenderPosition) -> Result<Followed> {
        if self
            .queues
            .are_too_small_for(partitions(self.context, position))
        {
            return Ok(Followed::Outgrown);
        }
        if !self.merge_all_of(position).await? {
            return Ok(Followed::Outgrown);
        }
        let goal = position.complete_place();
        if self.begun > Some(goal) {
            // Some partition was read beyond this position, by a sink that does not wait for them.
            return Ok(Followed::Reached);
        }
        self.context.status.set_state(State::Running);
        self.merge.set_goal(goal, |at| end_of(position, at));
        loop {
            match self.merge.next() {
                Next::Event(place) => {
                    if self
                        .poison
                        .as_ref()
                        .is_some_and(|poison| poison.place <= place)
                    {
                        return self.stop_at_poison().await;
                    }
                    if self.part.is_full(self.context.config.batch_rows()) {
                        if let Some(undone) = self.flush(place).await? {
                            return Ok(undone.into());
                        }
                        if self.part.is_empty() && *self.stop.borrow() {
                            return Ok(Followed::Stopped);
                        }
                    }
                    if let Some(record) = self.merge.take() {
                        self.part.push(record, place);
                    }
                }
                Next::Missing(lane) => {
                    if let Followed::Stopped = self.read(lane, position).await? {
                        return Ok(Followed::Stopped);
                    }
                }
                Next::Reached => break,
            }
        }
        Ok(match self.commit().await? {
            Some(undone) => undone.into(),
            None => Followed::Reached,
        })
    }

    /// Marks the events that have claimed for long enough a commit which the sender has not come to; whether there are any.
    fn disbelieve(&mut self, position: &SenderPosition) -> bool {
        let mut any = false;
        for (place, offset) in self.merge.beyond(doubt::newest(position)) {
            if self.doubts.is_over(self.merge.at(place), offset, position) {
                self.merge.disbelieve(place);
                any = true;
            }
        }
        any
    }

    /// Commits what comes before the event that cannot be applied, and halts there.
    async fn stop_at_poison(&mut self) -> Result<Followed> {
        if self.begun <= self.part.place
            && let Some(earlier) = self.commit().await?
        {
            return Ok(earlier.into());
        }
        let Some(poison) = self.poison.take() else {
            return Ok(Followed::Reached);
        };
        let dead_letters = &self.context.shared.dead_letters;
        Err(self.target.stop_at(&poison, dead_letters).await?)
    }

    /// Reads the partition at a place of the merge on, waiting for it if need be.
    async fn read(&mut self, lane: usize, position: &SenderPosition) -> Result<Followed> {
        let mut owed_since = None;
        loop {
            let queue = self.merge.queue(lane);
            let merge = &mut self.merge;
            let speaks_for = |control: &TopicPartition, topic: &str| {
                control_topics::speaks_for(position, &control.topic, topic)
            };
            let offer = |record| merge.offer(lane, record, speaks_for);
            match self.queues.poll(queue, offer) {
                Polled::Records(0) => {}
                Polled::Records(_) => return Ok(Followed::Reached),
                Polled::OutOfRange => self.find_out_of_range().await?,
            }
            let at = self.merge.at(lane).clone();
            // A topic that was made anew may have fewer partitions.
            let end = end_of(position, &at).unwrap_or_default();
            if self.queues.is_read_to(self.merge.queue(lane), end) {
                self.merge.offer_end(lane, end);
                return Ok(Followed::Reached);
            }
            let began = *owed_since.get_or_insert_with(Instant::now);
            if began.elapsed() > OWED_MAX {
                return Err(Trouble::new(
                    Code::Unreachable,
                    format!(
                        "kafka: {}-{} does not come up to offset {end}, where the sender's position says it ends",
                        at.topic, at.partition
                    ),
                    "Look at the brokers: the partition has no leader, or has lost acknowledged events. It is tried again.",
                ));
            }
            tokio::select! {
                () = stopped(&mut self.stop) => return Ok(Followed::Stopped),
                _ = self.second.tick() => self.every_second(),
                _ = timeout(OWED_MAX, self.queues.arrived()) => {}
            }
        }
    }

    /// Kafka refused an offset: finds out which one.
    async fn find_out_of_range(&self) -> Result<()> {
        find_out_of_range(&self.context.shared.discovery, self.merge.read()).await
    }

    /// Gives what was gathered to the target, and commits there if the next event belongs to another commit.
    async fn flush(&mut self, next: Place) -> Result<Option<Uncommitted>> {
        if self.part.place != Some(next) && self.begun <= self.part.place {
            return self.commit().await;
        }
        let dead_letters = &self.context.shared.dead_letters;
        let records = &self.part.records;
        if let PartOutcome::Poisoned(poison) = self.target.apply_part(records, dead_letters).await?
        {
            return Ok(Some(Uncommitted::Poisoned(poison)));
        }
        self.context.status.figures().count_events(records);
        self.context.status.works();
        self.part.is_begun = true;
        self.part.records.clear();
        self.part.bytes = 0;
        Ok(None)
    }

    /// Gives what was gathered to the target and commits there.
    async fn commit(&mut self) -> Result<Option<Uncommitted>> {
        let moves = self.merge.moves();
        if moves.is_empty() {
            return Ok(None);
        }
        let part = std::mem::take(&mut self.part);
        let began = Instant::now();
        let time_us = part.records.last().and_then(commit_time_us);
        let commit = Commit {
            moves: &moves,
            place: part.place,
            time_us,
        };
        let dead_letters = &self.context.shared.dead_letters;
        let committed = self
            .target
            .commit_part(&part.records, &commit, dead_letters);
        let applied = match committed.await? {
            PartEnd::Committed(applied) => applied,
            PartEnd::Undone(undone) => return Ok(Some(undone)),
        };
        self.merge.moved(&moves);
        let of_partitions = moves.iter().filter(|moved| moved.at.partition >= 0);
        self.context
            .status
            .moved(&of_partitions.cloned().collect::<Vec<_>>());
        self.context.status.applied(began.elapsed(), time_us);
        let mut figures = self.context.status.figures();
        figures.duplicates += self.merge.take_duplicates();
        figures.count(&part.records, &applied);
        Ok(None)
    }

    fn every_second(&mut self) {
        self.queues.serve();
        self.copy_offsets();
        for (at, next) in self.merge.stored() {
            let passed = self.queues.nothing_before(at, next);
            if passed > next {
                self.context.status.has_nothing_before(at, passed);
            }
        }
    }

    /// Copies the applied offsets into the consumer group, for lag tools only.
    fn copy_offsets(&mut self) {
        let moved = self.copied.moved(self.merge.stored());
        if !moved.is_empty() {
            self.queues.commit(&moved);
        }
    }
}

/// Where a partition ends by a position; `None` where that does not name it.
fn end_of(position: &SenderPosition, at: &TopicPartition) -> Option<i64> {
    let ends = position.ends.get(&*at.topic)?;
    ends.end.get(usize::try_from(at.partition).ok()?).copied()
}

/// How many partitions the sink follows of those that a position names.
fn partitions(context: &Context, position: &SenderPosition) -> usize {
    let ends = position.ends.iter();
    let followed = ends.filter(|(topic, _)| follows(&context.config.topics, topic));
    followed.map(|(_, ends)| ends.end.len()).sum()
}
