//! What a sink is that takes whole transactions of the source in the order of their commits.

use change::event::headers::HeaderName;
use change::trouble::Trouble;
use change::version::{Place, Version};
use std::future::Future;

use crate::error::Result;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::sink::Positions;
use crate::sink::batch::{Applied, Move};
use crate::status::SinkStatus;

/// A target that takes whole transactions of the source, in the order of their commits, over all partitions.
///
/// One task has it to itself, and calls one method at a time. `connect` comes first, and again after every error and every outcome
/// that leaves nothing of what was given: what was given before is given once more then, from the target's positions on. Events
/// come in parts: `apply_part` for each that is not the last one of its commit, then `commit_part`, after which readers may see
/// them and the positions have moved. Beside that the task waits for `decided`, and calls `carry_out` when it returns, once after
/// connecting too.
///
/// A crash at any place leaves what was there after some `commit_part`; or, where the target has no transactions, what giving the
/// same events once more from its positions on brings to that.
pub(crate) trait OrderedSink: Positions + Send + Sync {
    /// Connects and makes what the sink keeps there for itself.
    fn connect(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// The newest commit of which the target may have something that no position tells of: what it has is not shown before all up
    /// to there is.
    fn begun(&self) -> Option<Place> {
        None
    }

    /// Whether it is for applications' own events, too, which are nobody's rows.
    fn takes_emitted(&self) -> bool {
        false
    }

    /// Takes events of a commit of which more come.
    fn apply_part(
        &mut self,
        records: &[Record],
        dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<PartOutcome>> + Send;

    /// Takes the last events of one or more commits, shows all that was taken, and moves the positions.
    fn commit_part(
        &mut self,
        records: &[Record],
        commit: &Commit<'_>,
        dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<PartEnd>> + Send;

    /// Notes an event that stops the sink; the error that says so. What was committed before it is there.
    fn stop_at(
        &mut self,
        poison: &Poison,
        dead_letters: &DeadLetters,
    ) -> impl Future<Output = Result<Trouble>> + Send;

    /// Waits until a person has decided about a refused event, or until it is time to look whether one has.
    fn decided(&self) -> impl Future<Output = ()> + Send;

    /// Carries such decisions out; how many keys are parked then.
    fn carry_out(&mut self, dead_letters: &DeadLetters)
    -> impl Future<Output = Result<u64>> + Send;

    /// Waits until a person has decided about an event of this sink, which is halted.
    fn resumed(&mut self) -> impl Future<Output = ()> + Send;

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
}

/// What a part brings to its end.
pub(crate) struct Commit<'c> {
    /// Where the partitions' positions move.
    pub(crate) moves: &'c [Move],
    /// The source's newest commit that is there then; `None` where only positions move.
    pub(crate) place: Option<Place>,
    /// When the source committed that, microseconds since 1970.
    pub(crate) time_us: Option<i64>,
}

/// An event that stops the sink.
pub(crate) struct Poison {
    /// Its record.
    pub(crate) record: Record,
    /// Its commit.
    pub(crate) place: Place,
    /// Why it cannot be applied.
    pub(crate) why: Why,
}

/// Why an event stops the sink.
pub(crate) enum Why {
    /// Its values are refused.
    Refused(Failure),
    /// The target is not as the event needs it.
    Target(Trouble),
}

impl Poison {
    /// The event of `record`.
    pub(crate) fn new(record: &Record, why: Why) -> Box<Self> {
        Box::new(Poison {
            record: record.clone(),
            place: version_of(record).place(),
            why,
        })
    }
}

/// What happened to a part.
pub(crate) enum PartOutcome {
    /// It is with what was taken before.
    Applied,
    /// This event cannot be applied, and nothing is left of what was taken.
    Poisoned(Box<Poison>),
}

/// How a part ended that was to be committed.
pub(crate) enum PartEnd {
    Committed(Applied),
    Undone(Uncommitted),
}

/// An error about an event of a whole table, with the event.
pub(crate) fn about_event(record: &Record, error: Trouble) -> Trouble {
    Trouble::new(
        error.code,
        format!(
            "event {} ({} of table {}): {}",
            record.event_id(),
            record.op_text().unwrap_or_default(),
            record
                .header(HeaderName::TABLE.as_str())
                .unwrap_or_default(),
            error.message
        ),
        error.remedy,
    )
}

/// Why nothing of a transaction is in the target.
pub(crate) enum Uncommitted {
    /// This event cannot be applied.
    Poisoned(Box<Poison>),
    /// The target refused it at its end, and did not say for which event: it is to be given once more, from its beginning.
    Again,
}

/// The version of a record; the lowest one if it has none.
pub(crate) fn version_of(record: &Record) -> Version {
    let version = record.version().and_then(Version::parse);
    version.unwrap_or_default()
}
