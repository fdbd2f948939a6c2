//! What a sink is: it applies batches of events and keeps, with its data, how far it is.

use change::trouble::Trouble;

use crate::sink::batch::{Applied, Batch, Move, Position};

pub(crate) mod batch;

pub(crate) mod changes;
pub(crate) mod mongo_history;
pub(crate) mod mongo_view;
pub(crate) mod ordered;
pub(crate) mod postgres;
pub(crate) mod statistics;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use crate::delivery::watermark::Complete;
use crate::error::{Code, Result};
use crate::event::json::Malformed;
use crate::kafka::discovery::Topics;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::status::SinkStatus;

/// What came of telling the other instances that partitions have reached an event about the whole table.
#[derive(Debug)]
pub(crate) enum Met {
    /// Partitions are missing; the others know of those that are there.
    Waiting,
    /// Another instance is at it: to be asked again in a moment.
    Busy,
    /// It was done.
    Done,
    /// It was done before: the target has other positions.
    Moved,
    /// The target cannot do it. Nothing is done, and the table waits until it can.
    Stopped(Trouble),
}

/// A target: what a course of delivery asks of it.
///
/// One task has a sink to itself, and calls one method at a time. `connect` comes first, and again after every error: what was
/// known of the connection before is not trusted. Then come `positions` of the partitions that are to be read, `begin` for those
/// that the target does not know, and from then on `apply`, once for each batch. Beside that the task waits for `decided`, and
/// calls `carry_out` when it returns, once after connecting too. `note_complete` comes now and then.
///
/// What the methods write survives a crash as a whole or not at all, where the target has transactions; else in steps of which
/// each may be the last. So after a crash at any place the target has, of each partition, exactly the events before the position
/// that `positions` returns, and perhaps documents of some behind it, which writing them once more leaves as they are. A position
/// moves only from where its batch began: who finds another one there has lost the partition to another instance.
pub(crate) trait Sink: Positions + Send + Sync {
    /// Connects and makes what the sink keeps there for itself.
    fn connect(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Applies a batch and moves the positions, so that no crash loses or doubles an event.
    fn apply(
        &mut self,
        batch: &Batch,
        dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<Applied>> + Send;

    /// Waits until a person has decided about a refused event, or until it is time to look whether one has.
    fn decided(&self) -> impl Future<Output = ()> + Send;

    /// Waits until a person has decided about an event of this sink, which is halted.
    fn resumed(&mut self) -> impl Future<Output = ()> + Send;

    /// Carries such decisions out; how many keys are parked then.
    fn carry_out(&mut self, dead_letters: &DeadLetters)
    -> impl Future<Output = Result<u64>> + Send;

    /// Notes up to which commit everything is there.
    fn note_complete(&mut self, complete: &Complete) -> impl Future<Output = Result<()>> + Send;

    /// Waits until the target does not answer, of a sink that has had events to apply for long; the error that says so. It asks
    /// by itself, beside what the sink is at.
    fn no_answer(&self, _status: &SinkStatus) -> impl Future<Output = Trouble> + Send + 'static {
        std::future::pending()
    }

    /// The sink works no more until it connects again, or, if it is not `is_over` for now, until a person has acted: it holds
    /// nothing of the target meanwhile.
    fn rest(&mut self, _is_over: bool) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The process stops: what is under way comes to its end.
    fn finish(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Whether it is for applications' own events, too, which are nobody's rows.
    fn takes_emitted(&self) -> bool {
        false
    }

    /// Whether an event about the whole table waits until every partition of its topic has reached it.
    fn waits_together(&self, record: &Record) -> bool;

    /// Does what the event `record` about the whole table says, a truncate, or the beginning or end of a snapshot. All partitions
    /// of `moves`, and so of its topic, have reached it. Where instances share partitions, [`SharedTarget::meet`] is called
    /// instead.
    fn apply_together(
        &mut self,
        record: &Record,
        moves: &[Move],
    ) -> impl Future<Output = Result<()>> + Send;

    /// What instances share of the target; nothing for one that a single instance has as a whole.
    type Shared: SharedTarget;

    /// The target, if instances share its partitions.
    fn shared(&self) -> Option<&Self::Shared>;

    /// As [`Sink::shared`].
    fn shared_mut(&mut self) -> Option<&mut Self::Shared>;
}

/// How far a target is.
pub(crate) trait Positions {
    /// How far the partitions are, `None` for one that the target does not know.
    fn positions(
        &mut self,
        wanted: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<Option<Position>>>> + Send;

    /// Notes where partitions begin that the target did not know.
    fn begin(
        &mut self,
        starts: &[(TopicPartition, i64)],
    ) -> impl Future<Output = Result<()>> + Send;
}

/// A target whose partitions several instances share: each applies those that `share` gave it, and no others.
///
/// `share` is called after `connect`, at every change of the topics, and whenever `others_acted` returns; what it no longer names
/// may not be applied any more. At an event about a whole table an instance calls `meet` with its partitions of the topic, again
/// and again, until it hears that the event was done: by itself, who came last, or by another one.
pub(crate) trait SharedTarget: Send + Sync {
    /// The partitions of `wanted` that are this instance's now. Those that it had and that are not among them it may no longer
    /// apply.
    fn share(
        &mut self,
        wanted: &Topics,
    ) -> impl Future<Output = Result<BTreeSet<TopicPartition>>> + Send;

    /// Waits until another instance came, went, or did an event about a whole table.
    fn others_acted(&self) -> impl Future<Output = ()> + Send;

    /// Gives all partitions up, where others could have them; `connect` takes part again.
    fn leave(&mut self) -> impl Future<Output = ()> + Send;

    /// Notes that the partitions of `moves` have reached the event `record`, and does it if all `partitions` of its topic have,
    /// also those of other instances.
    fn meet(
        &mut self,
        record: &Record,
        moves: &[Move],
        partitions: i32,
        dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<Met>> + Send;
}

/// Of a target that is not shared: there is none.
pub(crate) enum NotShared {}

impl SharedTarget for NotShared {
    async fn share(&mut self, _: &Topics) -> Result<BTreeSet<TopicPartition>> {
        match *self {}
    }

    async fn others_acted(&self) {
        match *self {}
    }

    async fn leave(&mut self) {
        match *self {}
    }

    async fn meet(&mut self, _: &Record, _: &[Move], _: i32, _: &DeadLetters) -> Result<Met> {
        match *self {}
    }
}

/// All partitions of `topics`.
pub(crate) fn all_partitions(topics: &Topics) -> BTreeSet<TopicPartition> {
    let of_topic = |(topic, partitions): (&String, &i32)| {
        let topic: Arc<str> = topic.as_str().into();
        (0..*partitions).map(move |partition| TopicPartition {
            topic: Arc::clone(&topic),
            partition,
        })
    };
    topics.iter().flat_map(of_topic).collect()
}

/// The beginning or end of a snapshot that cannot be followed.
pub(crate) fn unreadable_snapshot(Malformed(why): Malformed) -> Trouble {
    Trouble::new(
        Code::SchemaChange,
        format!("a snapshot event: {why}"),
        "Look at the topic; make another snapshot, set the stored offsets behind this one, send SIGHUP.",
    )
}
