//! A server that writes WAL by itself, and what must come out of it.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::wal::message::{Header, Manifest, seal};

const DATABASE: u32 = 5;
/// What a commit record adds to the WAL.
const RECORD_BYTES: u64 = 8;

/// What one of the server's sessions does next.
#[derive(Debug, Clone, Copy)]
enum Step {
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

fn step() -> impl Strategy<Value = (usize, Step)> {
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
struct Level {
    xid: u32,
    /// Itself and what was released into it.
    xids: Vec<u32>,
    chunks: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Transaction {
    xid8: u64,
    levels: Vec<Level>,
    next_number: u32,
    first_lsn: u64,
}

/// What the server wrote, and which transactions it committed with which chunks.
struct Model {
    key: MacKey,
    next_xid8: Cell<u64>,
    lsn: u64,
    wal: Vec<(u64, Owned)>,
    sessions: [Option<Transaction>; 4],
    prepared: Vec<Transaction>,
    /// xid8 and chunk numbers, in the order of the commits, with their commit's LSN.
    committed: Vec<(u64, Vec<u32>, u64)>,
}

/// [`WalEvent`], kept.
#[derive(Debug, Clone)]
enum Owned {
    Message { xid: u32, bytes: Vec<u8> },
    Event(WalEvent<'static>),
}

struct Clock<'m>(&'m Cell<u64>);

impl Server for Clock<'_> {
    fn now_us(&self) -> i64 {
        1
    }

    fn next_xid8(&self) -> u64 {
        self.0.get()
    }
}

impl Model {
    fn new(first_xid8: u64) -> Model {
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

    fn do_step(&mut self, (session, step): (usize, Step)) {
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
    fn read(&self, start_lsn: u64, done_lsn: u64, max_cached_bytes: usize) -> Read {
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

fn level(xid: u32) -> Level {
    Level {
        xid,
        xids: vec![xid],
        chunks: Vec::new(),
    }
}

/// What came out.
#[derive(Debug, Default)]
struct Read {
    committed: Vec<(u64, Vec<u32>, u64)>,
    /// Commit LSN and the restart LSN that was told with it.
    restarts: BTreeMap<u64, u64>,
    incomplete: Vec<u64>,
    rejected: Vec<String>,
    is_cached: bool,
    cached_bytes: usize,
    kept_bytes: usize,
    subtransactions: usize,
    is_empty: bool,
}

fn history() -> impl Strategy<Value = Model> {
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

proptest! {
    /// Every committed transaction comes out whole, in the order of the commits, and nothing that was rolled back (G1, G2, G4).
    #[test]
    fn what_comes_out_is_what_was_committed(model in history(), max_cached_bytes in 0usize..2000) {
        let read = model.read(0, 0, max_cached_bytes);
        prop_assert_eq!(&read.committed, &model.committed);
        prop_assert_eq!(read.incomplete, Vec::<u64>::new());
        prop_assert_eq!(read.rejected, Vec::<String>::new());
        prop_assert_eq!(read.cached_bytes, read.kept_bytes);
        prop_assert!(read.cached_bytes <= max_cached_bytes);
    }

    /// The commit record alone says which subtransactions survive (G2).
    #[test]
    fn a_commit_needs_no_records_of_subtransactions_that_were_rolled_back(mut model in history()) {
        let tops: Vec<u32> = model.committed.iter().map(|(xid8, _, _)| *xid8 as u32).collect();
        model.wal.retain(|(_, event)| match event {
            Owned::Event(WalEvent::Aborted { xid, .. }) => tops.contains(xid),
            _ => true,
        });
        prop_assert_eq!(&model.read(0, 0, usize::MAX).committed, &model.committed);
    }

    /// Who begins again at the restart point of any commit gets every later one whole (G1).
    #[test]
    fn the_restart_point_of_a_commit_is_early_enough(model in history()) {
        let read = model.read(0, 0, usize::MAX);
        prop_assert!(read.is_cached);
        for (done_lsn, restart_lsn) in read.restarts {
            let again = model.read(restart_lsn, done_lsn, usize::MAX);
            let later = |committed: &[(u64, Vec<u32>, u64)]| -> Vec<(u64, Vec<u32>, u64)> {
                committed.iter().filter(|(_, _, lsn)| *lsn > done_lsn).cloned().collect()
            };
            prop_assert_eq!(later(&again.committed), later(&model.committed));
            prop_assert_eq!(again.incomplete, Vec::<u64>::new());
        }
    }

    /// A transaction of which a part is not found is told, and never released (G1, G2).
    #[test]
    fn a_missing_chunk_is_told(mut model in history(), which: prop::sample::Index) {
        let chunks: Vec<usize> = (0..model.wal.len())
            .filter(|index| matches!(model.wal[*index].1, Owned::Message { .. }))
            .collect();
        prop_assume!(!chunks.is_empty());
        let (lost_lsn, _) = model.wal.remove(*which.get(&chunks));
        let read = model.read(0, 0, usize::MAX);
        let whole: Vec<_> = model.committed.iter().filter(|one| read.committed.contains(one)).collect();
        prop_assert_eq!(whole.len(), read.committed.len(), "{} is lost", lost_lsn);
        let untold = model.committed.len() - read.committed.len() - read.incomplete.len();
        // Of a transaction of one chunk nothing is left that could tell of it.
        let alone = model.committed.iter().filter(|one| one.1.len() == 1 && !read.committed.contains(one));
        prop_assert_eq!(untold, alone.count());
    }

    /// Copies of messages, and damaged ones, change nothing (G9).
    #[test]
    fn forged_and_repeated_messages_change_nothing(
        model in history(),
        forgeries in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3u8), 1..10),
    ) {
        let messages: Vec<Owned> = model.wal.iter().map(|(_, event)| event.clone())
            .filter(|event| matches!(event, Owned::Message { .. })).collect();
        prop_assume!(!messages.is_empty());
        let mut forged = Model { wal: model.wal.clone(), ..Model::new(model.next_xid8.get()) };
        for (place, original, kind) in &forgeries {
            let mut event = original.get(&messages).clone();
            if let Owned::Message { xid, bytes } = &mut event {
                match kind {
                    // In another transaction.
                    0 => *xid = xid.wrapping_add(1_000_000),
                    // With another content.
                    1 => *bytes.last_mut().expect("a message is not empty") ^= 1,
                    // Once more, behind its first time.
                    _ => {}
                }
            }
            let first = forged.wal.iter().position(|(_, there)| match (there, &event) {
                (Owned::Message { bytes: there, .. }, Owned::Message { bytes, .. }) => there == bytes,
                _ => false,
            });
            let from = first.map_or(0, |first| first + 1);
            let lsn = forged.wal.get(from).map_or(model.lsn, |(lsn, _)| *lsn);
            let index = from + place.index(forged.wal.len() + 1 - from);
            forged.wal.insert(index, (lsn, event));
        }
        let read = forged.read(0, u64::MAX, usize::MAX);
        prop_assert_eq!(&read.committed, &model.committed);
    }
}

#[test]
fn nothing_is_kept_of_transactions_that_are_over() {
    let mut model = Model::new(3);
    for session in 0..4 {
        for step in [Step::Chunk, Step::Savepoint, Step::Chunk, Step::Release] {
            model.do_step((session, step));
        }
    }
    for (session, step) in [
        (0, Step::Commit),
        (1, Step::Rollback),
        (2, Step::Prepare),
        (3, Step::Chunk),
        (0, Step::Crash),
        (0, Step::RollbackPrepared),
    ] {
        model.do_step((session, step));
    }
    let read = model.read(0, 0, usize::MAX);
    assert!(read.is_empty);
    assert_eq!((read.cached_bytes, read.subtransactions), (0, 0));
}

#[test]
fn what_is_wrong_with_a_message_is_told() {
    let mut model = Model::new((7 << 32) + 100);
    model.do_step((0, Step::Chunk));
    let Some(Owned::Message { xid, bytes }) = model.wal.first().map(|(_, event)| event.clone())
    else {
        panic!("no message");
    };
    let sealed = |xid8: u64, number: u32, nonce: u8| {
        let mut out = Vec::new();
        let header = Header {
            xid8,
            record_xid: xid8 as u32,
            number,
            nonce: [nonce; 16],
            database_oid: DATABASE,
        };
        seal(&mut out, &model.key, &header, None, &[], None);
        out
    };
    let xid8 = (7 << 32) + 100;
    let mut changed = bytes.clone();
    changed[70] ^= 1;
    let cases: [(u32, u32, bool, Vec<u8>, &str); 7] = [
        (xid, DATABASE, false, bytes.clone(), "not transactional"),
        (xid, DATABASE, true, changed, "not written by this server"),
        (
            xid + 1,
            DATABASE,
            true,
            bytes.clone(),
            "another transaction",
        ),
        (
            xid,
            DATABASE + 1,
            true,
            bytes.clone(),
            "another transaction",
        ),
        (
            xid,
            DATABASE,
            true,
            sealed(xid8 - (2 << 32), 1, 1),
            "long ago",
        ),
        (xid, DATABASE, true, sealed(xid8, 1, 1), "sent before"),
        (xid, DATABASE, true, bytes.clone(), "sent before"),
    ];
    for (record_xid, database_oid, is_transactional, forged, expected) in cases {
        let mut assembly = Assembly::new(model.key.clone(), usize::MAX);
        let mut take = |xid, database_oid, is_transactional, bytes: &[u8]| {
            let message = WalMessage {
                lsn: 1,
                xid,
                database_oid,
                is_transactional,
                bytes,
            };
            assembly.take(WalEvent::Message(message), &Clock(&model.next_xid8))
        };
        let first = take(xid, DATABASE, true, &bytes);
        assert!(matches!(first, Outcome::Nothing));
        match take(record_xid, database_oid, is_transactional, &forged) {
            Outcome::Rejected(rejected) => {
                let text = rejected.to_string();
                assert!(text.contains(expected), "{text} instead of {expected}");
            }
            other => panic!("{other:?} instead of {expected}"),
        }
    }
}
