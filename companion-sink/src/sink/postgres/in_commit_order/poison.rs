//! An event that stops a replica.

use change::event::headers::HeaderName;
use change::trouble::Trouble;
use change::version::{Place, Version};

use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::sink::batch::Move;

/// What a transaction of the target brings to its end.
pub(crate) struct Commit<'c> {
    /// Where the partitions' positions move.
    pub(crate) moves: &'c [Move],
    /// The source's newest commit that is there then; `None` where only positions move.
    pub(crate) place: Option<Place>,
    /// When the source committed that, microseconds since 1970.
    pub(crate) time_us: Option<i64>,
}

/// An event that stops the replica.
pub(crate) struct Poison {
    /// Its record.
    pub(crate) record: Record,
    /// Its commit.
    pub(crate) place: Place,
    /// Why it cannot be applied.
    pub(crate) why: Why,
}

/// Why an event stops the replica.
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
    /// It is in the open transaction.
    Applied,
    /// This event cannot be applied, and the transaction is over.
    Poisoned(Box<Poison>),
}

/// An error about an event of a whole table, with the event.
pub(crate) fn of_whole_table(record: &Record, error: Trouble) -> Trouble {
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

pub(crate) fn version_of(record: &Record) -> Version {
    let version = record.version().and_then(Version::parse);
    version.unwrap_or_default()
}
