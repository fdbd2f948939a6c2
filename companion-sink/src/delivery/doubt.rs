//! Events whose version is beyond what the sender's newest position says: one that stays there is forged. Taken for true it
//! would make a later copy of everything that the source sends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::position::Position;
use change::version::Place;

use crate::kafka::reader::TopicPartition;

/// The sender writes a position as soon as Kafka has a commit's events, and every cdc.heartbeat_interval at least.
const WAIT: Duration = Duration::from_secs(15);
/// Where partitions are read independently, events come before their position; not by this much.
const NEAR_BYTES: u64 = 1 << 30;

/// Events that are doubted: those at the heads of partitions.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    of: HashMap<TopicPartition, Doubt>,
    /// The newest position, and how many there have been.
    newest: Option<Arc<Position>>,
    positions: u64,
}

#[derive(Debug)]
struct Doubt {
    offset: i64,
    since: Instant,
    /// How many positions there had been.
    positions: u64,
}

/// The newest commit of which the sender has said anything.
pub(crate) fn newest(position: &Position) -> Place {
    Place {
        generation: position.generation,
        timeline: position.timeline,
        commit_lsn: position.commit_lsn,
    }
}

/// Whether a commit is further beyond a position than events come before theirs. A position of another source knows nothing of
/// the partition.
pub(crate) fn is_far_beyond(place: Place, at: &TopicPartition, position: &Position) -> bool {
    let is_named = position
        .ends
        .get(&*at.topic)
        .is_some_and(|ends| usize::try_from(at.partition).is_ok_and(|at| at < ends.end.len()));
    let newest = newest(position);
    let near = Place {
        commit_lsn: newest.commit_lsn.saturating_add(NEAR_BYTES),
        ..newest
    };
    is_named && place > near
}

impl Doubts {
    /// The newest position: perhaps another one came.
    pub(crate) fn look_at(&mut self, position: &Arc<Position>) {
        let is_known = |known: &Arc<Position>| Arc::ptr_eq(known, position);
        if !self.newest.as_ref().is_some_and(is_known) {
            self.positions += 1;
            self.newest = Some(Arc::clone(position));
        }
    }

    /// Whether the event at `offset` of a partition, which is beyond `position`, has been there for so long that it is none.
    pub(crate) fn is_over(
        &mut self,
        at: &TopicPartition,
        offset: i64,
        position: &Position,
    ) -> bool {
        let positions = self.positions;
        let fresh = || Doubt {
            offset,
            since: Instant::now(),
            positions,
        };
        let doubt = self.of.entry(at.clone()).or_insert_with(fresh);
        if doubt.offset != offset {
            *doubt = fresh();
        }
        let ends = position.ends.get(&*at.topic);
        let end = ends.and_then(|ends| ends.end.get(usize::try_from(at.partition).ok()?));
        let sender_went_on =
            doubt.positions < positions || end.is_some_and(|end| *end > doubt.offset);
        doubt.since.elapsed() >= WAIT && sender_went_on
    }

    /// Nothing of a partition is doubted.
    pub(crate) fn forget(&mut self, at: &TopicPartition) {
        self.of.remove(at);
    }
}
