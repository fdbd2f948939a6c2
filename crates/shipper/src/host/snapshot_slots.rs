//! Snapshots that are being made, in shared memory: the sender must remember what changes in these tables, and tells
//! the workers what became of their chunks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use change::event::snapshot_chunk::Judged;
use change::event::snapshot_window::TableId;

/// Snapshots at once, and databases that wait for a worker.
const SLOTS: usize = 32;

/// Zero bytes are a free slot.
#[repr(C)]
struct Slot {
    /// Database and table, both 0 while the slot is free.
    database: AtomicU32,
    relation: AtomicU32,
    /// Number of the newest chunk that was decided about, doubled, and 1 more if it was accepted.
    verdict: AtomicU64,
}

/// All slots; atomics only, for the sender's Kafka thread reads and writes them.
#[repr(C)]
pub struct Slots {
    slots: [Slot; SLOTS],
    /// Slots in use: the sender looks no further while there are none.
    active: AtomicU32,
    /// Databases for which a worker is asked, by oid.
    wanted: [AtomicU32; SLOTS],
    /// Rises with each of these requests.
    requests: AtomicU64,
    /// Databases that wait until one of those whose snapshots are made has had its turn.
    waiting: AtomicU32,
}

impl Slots {
    /// Takes a slot for a table; none if all are taken.
    pub fn claim(&self, (database, relation): TableId) -> Option<u32> {
        let free = self.slots.iter().position(|slot| {
            slot.database
                .compare_exchange(0, database, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })?;
        let slot = &self.slots[free];
        slot.verdict.store(0, Ordering::Relaxed);
        slot.relation.store(relation, Ordering::SeqCst);
        self.active.fetch_add(1, Ordering::SeqCst);
        Some(free as u32)
    }

    pub fn release(&self, slot: u32) {
        let slot = &self.slots[slot as usize];
        slot.relation.store(0, Ordering::SeqCst);
        self.active.fetch_sub(1, Ordering::SeqCst);
        slot.database.store(0, Ordering::SeqCst);
    }

    /// Whether a snapshot of this table is being made.
    #[inline]
    pub fn is_snapshot(&self, (database, relation): TableId) -> bool {
        self.active.load(Ordering::SeqCst) != 0
            && self.slots.iter().any(|slot| {
                slot.relation.load(Ordering::SeqCst) == relation
                    && slot.database.load(Ordering::SeqCst) == database
            })
    }

    /// Tells a worker what became of its chunk.
    pub fn tell(&self, judged: Judged) {
        if let Some(slot) = self.slots.get(judged.slot as usize) {
            let verdict = judged.chunk << 1 | u64::from(judged.accepted);
            slot.verdict.store(verdict, Ordering::Release);
        }
    }

    /// What became of a chunk; none while it is not decided.
    pub fn verdict(&self, slot: u32, chunk: u64) -> Option<bool> {
        let verdict = self.slots[slot as usize].verdict.load(Ordering::Acquire);
        (verdict >> 1 == chunk).then_some(verdict & 1 == 1)
    }

    /// Forgets what became of the last chunk, before one of the same number is sent.
    pub fn forget_verdict(&self, slot: u32) {
        self.slots[slot as usize]
            .verdict
            .store(0, Ordering::Release);
    }

    /// Asks the sender for a worker in a database. Safe in a commit callback. Where more databases ask than there is
    /// room for, those wait for the sender's next start.
    pub fn want_worker(&self, database: u32) {
        let there = self.wanted.iter().any(|wanted| {
            wanted.load(Ordering::SeqCst) == database
                || wanted
                    .compare_exchange(0, database, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
        });
        if there {
            self.requests.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Says how many databases wait for their turn.
    pub fn set_waiting(&self, databases: u32) {
        self.waiting.store(databases, Ordering::Relaxed);
    }

    /// Whether a database waits for its turn.
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// The number of requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Takes the databases that asked.
    pub fn take_wanted(&self) -> impl Iterator<Item = u32> {
        let taken = self
            .wanted
            .iter()
            .map(|wanted| wanted.swap(0, Ordering::SeqCst));
        taken.filter(|database| *database != 0)
    }
}
