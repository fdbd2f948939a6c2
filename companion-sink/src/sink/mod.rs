//! What a sink is: it applies batches of events and keeps, with its data, how far it is.

use crate::sink::batch::{Applied, Batch, Move, Position};

pub(crate) mod batch;

pub mod changes;
pub mod mongo_history;
pub mod postgres;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use crate::delivery::watermark::Complete;
use crate::error::{Code, Error, Result};
use crate::event::Malformed;
use crate::kafka::discovery::Topics;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::status::SinkStatus;

/// What came of telling the other instances that partitions have reached an event about the whole table.
#[derive(Debug)]
pub enum Met {
    /// Partitions are missing; the others know of those that are there.
    Waiting,
    /// Another instance is at it: to be asked again in a moment.
    Busy,
    /// It was done.
    Done,
    /// It was done before: the target has other positions.
    Moved,
    /// The target cannot do it. Nothing is done, and the table waits until it can.
    Stopped(Error),
}

/// A target. After an error nothing of the sink's connection is trusted: `connect` comes next, then `positions`.
pub trait Sink: Send + Sync {
    /// Whether several instances share the partitions. Else one is active, and has them all.
    const SHARED: bool = false;

    /// Connects and makes what the sink keeps there for itself.
    fn connect(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// The partitions of `wanted` that are this instance's now. Those that it had and that are not among them it may no longer
    /// apply.
    fn share(
        &mut self,
        wanted: &Topics,
    ) -> impl Future<Output = Result<BTreeSet<TopicPartition>>> + Send {
        let all = all_partitions(wanted);
        async { Ok(all) }
    }

    /// Waits until another instance came, went, or did an event about a whole table.
    fn others_acted(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Gives all partitions up, where others could have them; `connect` takes part again.
    fn leave(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

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

    /// Applies a batch and moves the positions, so that no crash loses or doubles an event.
    fn apply(
        &mut self,
        batch: &Batch,
        dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<Applied>> + Send;

    /// Waits until a person has decided about an event that was put aside, or until it is time to look whether one has.
    fn decided(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Waits until a person has decided about an event of this sink, which is halted.
    fn resumed(&mut self) -> impl Future<Output = ()> + Send;

    /// Carries such decisions out; how many keys are parked then.
    fn carry_out(
        &mut self,
        _dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<u64>> + Send {
        async { Ok(0) }
    }

    /// Notes up to which commit everything is there.
    fn note_complete(&mut self, _complete: &Complete) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Waits until the target does not answer, of a sink that has had events to apply for long; the error that says so. It asks
    /// by itself, beside what the sink is at.
    fn no_answer(&self, _status: &SinkStatus) -> impl Future<Output = Error> + Send + 'static {
        std::future::pending()
    }

    /// The sink works no more until it connects again, or, if it is not `is_over` for now, until a person has acted: it holds
    /// nothing of the target meanwhile.
    fn rest(&mut self, _is_over: bool) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Whether an event about the whole table waits until every partition of its topic has reached it.
    fn waits_together(&self, record: &Record) -> bool;

    /// Where one instance has all partitions: does what the event `record` about the whole table says, a truncate, or the
    /// beginning or end of a snapshot. All partitions of `moves` have reached it.
    fn apply_together(
        &mut self,
        _record: &Record,
        _moves: &[Move],
    ) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Where instances share partitions: notes that those of `moves` have reached the event `record`, and does it if all
    /// `partitions` of its topic have, also those of other instances.
    fn meet(
        &mut self,
        _record: &Record,
        _moves: &[Move],
        _partitions: i32,
        _dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<Met>> + Send {
        async { Ok(Met::Waiting) }
    }
}

/// All partitions of `topics`.
fn all_partitions(topics: &Topics) -> BTreeSet<TopicPartition> {
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
pub fn unreadable_snapshot(Malformed(why): Malformed) -> Error {
    Error::new(
        Code::SchemaChange,
        format!("a snapshot event: {why}"),
        "Look at the topic; make another snapshot, set the stored offsets behind this one, send SIGHUP.",
    )
}
