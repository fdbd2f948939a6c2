//! A chunk of a snapshot: rows that were read under one PostgreSQL snapshot, between two records that say so.
//!
//! A commit record does not make a transaction visible at once. So the rows of a chunk may be older
//! than events that are in the WAL before them. The chunk carries the snapshot it was read under: a row is left out
//! whose key was changed by a transaction that committed before the chunk and is not visible in that snapshot.

use std::collections::{HashMap, HashSet};

use crate::value::json::put_integer;
use crate::wal::snapshot_chunk::{ChunkBegin, Visibility};

/// A table of the cluster: its database and its own oid.
pub type TableId = (u32, u32);

/// What one transaction changed of a table.
#[derive(Debug)]
enum Touched {
    /// Keys, as JSON.
    Keys(HashSet<Box<[u8]>>),
    /// More than is kept, or everything.
    All,
    /// So did many before it, more than are kept. While it is open, those that follow are taken to be of them.
    Many { open: bool },
}

/// Which rows of tables that a snapshot is being made of were changed by whom. Kept until a chunk's snapshot sees the
/// change.
#[derive(Debug, Default)]
pub struct Windows {
    changes: HashMap<TableId, Vec<(u64, Touched)>>,
    bytes: usize,
    max_bytes: usize,
}

/// What becomes of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its rows are sent, but those with these keys.
    Accepted(HashSet<Box<[u8]>>),
    /// It is not known which rows are older than events before them: the chunk must be read again.
    Rejected,
}

impl Windows {
    /// Beyond `max_bytes` of keys a transaction counts as having changed every row, and beyond as many transactions as would fit
    /// without keys they are not told from each other any more.
    pub fn new(max_bytes: usize) -> Windows {
        Windows {
            max_bytes,
            ..Windows::default()
        }
    }

    /// A transaction changed the row with this key (as JSON); none for every row.
    pub fn touch(&mut self, table: TableId, xid8: u64, key: Option<&[u8]>) {
        let changes = self.changes.entry(table).or_default();
        if let Some((last, Touched::Many { open: true })) = changes.last_mut() {
            *last = (*last).max(xid8);
            return;
        }
        if changes.last().is_none_or(|(last, _)| *last != xid8) {
            if changes.len() >= (self.max_bytes / ENTRY_BYTES).max(1) {
                let newest = changes.iter().map(|(xid8, _)| *xid8).max();
                for (_, touched) in changes.drain(..) {
                    if let Touched::Keys(keys) = touched {
                        self.bytes -= bytes_of(&keys);
                    }
                }
                changes.push((newest.unwrap_or(0).max(xid8), Touched::Many { open: true }));
                return;
            }
            changes.push((xid8, Touched::Keys(HashSet::new())));
        }
        let Some((_, touched)) = changes.last_mut() else {
            return;
        };
        let Touched::Keys(keys) = touched else {
            return;
        };
        match key {
            Some(key) if self.bytes + key.len() <= self.max_bytes => {
                if keys.insert(key.into()) {
                    self.bytes += key.len() + ENTRY_BYTES;
                }
            }
            _ => {
                self.bytes -= bytes_of(keys);
                *touched = Touched::All;
            }
        }
    }

    /// Forgets what the chunk's snapshot sees, and says which of its rows are out of date.
    pub fn judge(&mut self, table: TableId, visibility: &Visibility) -> Verdict {
        let Some(changes) = self.changes.get_mut(&table) else {
            return Verdict::Accepted(HashSet::new());
        };
        let bytes = &mut self.bytes;
        changes.retain_mut(|(xid8, touched)| {
            let seen = match touched {
                // With all that are older.
                Touched::Many { open } => {
                    *open = false;
                    *xid8 < visibility.xmin
                }
                Touched::Keys(_) | Touched::All => visibility.sees(*xid8),
            };
            if seen && let Touched::Keys(keys) = touched {
                *bytes -= bytes_of(keys);
            }
            !seen
        });
        let mut out_of_date = HashSet::new();
        for (_, touched) in changes.iter() {
            match touched {
                Touched::All | Touched::Many { .. } => return Verdict::Rejected,
                Touched::Keys(keys) => out_of_date.extend(keys.iter().cloned()),
            }
        }
        Verdict::Accepted(out_of_date)
    }

    /// Forgets the tables of which no snapshot is being made.
    pub fn keep(&mut self, is_snapshot: impl Fn(TableId) -> bool) {
        let bytes = &mut self.bytes;
        self.changes.retain(|table, changes| {
            let keep = is_snapshot(*table);
            if !keep {
                for (_, touched) in changes {
                    if let Touched::Keys(keys) = touched {
                        *bytes -= bytes_of(keys);
                    }
                }
            }
            keep
        });
    }
}

impl Verdict {
    /// The same if its keys have so many bytes at most. Whoever reads the chunk again finds fewer: what was under way is over.
    pub fn within(self, max_bytes: usize) -> Verdict {
        match self {
            Verdict::Accepted(keys)
                if keys.iter().map(|key| key.len()).sum::<usize>() <= max_bytes =>
            {
                Verdict::Accepted(keys)
            }
            Verdict::Accepted(_) | Verdict::Rejected => Verdict::Rejected,
        }
    }
}

/// What a key takes besides its bytes, about.
const ENTRY_BYTES: usize = 32;

fn bytes_of(keys: &HashSet<Box<[u8]>>) -> usize {
    keys.iter().map(|key| key.len() + ENTRY_BYTES).sum()
}

/// Appends the `snapshot` object of a row.
pub fn put_snapshot(out: &mut Vec<u8>, begin: &ChunkBegin<'_>) {
    out.extend_from_slice(b"\"snapshot\":{\"id\":");
    put_integer(out, begin.snapshot_id);
    out.extend_from_slice(b",\"chunk\":");
    put_integer(out, begin.chunk);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::snapshot_chunk::ChunkEnd;
    use proptest::prelude::*;

    const TABLE: TableId = (1, 2);

    /// Reads PostgreSQL's text, `xmin:xmax:xid,xid`.
    fn parse(text: &str) -> Option<Visibility> {
        let mut parts = text.split(':');
        let mut number = || parts.next()?.parse().ok();
        let (xmin, xmax) = (number()?, number()?);
        let in_progress = parts.next()?.split(',').filter(|xid| !xid.is_empty());
        Some(Visibility {
            xmin,
            xmax,
            in_progress: in_progress
                .map(|xid| xid.parse().ok())
                .collect::<Option<_>>()?,
        })
    }

    fn visibility(text: &str) -> Visibility {
        parse(text).unwrap()
    }

    #[test]
    fn many_transactions_take_no_more_than_their_share() {
        let mut windows = Windows::new(100 * ENTRY_BYTES);
        for xid8 in 10..100_000 {
            windows.touch(TABLE, xid8, Some(b"{}"));
        }
        assert!(windows.changes[&TABLE].len() <= 100);
        let rejected = windows.judge(TABLE, &visibility("99999:99999:"));
        assert_eq!(rejected, Verdict::Rejected, "one of them is not seen");
        // What comes after that is told apart again.
        windows.touch(TABLE, 200_000, Some(b"{\"a\":1}"));
        let accepted = windows.judge(TABLE, &visibility("100000:200000:"));
        assert_eq!(
            accepted,
            Verdict::Accepted(HashSet::from([b"{\"a\":1}".as_slice().into()]))
        );
        assert_eq!(windows.bytes, b"{\"a\":1}".len() + ENTRY_BYTES);
    }

    proptest! {
        #[test]
        fn records_come_back(id: i64, chunk: u64, session: u64, slot: u32, xmin: u64, xmax: u64, in_progress: Vec<u64>,
                             sinks: Option<String>, from: Option<String>, to: Option<String>, partial: bool) {
            let begin = ChunkBegin { snapshot_id: id, chunk, session, slot, visibility: Visibility { xmin, xmax, in_progress }, sinks: sinks.as_deref() };
            let mut out = Vec::new();
            begin.put(&mut out);
            prop_assert_eq!(ChunkBegin::read(&out).unwrap(), begin);
            let end = ChunkEnd { from: from.as_deref(), to: to.as_deref(), partial };
            let mut out = Vec::new();
            end.put(&mut out);
            prop_assert_eq!(ChunkEnd::read(&out).unwrap(), end);
        }
    }

    #[test]
    fn a_snapshot_sees_what_was_over() {
        let some = visibility("10:14:11,13");
        let seen: Vec<u64> = (8..16).filter(|xid8| some.sees(*xid8)).collect();
        assert_eq!(seen, [8, 9, 10, 12]);
        assert!(visibility("10:10:").in_progress.is_empty());
        assert_eq!(parse("10:x:"), None);
    }

    #[test]
    fn rows_that_somebody_changed_unseen_are_out_of_date() {
        let mut windows = Windows::new(1000);
        windows.touch(TABLE, 9, Some(b"seen"));
        windows.touch(TABLE, 11, Some(b"a"));
        windows.touch((1, 3), 11, Some(b"another table's"));
        windows.touch(TABLE, 11, Some(b"b"));
        let expected =
            |keys: &[&[u8]]| Verdict::Accepted(keys.iter().map(|key| Box::from(*key)).collect());
        assert_eq!(
            windows.judge(TABLE, &visibility("10:12:11")),
            expected(&[b"a", b"b"])
        );
        // Seen now, and so forgotten.
        assert_eq!(windows.judge(TABLE, &visibility("12:12:")), expected(&[]));
        assert_eq!(windows.judge(TABLE, &visibility("10:12:11")), expected(&[]));
        windows.keep(|table| table == TABLE);
        assert_eq!(windows.bytes, 0);
    }

    #[test]
    fn more_keys_than_an_event_may_name_are_no_answer() {
        let keys =
            |count: u8| Verdict::Accepted((0..count).map(|key| Box::from([key; 10])).collect());
        assert_eq!(keys(10).within(100), keys(10));
        assert_eq!(keys(11).within(100), Verdict::Rejected);
    }

    #[test]
    fn too_many_keys_are_every_row_until_they_are_seen() {
        let mut windows = Windows::new(100);
        for number in 0..10u8 {
            windows.touch(TABLE, 20, Some(&[number; 20]));
        }
        windows.touch(TABLE, 21, None);
        assert_eq!(
            windows.judge(TABLE, &visibility("20:22:20,21")),
            Verdict::Rejected
        );
        assert_eq!(
            windows.judge(TABLE, &visibility("21:22:21")),
            Verdict::Rejected
        );
        assert!(matches!(
            windows.judge(TABLE, &visibility("22:22:")),
            Verdict::Accepted(_)
        ));
        assert_eq!(windows.bytes, 0);
    }
}
