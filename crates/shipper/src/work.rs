//! What the main thread gives the Kafka thread.

use std::collections::BTreeMap;

use change::event::commit::Commit;
use change::position::Ends;

use crate::files::orders::{Aside, Skip};

/// Work for the thread, in commit order: what is known of the topics, then for each transaction a beginning, rows, an end.
pub enum Work {
    Known(Box<Known>),
    Begin(Box<Beginning>),
    /// A sealed chunk, its MAC checked.
    Chunk(Vec<u8>),
    /// A decompressed body.
    Body(Vec<u8>),
    End,
}

/// What is known of topics before the first event.
#[derive(Default)]
pub struct Known {
    /// As the position has them.
    pub ends: BTreeMap<String, Ends>,
    /// Events that are given up.
    pub skips: Vec<Skip>,
    /// Topics that are put aside.
    pub asides: Vec<Aside>,
    /// What records may have at most in topics that do not tell, in bytes: they have refused larger ones.
    pub smaller_in: BTreeMap<String, usize>,
    /// A transaction that is in Kafka in part: where it committed, and how many of its events are there.
    pub part: Option<(u64, u64)>,
}

/// What is known of a transaction before its rows.
pub struct Beginning {
    pub commit: Commit,
    pub end_lsn: u64,
    pub restart_lsn: u64,
}
