//! Puts transactions together from the WAL: chunks as they come, released by the commit record, in commit order.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::message::{self, Manifest, MessageError};
use crate::mac_key::MacKey;
use crate::memory::copy_of;
use crate::position::lsn_text;

/// What a record of the WAL says of a transaction.
#[derive(Debug, Clone)]
pub enum WalEvent<'a> {
    /// A logical message with our prefix.
    Message(WalMessage<'a>),
    Committed {
        /// The low half of the transaction's xid8.
        top_xid: u32,
        subtransactions: Vec<u32>,
        /// Microseconds since 2000-01-01.
        commit_us: i64,
        /// Where the commit record begins and ends.
        lsn: u64,
        end_lsn: u64,
    },
    /// A transaction, or a subtransaction with those below it, was rolled back.
    Aborted {
        xid: u32,
        subtransactions: Vec<u32>,
    },
    Prepared {
        top_xid: u32,
        gid: String,
    },
    /// The server was shut down or recovered: nothing is running any more but what is prepared.
    NothingRuns,
}

/// A logical message with our prefix, as its record has it.
#[derive(Debug, Clone, Copy)]
pub struct WalMessage<'a> {
    pub lsn: u64,
    /// The transaction or subtransaction that wrote it.
    pub xid: u32,
    pub database_oid: u32,
    pub is_transactional: bool,
    /// The sealed content.
    pub bytes: &'a [u8],
}

/// What is asked of the server whose WAL is read.
pub trait Server {
    /// Now, microseconds since 2000-01-01.
    fn now_us(&self) -> i64;
    /// The next transaction's full id.
    fn next_xid8(&self) -> u64;
}

/// A chunk that waits for its transaction's end.
#[derive(Debug)]
pub struct ChunkPlace {
    pub lsn: u64,
    pub number: u32,
    record_xid: u32,
    manifest: Option<Manifest>,
    /// The sealed chunk; none where memory was short, then it is read again at commit.
    pub bytes: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Open {
    xid8: u64,
    database_oid: u32,
    nonce: [u8; 16],
    first_lsn: u64,
    /// When its first chunk was read, microseconds since 2000-01-01.
    since_us: i64,
    chunks: Vec<ChunkPlace>,
    numbers: HashSet<u32>,
    prepared: bool,
    /// Name of the prepared transaction, empty for others.
    gid: String,
}

/// A transaction that committed, its surviving chunks in the order in which they were written.
#[derive(Debug)]
pub struct Committed {
    pub xid8: u64,
    pub database_oid: u32,
    pub nonce: [u8; 16],
    pub commit_us: i64,
    /// Where the commit record begins and ends.
    pub lsn: u64,
    pub end_lsn: u64,
    /// Reading must start here for everything that is open at this commit.
    pub restart_lsn: u64,
    pub manifest: Manifest,
    pub chunks: Vec<ChunkPlace>,
}

/// What a record meant.
#[derive(Debug)]
pub enum Outcome {
    Nothing,
    /// A message that claims to be ours and is not.
    Rejected(Rejected),
    Committed(Box<Committed>),
    /// CDC0206: chunks of the transaction are missing.
    Incomplete {
        xid8: u64,
        found: u32,
        expected: u32,
        /// Where its first chunk was written; 0 if that is not known.
        first_lsn: u64,
    },
}

/// A message that claims to be ours and is not: where it is, and what is wrong.
#[derive(Debug)]
pub struct Rejected {
    pub lsn: u64,
    pub database_oid: u32,
    pub xid: u32,
    pub why: Wrong,
}

/// What is wrong with a message.
#[derive(Debug)]
pub enum Wrong {
    NotTransactional,
    Chunk(MessageError),
    OtherTransaction,
    OtherEpoch,
    SentBefore,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lsn = lsn_text(self.lsn);
        let (database, xid) = (self.database_oid, self.xid);
        write!(
            f,
            "message at {lsn}, database {database}, transaction {xid}: "
        )?;
        match &self.why {
            Wrong::NotTransactional => f.write_str("it is not transactional"),
            Wrong::Chunk(error) => error.fmt(f),
            Wrong::OtherTransaction => f.write_str("the message belongs to another transaction"),
            Wrong::OtherEpoch => f.write_str("the message is of a transaction long ago"),
            Wrong::SentBefore => f.write_str("the message was sent before"),
        }
    }
}

/// Transactions that are not finished.
pub struct Assembly {
    key: MacKey,
    /// By the low half of the top-level xid8, which is what commit records carry.
    open: HashMap<u32, Open>,
    /// Subtransactions that wrote chunks, and their top-level xid.
    subtransactions: HashMap<u32, u32>,
    cached_bytes: usize,
    max_cached_bytes: usize,
    /// Every transaction before this had begun when it was last looked at.
    next_xid8: u64,
}

impl Assembly {
    /// `max_cached_bytes`: chunks beyond are read again when their transaction commits.
    pub fn new(key: MacKey, max_cached_bytes: usize) -> Assembly {
        Assembly {
            key,
            open: HashMap::new(),
            subtransactions: HashMap::new(),
            cached_bytes: 0,
            max_cached_bytes,
            next_xid8: 0,
        }
    }

    /// How many transactions are open, since when the oldest is, and its name if it is prepared.
    pub fn open_transactions(&self) -> (u32, i64, &str) {
        match self.open.values().min_by_key(|open| open.first_lsn) {
            Some(oldest) => (self.open.len() as u32, oldest.since_us, &oldest.gid),
            None => (0, 0, ""),
        }
    }

    pub fn prepared_transactions(&self) -> u32 {
        self.open.values().filter(|open| open.prepared).count() as u32
    }

    /// Where the first chunk of an open transaction is; `otherwise` if there is none.
    pub fn restart_lsn(&self, otherwise: u64) -> u64 {
        self.open
            .values()
            .map(|open| open.first_lsn)
            .min()
            .unwrap_or(otherwise)
            .min(otherwise)
    }

    /// Whether no transaction is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a transaction with chunks is open.
    pub fn is_open(&self, top_xid: u32) -> bool {
        self.open.contains_key(&top_xid)
    }

    /// Takes in what one record says.
    pub fn take(&mut self, event: WalEvent<'_>, server: &impl Server) -> Outcome {
        match event {
            WalEvent::Message(message) => self.message(&message, server),
            WalEvent::Committed {
                top_xid,
                subtransactions,
                commit_us,
                lsn,
                end_lsn,
            } => self.commit(top_xid, &subtransactions, commit_us, (lsn, end_lsn)),
            WalEvent::Aborted {
                xid,
                subtransactions,
            } => {
                if self.forget(xid).is_none() {
                    for subtransaction in subtransactions.into_iter().chain([xid]) {
                        self.forget_subtransaction(subtransaction);
                    }
                }
                Outcome::Nothing
            }
            WalEvent::Prepared { top_xid, gid } => {
                if let Some(open) = self.open.get_mut(&top_xid) {
                    open.prepared = true;
                    open.gid = gid;
                }
                Outcome::Nothing
            }
            WalEvent::NothingRuns => {
                self.forget_running();
                Outcome::Nothing
            }
        }
    }

    fn message(&mut self, message: &WalMessage<'_>, server: &impl Server) -> Outcome {
        match self.keep(message, server) {
            Ok(()) => Outcome::Nothing,
            Err(why) => Outcome::Rejected(Rejected {
                lsn: message.lsn,
                database_oid: message.database_oid,
                xid: message.xid,
                why,
            }),
        }
    }

    /// Adds a chunk to its transaction.
    fn keep(&mut self, message: &WalMessage<'_>, server: &impl Server) -> Result<(), Wrong> {
        if !message.is_transactional {
            return Err(Wrong::NotTransactional);
        }
        let chunk = message::open(message.bytes, &self.key).map_err(Wrong::Chunk)?;
        let header = chunk.header;
        if header.record_xid != message.xid || header.database_oid != message.database_oid {
            return Err(Wrong::OtherTransaction);
        }
        if !self.is_of_this_epoch(header.xid8, message.xid, server) {
            return Err(Wrong::OtherEpoch);
        }
        let top = header.xid8 as u32;
        // The same low half of another epoch is a leftover of long ago.
        if self
            .open
            .get(&top)
            .is_some_and(|open| open.xid8 != header.xid8)
        {
            self.forget(top);
        }
        let open = self.open.entry(top).or_insert_with(|| Open {
            xid8: header.xid8,
            database_oid: message.database_oid,
            nonce: header.nonce,
            first_lsn: message.lsn,
            since_us: server.now_us(),
            chunks: Vec::new(),
            numbers: HashSet::new(),
            prepared: false,
            gid: String::new(),
        });
        if open.nonce != header.nonce || !open.numbers.insert(header.number) {
            return Err(Wrong::SentBefore);
        }
        let keep = self.cached_bytes + message.bytes.len() <= self.max_cached_bytes;
        let kept = if keep { copy_of(message.bytes) } else { None };
        self.cached_bytes += kept.as_ref().map_or(0, Vec::len);
        open.chunks.push(ChunkPlace {
            lsn: message.lsn,
            number: header.number,
            record_xid: message.xid,
            manifest: chunk.manifest,
            bytes: kept,
        });
        if message.xid != top {
            self.subtransactions.insert(message.xid, top);
        }
        Ok(())
    }

    /// A record carries half of its transaction's id: four thousand million transactions later another one has the same.
    fn is_of_this_epoch(&mut self, xid8: u64, record_xid: u32, server: &impl Server) -> bool {
        const ONE_EPOCH: u64 = 1 << 32;
        let record_xid8 = self.next_xid8 / ONE_EPOCH * ONE_EPOCH + u64::from(record_xid);
        if xid8.max(record_xid8) >= self.next_xid8 {
            self.next_xid8 = server.next_xid8();
        }
        // The WAL itself does not reach back so far.
        self.next_xid8.saturating_sub(xid8) < ONE_EPOCH
    }

    fn commit(
        &mut self,
        top: u32,
        subtransactions: &[u32],
        commit_us: i64,
        (lsn, end_lsn): (u64, u64),
    ) -> Outcome {
        let Some(mut open) = self.forget(top) else {
            return Outcome::Nothing;
        };
        let survivors: HashSet<u32> = subtransactions.iter().copied().chain([top]).collect();
        open.chunks
            .retain(|chunk| survivors.contains(&chunk.record_xid));
        open.chunks.sort_by_key(|chunk| chunk.number);
        let found = open.chunks.len() as u32;
        let Some(last) = open.chunks.last() else {
            return Outcome::Nothing;
        };
        match last.manifest {
            Some(manifest) if manifest.chunks == found => Outcome::Committed(Box::new(Committed {
                xid8: open.xid8,
                database_oid: open.database_oid,
                nonce: open.nonce,
                commit_us,
                lsn,
                end_lsn,
                restart_lsn: self.restart_lsn(end_lsn),
                manifest,
                chunks: open.chunks,
            })),
            manifest => Outcome::Incomplete {
                xid8: open.xid8,
                found,
                expected: manifest.map_or(0, |manifest| manifest.chunks),
                first_lsn: manifest.map_or(0, |manifest| manifest.first_lsn),
            },
        }
    }

    /// Takes a transaction out.
    fn forget(&mut self, top: u32) -> Option<Open> {
        let open = self.open.remove(&top)?;
        for chunk in &open.chunks {
            self.cached_bytes -= chunk.bytes.as_ref().map_or(0, Vec::len);
            self.subtransactions.remove(&chunk.record_xid);
        }
        Some(open)
    }

    fn forget_subtransaction(&mut self, xid: u32) {
        let Some(top) = self.subtransactions.remove(&xid) else {
            return;
        };
        let Some(open) = self.open.get_mut(&top) else {
            return;
        };
        let cached_bytes = &mut self.cached_bytes;
        open.chunks.retain(|chunk| {
            if chunk.record_xid == xid {
                *cached_bytes -= chunk.bytes.as_ref().map_or(0, Vec::len);
            }
            chunk.record_xid != xid
        });
    }

    fn forget_running(&mut self) {
        let running: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, open)| !open.prepared)
            .map(|(top, _)| *top)
            .collect();
        for top in running {
            self.forget(top);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
