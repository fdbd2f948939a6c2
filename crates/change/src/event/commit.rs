//! A transaction's commit, and the numbers that its events get.

use std::collections::HashMap;

use crate::hex::put_hex;
use crate::value::json::put_integer;
use crate::version::{self, Version, put_emitted_id, put_event_number};

/// What the commit record says about a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    pub nonce: [u8; 16],
    pub xid8: u64,
    pub database_oid: u32,
    pub generation: u16,
    pub timeline: u32,
    /// Where the commit record begins.
    pub lsn: u64,
    /// The captured commit before this one.
    pub previous_lsn: Option<u64>,
    /// Commit time, microseconds since 2000-01-01.
    pub commit_us: i64,
    /// Events of the transaction, tombstones not counted.
    pub event_count: u64,
}

/// Numbers the events of one transaction after the other.
#[derive(Debug)]
pub(super) struct Numbers {
    commit: Commit,
    texts: CommitTexts,
    sequence: u64,
    /// Events so far per relation (by oid), for `data_collection_order`.
    orders: HashMap<u32, u64>,
}

impl Numbers {
    pub(super) fn new(commit: Commit) -> Numbers {
        let mut texts = CommitTexts::default();
        texts.render(&commit);
        Numbers {
            commit,
            texts,
            sequence: 0,
            orders: HashMap::new(),
        }
    }

    /// Begins with the next transaction.
    pub(super) fn begin(&mut self, commit: Commit) {
        self.texts.render(&commit);
        self.commit = commit;
        self.sequence = 0;
        self.orders.clear();
    }

    pub(super) fn commit(&self) -> &Commit {
        &self.commit
    }

    /// The newest event's number in its transaction, from 1.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Counts an event that belongs to no table, or is not sent.
    pub(super) fn count(&mut self) {
        self.sequence += 1;
    }

    /// Counts an event of a table: its number among those of the same table, from 1.
    pub(super) fn count_of(&mut self, oid: u32) -> u64 {
        self.sequence += 1;
        let order = self.orders.entry(oid).or_default();
        *order += 1;
        *order
    }

    /// The newest event's id.
    pub(super) fn put_id(&self, out: &mut Vec<u8>, sub: u8) {
        out.extend_from_slice(&self.texts.id);
        put_event_number(out, self.sequence, sub);
    }

    /// The id of an event of the application's own, as `cdc_emit` returned it.
    pub(super) fn put_emitted_id(&self, out: &mut Vec<u8>, captured: u64) {
        put_emitted_id(out, &self.commit.nonce, captured);
    }

    /// The newest event's version.
    pub(super) fn put_version(&self, out: &mut Vec<u8>, sub: u8) {
        out.extend_from_slice(&self.texts.version);
        version::put_order(out, self.sequence, sub);
    }

    /// The newest event's number among those of its transaction: `3/7`.
    pub(super) fn put_order(&self, out: &mut Vec<u8>) {
        put_integer(out, self.sequence);
        out.push(b'/');
        out.extend_from_slice(&self.texts.event_count);
    }

    /// The `transaction` object, with a comma in front.
    pub(super) fn put_transaction(&self, out: &mut Vec<u8>, order: u64) {
        out.extend_from_slice(&self.texts.transaction);
        put_integer(out, self.sequence);
        out.extend_from_slice(b",\"data_collection_order\":");
        put_integer(out, order);
        out.extend_from_slice(b",\"event_count\":");
        out.extend_from_slice(&self.texts.event_count);
        out.push(b'}');
    }
}

/// What is the same for every event of a transaction: rendered once.
#[derive(Debug, Default)]
struct CommitTexts {
    /// Event id up to the sequence.
    id: Vec<u8>,
    /// `cdc.version` up to the sequence.
    version: Vec<u8>,
    /// `"transaction":{…` up to the sequence.
    transaction: Vec<u8>,
    /// `event_count`
    event_count: Vec<u8>,
}

impl CommitTexts {
    fn render(&mut self, commit: &Commit) {
        let CommitTexts {
            id,
            version,
            transaction,
            event_count,
        } = self;
        for text in [&mut *id, version, transaction, event_count] {
            text.clear();
        }
        put_hex(id, &commit.nonce);
        id.push(b'-');
        Version {
            generation: commit.generation,
            timeline: commit.timeline,
            commit_lsn: commit.lsn,
            sequence: 0,
            sub: 0,
        }
        .put_place(version);
        transaction.extend_from_slice(b",\"transaction\":{\"id\":\"");
        put_integer(transaction, commit.xid8);
        transaction.push(b':');
        put_integer(transaction, commit.lsn);
        transaction.extend_from_slice(b"\",\"total_order\":");
        put_integer(event_count, commit.event_count);
    }
}
