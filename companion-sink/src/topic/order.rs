//! The order of records of several partitions: that of commits where they say it, else that in which they were sent. Within a
//! partition it is always that of the partition.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crate::topic::entry::Entry;

/// What is known of a record's place among those of other partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rank {
    version: Option<String>,
    sent_ms: Option<i64>,
}

impl Rank {
    pub(crate) fn of(entry: &Entry) -> Rank {
        Rank {
            version: entry.version().map(str::to_owned),
            sent_ms: entry.sent_ms,
        }
    }

    /// Which of two comes first.
    pub(crate) fn compare(&self, other: &Rank) -> Ordering {
        let ranks = [self, other].map(|rank| (rank.version.as_deref(), rank.sent_ms));
        compare(ranks[0], ranks[1])
    }
}

fn compare(one: (Option<&str>, Option<i64>), other: (Option<&str>, Option<i64>)) -> Ordering {
    match (one.0, other.0) {
        (Some(one), Some(other)) => one.cmp(other),
        _ => one.1.cmp(&other.1),
    }
}

fn compare_entries(one: &Entry, other: &Entry) -> Ordering {
    compare(
        (one.version(), one.sent_ms),
        (other.version(), other.sent_ms),
    )
}

/// The newest `limit` records of several partitions, each in its order, oldest first.
pub(crate) fn newest(mut lanes: Vec<VecDeque<Entry>>, limit: usize) -> Vec<Entry> {
    let mut taken = VecDeque::new();
    while taken.len() < limit {
        let newest = lanes
            .iter_mut()
            .filter(|lane| !lane.is_empty())
            .max_by(|one, other| match (one.back(), other.back()) {
                (Some(one), Some(other)) => compare_entries(one, other),
                _ => Ordering::Equal,
            });
        let Some(entry) = newest.and_then(VecDeque::pop_back) else {
            break;
        };
        taken.push_front(entry);
    }
    taken.into()
}

/// All of them, oldest first.
pub(crate) fn merged(lanes: Vec<VecDeque<Entry>>) -> Vec<Entry> {
    newest(lanes, usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;

    fn entry(partition: i32, offset: i64, commit: Option<u32>, sent_ms: i64) -> Entry {
        let version = commit.map(|lsn| format!("0001-00000001-{lsn:016x}-0000000001-00"));
        let headers = version
            .iter()
            .map(|version| ("cdc.version", Some(version.as_bytes())));
        Entry {
            record: Record::new("t".into(), partition, offset, None, None, headers),
            sent_ms: Some(sent_ms),
        }
    }

    fn places(entries: &[Entry]) -> Vec<(i32, i64)> {
        let place = |entry: &Entry| (entry.record.partition, entry.record.offset);
        entries.iter().map(place).collect()
    }

    #[test]
    fn partitions_are_merged_in_the_order_of_commits_and_keep_their_own() {
        let lanes = || {
            vec![
                // A copy of an old event stands behind newer ones.
                VecDeque::from([
                    entry(0, 0, Some(1), 1),
                    entry(0, 1, Some(4), 9),
                    entry(0, 2, Some(1), 10),
                ]),
                VecDeque::from([entry(1, 7, Some(2), 8), entry(1, 8, Some(3), 8)]),
                VecDeque::new(),
            ]
        };
        assert_eq!(
            places(&merged(lanes())),
            [(0, 0), (0, 1), (0, 2), (1, 7), (1, 8)]
        );
        assert_eq!(places(&newest(lanes(), 2)), [(1, 7), (1, 8)]);
        assert!(newest(lanes(), 0).is_empty());
    }

    #[test]
    fn what_has_no_version_goes_by_its_time() {
        let lanes = vec![
            VecDeque::from([entry(0, 0, None, 1), entry(0, 1, None, 5)]),
            VecDeque::from([entry(1, 0, None, 3), entry(1, 1, Some(1), 4)]),
        ];
        assert_eq!(places(&merged(lanes)), [(0, 0), (1, 0), (1, 1), (0, 1)]);
    }

    #[test]
    fn ranks_compare_as_records_do() {
        let rank = |commit, sent_ms| Rank::of(&entry(0, 0, commit, sent_ms));
        assert_eq!(rank(Some(1), 9).compare(&rank(Some(2), 1)), Ordering::Less);
        assert_eq!(rank(None, 9).compare(&rank(Some(2), 1)), Ordering::Greater);
    }
}
