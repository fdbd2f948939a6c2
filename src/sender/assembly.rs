//! Puts transactions together from the WAL: chunks as they come, released by the commit record, in commit order.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fmt;

use change::mac_key::MacKey;
use change::memory::may_fail;
use change::wal::message;
use change::wal::message::{Manifest, MessageError};
use pgrx::pg_sys;

use super::wal_reader::Record;

/// xl_logical_message (replication/message.h): database oid, transactional, prefix and message size, then both.
const MESSAGE_HEADER_BYTES: usize = 24;

/// A chunk that waits for its transaction's end.
pub struct ChunkPlace {
    pub lsn: u64,
    pub number: u32,
    record_xid: u32,
    manifest: Option<Manifest>,
    /// The sealed chunk; none where memory was short, then it is read again at commit.
    pub bytes: Option<Vec<u8>>,
}

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
pub struct Rejected {
    pub lsn: u64,
    pub database_oid: u32,
    pub xid: u32,
    pub why: Wrong,
}

/// What is wrong with a message.
pub enum Wrong {
    NotTransactional,
    Chunk(MessageError),
    OtherTransaction,
    OtherEpoch,
    SentBefore,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lsn = change::position::lsn_text(self.lsn);
        let (database, xid) = (self.database_oid, self.xid);
        write!(
            f,
            "message at {lsn}, database {database}, transaction {xid}: "
        )?;
        match &self.why {
            Wrong::NotTransactional => f.write_str("it is not transactional"),
            Wrong::Chunk(error) => error.fmt(f),
            Wrong::OtherTransaction => f.write_str("the chunk belongs to another transaction"),
            Wrong::OtherEpoch => f.write_str("the chunk is of a transaction long ago"),
            Wrong::SentBefore => f.write_str("the chunk was sent before"),
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

    /// Takes in one record.
    pub fn take(&mut self, record: &Record<'_>, now_us: impl FnOnce() -> i64) -> Outcome {
        match u32::from(record.resource_manager) {
            manager if manager == pg_sys::RmgrIds::RM_LOGICALMSG_ID => self.message(record, now_us),
            manager if manager == pg_sys::RmgrIds::RM_XACT_ID => self.transaction_record(record),
            manager if manager == pg_sys::RmgrIds::RM_XLOG_ID => {
                let info = u32::from(record.info) & !pg_sys::XLR_INFO_MASK;
                // After a crash or shutdown nothing is running any more but what was prepared.
                if info == pg_sys::XLOG_CHECKPOINT_SHUTDOWN || info == pg_sys::XLOG_END_OF_RECOVERY
                {
                    self.forget_running();
                }
                Outcome::Nothing
            }
            _ => Outcome::Nothing,
        }
    }

    fn message(&mut self, record: &Record<'_>, now_us: impl FnOnce() -> i64) -> Outcome {
        let Some((database_oid, transactional, bytes)) = our_message(record.data) else {
            return Outcome::Nothing;
        };
        let rejected = |why: Wrong| {
            Outcome::Rejected(Rejected {
                lsn: record.lsn,
                database_oid,
                xid: record.xid,
                why,
            })
        };
        if !transactional {
            return rejected(Wrong::NotTransactional);
        }
        let chunk = match message::open(bytes, &self.key) {
            Ok(chunk) => chunk,
            Err(error) => return rejected(Wrong::Chunk(error)),
        };
        let header = chunk.header;
        if header.record_xid != record.xid || header.database_oid != database_oid {
            return rejected(Wrong::OtherTransaction);
        }
        if !self.is_of_this_epoch(header.xid8, record.xid) {
            return rejected(Wrong::OtherEpoch);
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
            database_oid,
            nonce: header.nonce,
            first_lsn: record.lsn,
            since_us: now_us(),
            chunks: Vec::new(),
            numbers: HashSet::new(),
            prepared: false,
            gid: String::new(),
        });
        if open.nonce != header.nonce || !open.numbers.insert(header.number) {
            return rejected(Wrong::SentBefore);
        }
        let keep = self.cached_bytes + bytes.len() <= self.max_cached_bytes;
        let kept = if keep { copy_of(bytes) } else { None };
        self.cached_bytes += kept.as_ref().map_or(0, Vec::len);
        open.chunks.push(ChunkPlace {
            lsn: record.lsn,
            number: header.number,
            record_xid: record.xid,
            manifest: chunk.manifest,
            bytes: kept,
        });
        if record.xid != top {
            self.subtransactions.insert(record.xid, top);
        }
        Outcome::Nothing
    }

    /// A record carries half of its transaction's id: four thousand million transactions later another one has the same.
    fn is_of_this_epoch(&mut self, xid8: u64, record_xid: u32) -> bool {
        const ONE_EPOCH: u64 = 1 << 32;
        let record_xid8 = self.next_xid8 / ONE_EPOCH * ONE_EPOCH + u64::from(record_xid);
        if xid8.max(record_xid8) >= self.next_xid8 {
            // SAFETY: a plain read under its own lock, on the main thread.
            self.next_xid8 = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
        }
        // The WAL itself does not reach back so far.
        self.next_xid8.saturating_sub(xid8) < ONE_EPOCH
    }

    fn transaction_record(&mut self, record: &Record<'_>) -> Outcome {
        if self.open.is_empty() {
            return Outcome::Nothing;
        }
        let operation = u32::from(record.info) & pg_sys::XLOG_XACT_OPMASK;
        match operation {
            pg_sys::XLOG_XACT_COMMIT if !self.open.contains_key(&record.xid) => Outcome::Nothing,
            pg_sys::XLOG_XACT_COMMIT | pg_sys::XLOG_XACT_COMMIT_PREPARED => {
                let mut parsed = pg_sys::xl_xact_parsed_commit::default();
                // SAFETY: the record's data is a commit record of this kind; `parsed` points into it.
                let subtransactions: Vec<u32> = unsafe {
                    pg_sys::ParseCommitRecord(
                        record.info,
                        record.data.as_ptr().cast_mut().cast(),
                        &mut parsed,
                    );
                    transaction_ids(parsed.subxacts, parsed.nsubxacts)
                };
                let top = if operation == pg_sys::XLOG_XACT_COMMIT {
                    record.xid
                } else {
                    parsed.twophase_xid.into()
                };
                self.commit(record, top, &subtransactions, parsed.xact_time)
            }
            pg_sys::XLOG_XACT_ABORT | pg_sys::XLOG_XACT_ABORT_PREPARED => {
                let mut parsed = pg_sys::xl_xact_parsed_abort::default();
                // SAFETY: the record's data is an abort record of this kind; `parsed` points into it.
                let subtransactions: Vec<u32> = unsafe {
                    pg_sys::ParseAbortRecord(
                        record.info,
                        record.data.as_ptr().cast_mut().cast(),
                        &mut parsed,
                    );
                    transaction_ids(parsed.subxacts, parsed.nsubxacts)
                };
                let xid = if operation == pg_sys::XLOG_XACT_ABORT {
                    record.xid
                } else {
                    parsed.twophase_xid.into()
                };
                if self.open.contains_key(&xid) {
                    self.forget(xid);
                } else {
                    for subtransaction in subtransactions.into_iter().chain([xid]) {
                        self.forget_subtransaction(subtransaction);
                    }
                }
                Outcome::Nothing
            }
            pg_sys::XLOG_XACT_PREPARE => {
                if let Some(open) = self.open.get_mut(&record.xid) {
                    open.prepared = true;
                    let mut parsed = pg_sys::xl_xact_parsed_prepare::default();
                    // SAFETY: the record's data is a prepare record; the name in it is zero-ended and copied.
                    open.gid = unsafe {
                        pg_sys::ParsePrepareRecord(
                            record.info,
                            record.data.as_ptr().cast_mut().cast(),
                            &mut parsed,
                        );
                        CStr::from_ptr(parsed.twophase_gid.as_ptr())
                            .to_string_lossy()
                            .into_owned()
                    };
                }
                Outcome::Nothing
            }
            _ => Outcome::Nothing,
        }
    }

    fn commit(
        &mut self,
        record: &Record<'_>,
        top: u32,
        subtransactions: &[u32],
        commit_us: i64,
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
                lsn: record.lsn,
                end_lsn: record.end_lsn,
                restart_lsn: self.restart_lsn(record.end_lsn),
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

/// A copy, if there is memory for it.
pub fn copy_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut copy = Vec::new();
    may_fail(|| copy.try_reserve_exact(bytes.len())).ok()?;
    copy.extend_from_slice(bytes);
    Some(copy)
}

/// Database, whether transactional, and content of a logical message, if it has our prefix.
pub fn our_message(data: &[u8]) -> Option<(u32, bool, &[u8])> {
    let header = data.get(..MESSAGE_HEADER_BYTES)?;
    let size_at =
        |start: usize| usize::from_ne_bytes(std::array::from_fn(|index| header[start + index]));
    let (prefix_bytes, message_bytes) = (size_at(8), size_at(16));
    let prefix = data.get(MESSAGE_HEADER_BYTES..)?.get(..prefix_bytes)?;
    if prefix.strip_suffix(b"\0")? != message::MESSAGE_PREFIX.as_bytes() {
        return None;
    }
    let message = data
        .get(MESSAGE_HEADER_BYTES + prefix_bytes..)?
        .get(..message_bytes)?;
    let database_oid = u32::from_ne_bytes(std::array::from_fn(|index| header[index]));
    Some((database_oid, header[4] != 0, message))
}

unsafe fn transaction_ids(ids: *mut pg_sys::TransactionId, count: i32) -> Vec<u32> {
    if ids.is_null() || count <= 0 {
        return Vec::new();
    }
    // SAFETY: the parsed record says how many there are; they may be unaligned in it.
    (0..count as usize)
        .map(|index| unsafe { ids.add(index).read_unaligned() }.into())
        .collect()
}
