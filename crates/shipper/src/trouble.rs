//! What the sender waits for, and what ends a session.

use crate::files::orders::Aside;

/// A coded condition: something to wait for, or a reason to halt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub code: &'static str,
    pub message: String,
    pub remedy: String,
}

/// How a delivery ended that cannot go on with this producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Start again at the position, with new producers.
    Rewind(Trouble),
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
    Trouble {
        code: "CDC0206",
        message: format!(
            "transaction {xid8} is incomplete: {found} of {expected} parts were found"
        ),
        remedy: "WAL before the restart point is missing: see CDC0401 in docs/errors.".to_owned(),
    }
}

/// CDC0402 for what was captured and cannot be read.
pub fn undecodable(why: &str) -> Trouble {
    Trouble {
        code: "CDC0402",
        message: format!("a captured transaction cannot be decoded: {why}"),
        remedy: "Install the version of pg_cdc that wrote it; report this if it is the same."
            .to_owned(),
    }
}

/// CDC0315.
pub fn out_of_memory() -> Trouble {
    Trouble {
        code: "CDC0315",
        message: "the sender has not the memory that a transaction needs".to_owned(),
        remedy: "Give the server more memory: the sender tries again every 30 seconds.".to_owned(),
    }
}

/// CDC0301 where there is no eventfd to be had.
pub fn no_eventfd(error: &std::io::Error) -> Trouble {
    Trouble {
        code: "CDC0301",
        message: format!("an eventfd could not be made: {error}"),
        remedy: "Raise the limit of open files of the server's user.".to_owned(),
    }
}
