//! Up to which commit a target has everything: the newest position of the sender whose ends a sink has passed in all of its
//! partitions. Up to there no transaction is there in part.

use std::collections::VecDeque;
use std::sync::Arc;

use change::position::Position;

use crate::timestamp::rfc3339;

/// Positions that wait at most; of more every second one is dropped, so that the oldest ones lie far apart.
const WAITING_MAX: usize = 1024;

/// A commit up to which everything is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complete {
    /// What the versions of its events begin with: generation, timeline and LSN.
    pub(crate) version: String,
    /// The highest commit time until then, RFC 3339.
    pub(crate) commit_time: String,
}

impl Complete {
    fn of(position: &Position) -> Complete {
        Complete {
            version: position.complete_place().to_string(),
            commit_time: rfc3339(position.effective_ts_us),
        }
    }

    /// As answers have it.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "commit_time": self.commit_time, "version": self.version })
    }

    /// Above the versions of its events, and below those of the next commit.
    pub(crate) fn bound(&self) -> String {
        // A hyphen follows in versions, and this is the next character.
        format!("{}.", self.version)
    }
}

/// Positions that a sink has not reached.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    waiting: VecDeque<Arc<Position>>,
    complete: Option<Complete>,
}

impl Watermark {
    /// A position of the sender, newer than those before.
    pub(crate) fn offer(&mut self, position: Arc<Position>) {
        let is_known = |known: &Arc<Position>| known.rank() == position.rank();
        if self.waiting.back().is_some_and(is_known) {
            return;
        }
        self.waiting.push_back(position);
        if self.waiting.len() > WAITING_MAX {
            let mut place = 0;
            self.waiting.retain(|_| {
                place += 1;
                place % 2 == 0
            });
        }
    }

    /// Looks which positions are reached: `is_passed` says so of a topic's partition and the offset where it ends. Returns the
    /// newest one if it is a new one.
    pub(crate) fn advance(
        &mut self,
        is_passed: impl Fn(&str, i32, i64) -> bool,
    ) -> Option<&Complete> {
        let is_reached = |position: &Position| {
            position.ends.iter().all(|(topic, ends)| {
                let mut partitions = (0..).zip(&ends.end);
                partitions.all(|(partition, end)| is_passed(topic, partition, *end))
            })
        };
        let mut reached = None;
        while let Some(next) = self.waiting.front().filter(|next| is_reached(next)) {
            reached = Some(Complete::of(next));
            self.waiting.pop_front();
        }
        let reached = reached.filter(|reached| self.complete.as_ref() != Some(reached));
        if reached.is_some() {
            self.complete = reached;
            return self.complete.as_ref();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use change::position::{Ends, Events, FORMAT, Record};

    use super::*;

    fn position(lsn: u64, ends: &[(&str, &[i64])]) -> Arc<Position> {
        let ends = ends.iter().map(|(topic, end)| {
            let ends = Ends {
                topic_id: "x".into(),
                partitions: end.len() as i32,
                end: end.to_vec(),
                database: 0,
                untracked: false,
                control: None,
            };
            ((*topic).to_owned(), ends)
        });
        Arc::new(Position {
            format: FORMAT,
            record: Record::Full,
            source: "s".into(),
            name: "pg".into(),
            generation: 1,
            epoch: 1,
            timeline: 2,
            timeline_start: 0,
            commit_lsn: lsn,
            restart_lsn: lsn,
            nonce: String::new(),
            events: Events { done: 1, of: 1 },
            effective_ts_us: lsn as i64,
            sent_ts_us: 0,
            heartbeat_ms: 0,
            node: String::new(),
            cluster_id: String::new(),
            ends: ends.collect::<BTreeMap<_, _>>(),
            aside: BTreeMap::new(),
            part: None,
            full: None,
            mac: String::new(),
        })
    }

    #[test]
    fn the_newest_position_that_is_passed_everywhere_counts() {
        let mut watermark = Watermark::default();
        for (lsn, ends) in [(1, [1, 0]), (2, [2, 0]), (3, [2, 5]), (4, [9, 9])] {
            watermark.offer(position(lsn, &[("t", &ends), ("other", &[100])]));
        }
        let next = [2, 4];
        let passed = |next: [i64; 2]| {
            move |topic: &str, partition: i32, end: i64| {
                topic == "other" || next[partition as usize] >= end
            }
        };
        let version =
            |complete: Option<&Complete>| complete.map(|complete| complete.version.clone());
        assert_eq!(
            version(watermark.advance(passed(next))).as_deref(),
            Some("0001-00000002-0000000000000002")
        );
        assert_eq!(
            version(watermark.advance(passed(next))),
            None,
            "nothing new"
        );
        assert_eq!(
            version(watermark.advance(passed([2, 5]))).as_deref(),
            Some("0001-00000002-0000000000000003")
        );
    }

    #[test]
    fn a_bound_is_between_two_commits() {
        let complete = Complete::of(&position(0x15a3098, &[]));
        let bound = complete.bound();
        assert!("0001-00000002-00000000015a3098-4294967295-99" < bound.as_str());
        assert!("0001-00000002-00000000015a3099-0000000000-00" > bound.as_str());
        assert_eq!(complete.commit_time, "1970-01-01T00:00:22.687896Z");
    }

    #[test]
    fn few_of_many_wait() {
        let mut watermark = Watermark::default();
        for lsn in 1..10_000 {
            watermark.offer(position(lsn, &[("t", &[lsn as i64])]));
            watermark.offer(position(lsn, &[("t", &[lsn as i64])]));
        }
        assert!(watermark.waiting.len() <= WAITING_MAX);
        let reached = watermark
            .advance(|_, _, end| end <= 9_999)
            .map(|complete| complete.version.clone());
        assert_eq!(
            reached.as_deref(),
            Some("0001-00000002-000000000000270f"),
            "the newest is kept"
        );
    }
}
