//! What comes out of any WAL of the model.

use proptest::prelude::*;

use super::model::{Clock, DATABASE, Model, Owned, Step, history};
use super::*;
use crate::wal::message::{Header, seal};

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
