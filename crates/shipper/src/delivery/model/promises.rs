//! What is promised of the partitions' content.

use std::collections::BTreeMap;

use change::position::Position;

use super::source::{PartitionId, Version};
use crate::position::take_over::newest;

/// What is owed, and how often.
pub(super) struct Promises {
    pub(super) owed: BTreeMap<PartitionId, Vec<Version>>,
    pub(super) once: bool,
}

impl Promises {
    /// The prefix rule (G4): what is there is a prefix of what is owed; a later copy has a version not above the highest seen
    /// there. With exactly once (G5) there is no copy.
    pub(super) fn check_partition(&self, id: &PartitionId, seen: &[Version]) {
        let owed = self.owed.get(id).map_or(&[][..], |owed| owed);
        let mut highest = 0;
        for version in seen {
            let index = owed.iter().position(|owed| owed == version);
            let index = index.unwrap_or_else(|| panic!("{id:?} has {version:?}, owed to another"));
            assert!(
                index <= highest,
                "{id:?} misses {:?} before {version:?}",
                owed[highest]
            );
            assert!(
                index == highest || !self.once,
                "{id:?} has {version:?} twice"
            );
            highest = highest.max(index + 1);
        }
    }

    /// The newest position is true: everything that committed up to it is there, before the ends that it names. Positions only
    /// ever rise.
    pub(super) fn check_position(
        &self,
        positions: &[Position],
        visible: impl Fn(&PartitionId, i64) -> Vec<Version>,
    ) {
        let last = positions.last().expect("a position");
        let earlier = &positions[..positions.len() - 1];
        let rank = |position: &Position| (position.epoch, position.progress());
        assert!(
            earlier.iter().all(|earlier| rank(earlier) <= rank(last)),
            "the position has gone back"
        );
        let newest = newest(positions).expect("a position");
        let done = (newest.commit_lsn, newest.events.done);
        for (id, owed) in &self.owed {
            let (topic, partition) = id;
            let ends = newest.ends.get(topic);
            let end = ends.map_or(0, |ends| ends.end[*partition as usize]);
            let there = visible(id, end);
            for version in owed.iter().filter(|version| **version <= done) {
                assert!(
                    there.contains(version),
                    "position {done:?} says that {version:?} is in {id:?} before {end}: {there:?}"
                );
            }
        }
    }

    /// At least once (G1): nothing is missing.
    pub(super) fn check_end(&self, visible: impl Fn(&PartitionId) -> Vec<Version>) {
        for (id, owed) in &self.owed {
            let there = visible(id);
            for version in owed {
                assert!(there.contains(version), "{id:?} never had {version:?}");
            }
        }
    }
}
