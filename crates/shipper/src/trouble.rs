//! What the sender waits for, and what ends a session.

use change::code::Code;
use change::position::lsn_text;
use change::trouble::Trouble;

use crate::files::orders::Aside;

/// How a delivery ended that cannot go on with this producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Start again at the position, with new producers.
    Rewind(Trouble),
    /// Start again, but not for ever: a fault of our own.
    Panicked(Trouble),
    /// Start again with batches of at most so many bytes: a topic takes no larger ones.
    Smaller(usize),
    /// Start again with records of at most so many bytes for a topic that does not tell what it takes.
    SmallerIn(String, usize),
    /// Start again without a topic that has refused an event.
    Aside(Box<Aside>),
    /// Only a person can help.
    Halt(Trouble),
    /// Another sender took over: this one must not fence it back.
    Fenced(Trouble),
}

/// CDC0206.
pub fn incomplete(xid8: u64, found: u64, expected: u64) -> Trouble {
    Trouble::new(
        Code::TransactionIncomplete,
        format!("transaction {xid8} is incomplete: {found} of {expected} parts were found"),
        format!(
            "WAL before the restart point is missing: see {} in docs/errors.",
            Code::WalGone
        ),
    )
}

/// CDC0402 for what cannot be read at `lsn`.
pub fn damaged(lsn: u64, why: &str) -> Trouble {
    Trouble::new(
        Code::WalDamaged,
        format!("WAL is damaged at {}: {why}", lsn_text(lsn)),
        "Restore the segment from the archive: the sender looks again every 30 seconds.",
    )
}

/// CDC0402 for what was captured and cannot be read.
pub fn undecodable(why: &str) -> Trouble {
    Trouble::new(
        Code::WalDamaged,
        format!("a captured transaction cannot be decoded: {why}"),
        "Install the version of pg_cdc that wrote it; report this if it is the same.",
    )
}

/// CDC0315.
pub fn out_of_memory() -> Trouble {
    Trouble::new(
        Code::TransactionOutOfMemory,
        "the sender has not the memory that a transaction needs",
        "Give the server more memory: the sender tries again every 30 seconds.",
    )
}

/// CDC0320 where there is no thread to be had.
pub fn no_thread(error: &std::io::Error) -> Trouble {
    Trouble::new(
        Code::NoThread,
        format!("a thread could not be started: {error}"),
        "Raise the limit of processes of the server's user.",
    )
}

/// CDC0320 where there is no eventfd to be had.
pub fn no_eventfd(error: &std::io::Error) -> Trouble {
    Trouble::new(
        Code::NoThread,
        format!("an eventfd could not be made: {error}"),
        "Raise the limit of open files of the server's user.",
    )
}
