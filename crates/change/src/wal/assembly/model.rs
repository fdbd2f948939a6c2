//! A server that writes WAL by itself, and what must come out of it.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::mac_key::MacKey;
use crate::wal::assembly::*;
use crate::wal::message::{Header, Manifest, seal};

pub(super) const DATABASE: u32 = 5;
/// What a commit record adds to the WAL.
pub(super) const RECORD_BYTES: u64 = 8;

/// What one of the server's sessions does next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Writes a chunk, in the subtransaction it is in.
    Chunk,
    Savepoint,
    Release,
    RollbackToSavepoint,
    Commit,
    Rollback,
    Prepare,
    CommitPrepared,
    RollbackPrepared,
    /// The server stops, in order or not, and what was running is gone.
    Crash,
}

pub(super) fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        8 => Just(Step::Chunk),
        4 => Just(Step::Savepoint),
        2 => Just(Step::Release),
        2 => Just(Step::RollbackToSavepoint),
        3 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        1 => Just(Step::Prepare),
        1 => Just(Step::CommitPrepared),
        1 => Just(Step::RollbackPrepared),
        1 => Just(Step::Crash),
    ];
    (0usize..4, step)
}

/// A subtransaction, or the transaction itself.
#[derive(Debug, Clone)]
pub(super) struct Level {
    xid: u32,
    /// Itself and what was released into it.
    xids: Vec<u32>,
    chunks: Vec<u32>,
}

#[derive(Debug, Clone)]
pub(super) struct Transaction {
    xid8: u64,
    levels: Vec<Level>,
    next_number: u32,
    first_lsn: u64,
}

/// What the server wrote, and which transactions it committed with which chunks.
pub(super) struct Model {
    pub(super) key: MacKey,
    pub(super) next_xid8: Cell<u64>,
    pub(super) lsn: u64,
    pub(super) wal: Vec<(u64, Owned)>,
    pub(super) sessions: [Option<Transaction>; 4],
    pub(super) prepared: Vec<Transaction>,
    /// xid8 and chunk numbers, in the order of the commits, with their commit's LSN.
    pub(super) committed: Vec<(u64, Vec<u32>, u64)>,
}

/// [`WalEvent`], kept.
#[derive(Debug, Clone)]
pub(super) enum Owned {
    Message { xid: u32, bytes: Vec<u8> },
    Event(WalEvent<'static>),
}

pub(super) struct Clock<'m>(pub(super) &'m Cell<u64>);

impl Server for Clock<'_> {
    fn now_us(&self) -> i64 {
        1
    }

    fn next_xid8(&self) -> u64 {
        self.0.get()
    }
}

impl Model {
    pub(super) fn new(first_xid8: u64) -> Model {
        Model {
            key: MacKey::derive("test", b"secret"),
            next_xid8: Cell::new(first_xid8),
            lsn: 1000,
            wal: Vec::new(),
            sessions: [const { None }; 4],
            prepared: Vec::new(),
            committed: Vec::new(),
        }
    }

    fn new_xid8(&self) -> u64 {
        self.next_xid8.replace(self.next_xid8.get() + 1)
    }

    fn write(&mut self, event: Owned) -> u64 {
        let lsn = self.lsn;
        self.wal.push((lsn, event));
        self.lsn += RECORD_BYTES;
        lsn
    }

    pub(super) fn do_step(&mut self, (session, step): (usize, Step)) {
        match step {
            Step::Chunk => self.chunk(session, None),
            Step::Savepoint => {
                let xid = self.new_xid8() as u32;
                if let Some(transaction) = &mut self.sessions[session] {
                    transaction.levels.push(level(xid));
                }
            }
            Step::Release => {
                if let Some(transaction) = &mut self.sessions[session]
                    && transaction.levels.len() > 1
                    && let Some(inner) = transaction.levels.pop()
                    && let Some(outer) = transaction.levels.last_mut()
                {
                    outer.xids.extend(inner.xids);
                    outer.chunks.extend(inner.chunks);
                }
            }
            Step::RollbackToSavepoint => {
                let undone = self.sessions[session].as_mut().and_then(|transaction| {
                    (transaction.levels.len() > 1)
                        .then(|| transaction.levels.pop())
                        .flatten()
                });
                if let Some(undone) = undone {
                    self.abort_record(undone.xid, &undone.xids);
                }
            }
            Step::Commit => {
                self.chunk_with_manifest(session);
                if let Some(transaction) = self.sessions[session].take() {
                    self.commit(&transaction);
                }
            }
            Step::Rollback => {
                if let Some(transaction) = self.sessions[session].take() {
                    self.abort(&transaction);
                }
            }
            Step::Prepare => {
                self.chunk_with_manifest(session);
                if let Some(transaction) = self.sessions[session].take() {
                    self.write(Owned::Event(WalEvent::Prepared {
                        top_xid: transaction.xid8 as u32,
                        gid: "g".to_owned(),
                    }));
                    self.prepared.push(transaction);
                }
            }
            Step::CommitPrepared | Step::RollbackPrepared => {
                if session < self.prepared.len() {
                    let transaction = self.prepared.remove(session);
                    match step {
                        Step::CommitPrepared => self.commit(&transaction),
                        _ => self.abort(&transaction),
                    }
                }
            }
            Step::Crash => {
                self.sessions = [const { None }; 4];
                self.write(Owned::Event(WalEvent::NothingRuns));
            }
        }
    }

    fn chunk(&mut self, session: usize, manifest: Option<Manifest>) {
        let lsn = self.lsn;
        if self.sessions[session].is_none() {
            let xid8 = self.new_xid8();
            self.sessions[session] = Some(Transaction {
                xid8,
                levels: vec![level(xid8 as u32)],
                next_number: 0,
                first_lsn: lsn,
            });
        }
        let Some(transaction) = &mut self.sessions[session] else {
            return;
        };
        let number = transaction.next_number;
        transaction.next_number += 1;
        let xid8 = transaction.xid8;
        let Some(level) = transaction.levels.last_mut() else {
            return;
        };
        level.chunks.push(number);
        let xid = level.xid;
        let bytes = self.sealed((xid8, xid, number), manifest);
        self.write(Owned::Message { xid, bytes });
    }

    fn sealed(&self, (xid8, xid, number): (u64, u32, u32), manifest: Option<Manifest>) -> Vec<u8> {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&xid8.to_le_bytes());
        let header = Header {
            xid8,
            record_xid: xid,
            number,
            nonce,
            database_oid: DATABASE,
        };
        let mut out = Vec::new();
        seal(
            &mut out,
            &self.key,
            &header,
            manifest.as_ref(),
            &[7; 20],
            None,
        );
        out
    }

    /// The last chunk of a transaction that has any says how many survive.
    fn chunk_with_manifest(&mut self, session: usize) {
        let Some(transaction) = &self.sessions[session] else {
            return;
        };
        let surviving = transaction.levels.iter().map(|level| level.chunks.len());
        let chunks = surviving.sum::<usize>() as u32;
        if chunks > 0 {
            let manifest = Manifest {
                chunks: chunks + 1,
                first_lsn: transaction.first_lsn,
                ..Manifest::default()
            };
            self.chunk(session, Some(manifest));
        }
    }

    fn commit(&mut self, transaction: &Transaction) {
        let xids = transaction.levels.iter().flat_map(|level| &level.xids);
        let top_xid = transaction.xid8 as u32;
        let subtransactions = xids.copied().filter(|xid| *xid != top_xid).collect();
        let lsn = self.write(Owned::Event(WalEvent::Committed {
            top_xid,
            subtransactions,
            commit_us: 1,
            lsn: self.lsn,
            end_lsn: self.lsn + RECORD_BYTES,
        }));
        let chunks = transaction.levels.iter().flat_map(|level| &level.chunks);
        let mut chunks: Vec<u32> = chunks.copied().collect();
        chunks.sort_unstable();
        if !chunks.is_empty() {
            self.committed.push((transaction.xid8, chunks, lsn));
        }
    }

    fn abort(&mut self, transaction: &Transaction) {
        let xids: Vec<u32> = transaction
            .levels
            .iter()
            .flat_map(|level| level.xids.clone())
            .collect();
        self.abort_record(transaction.xid8 as u32, &xids);
    }

    fn abort_record(&mut self, xid: u32, xids: &[u32]) {
        let subtransactions = xids.iter().copied().filter(|other| *other != xid).collect();
        self.write(Owned::Event(WalEvent::Aborted {
            xid,
            subtransactions,
        }));
    }

    /// Reads the WAL from `start_lsn` on. Incomplete transactions that committed at `done_lsn` or before are not told.
    pub(super) fn read(&self, start_lsn: u64, done_lsn: u64, max_cached_bytes: usize) -> Read {
        let mut assembly = Assembly::new(self.key.clone(), max_cached_bytes);
        let mut read = Read {
            is_cached: true,
            ..Read::default()
        };
        for (lsn, event) in self.wal.iter().filter(|(lsn, _)| *lsn >= start_lsn) {
            let event = match event {
                Owned::Message { xid, bytes } => WalEvent::Message(WalMessage {
                    lsn: *lsn,
                    xid: *xid,
                    database_oid: DATABASE,
                    is_transactional: true,
                    bytes,
                }),
                Owned::Event(event) => event.clone(),
            };
            match assembly.take(event, &Clock(&self.next_xid8)) {
                Outcome::Committed(committed) => {
                    let numbers = committed.chunks.iter().map(|chunk| chunk.number).collect();
                    let is_cached = committed.chunks.iter().all(|chunk| chunk.bytes.is_some());
                    read.is_cached &= is_cached;
                    let of = (committed.xid8, numbers, committed.lsn);
                    read.committed.push(of);
                    read.restarts.insert(committed.lsn, committed.restart_lsn);
                }
                Outcome::Incomplete { .. } if *lsn <= done_lsn => {}
                Outcome::Incomplete { xid8, .. } => read.incomplete.push(xid8),
                Outcome::Rejected(rejected) => read.rejected.push(rejected.to_string()),
                Outcome::Nothing => {}
            }
        }
        read.cached_bytes = assembly.cached_bytes;
        read.kept_bytes = (assembly.open.values())
            .flat_map(|open| &open.chunks)
            .map(|chunk| chunk.bytes.as_ref().map_or(0, Vec::len))
            .sum();
        read.subtransactions = assembly.subtransactions.len();
        read.is_empty = assembly.is_empty();
        read
    }
}

pub(super) fn level(xid: u32) -> Level {
    Level {
        xid,
        xids: vec![xid],
        chunks: Vec::new(),
    }
}

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) committed: Vec<(u64, Vec<u32>, u64)>,
    /// Commit LSN and the restart LSN that was told with it.
    pub(super) restarts: BTreeMap<u64, u64>,
    pub(super) incomplete: Vec<u64>,
    pub(super) rejected: Vec<String>,
    pub(super) is_cached: bool,
    pub(super) cached_bytes: usize,
    pub(super) kept_bytes: usize,
    pub(super) subtransactions: usize,
    pub(super) is_empty: bool,
}

pub(super) fn history() -> impl Strategy<Value = Model> {
    // Transaction ids begin where a server is new, and where their low half begins anew.
    let first_xid8 = prop_oneof![Just(3), Just((1 << 32) - 7), Just((5 << 32) - 1)];
    (first_xid8, prop::collection::vec(step(), 0..120)).prop_map(|(first_xid8, steps)| {
        let mut model = Model::new(first_xid8);
        for step in steps {
            model.do_step(step);
        }
        model
    })
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (lsn, event) in &self.wal {
            match event {
                Owned::Message { xid, .. } => writeln!(f, "{lsn} chunk of {xid}")?,
                Owned::Event(event) => writeln!(f, "{lsn} {event:?}")?,
            }
        }
        write!(f, "committed {:?}", self.committed)
    }
}
