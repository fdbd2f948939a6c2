//! The consumer group's copy of the offsets that the target has: for lag tools only.

use std::collections::HashMap;

use crate::kafka::reader::TopicPartition;

/// What was copied.
#[derive(Debug, Default)]
pub(crate) struct CopiedOffsets(HashMap<TopicPartition, i64>);

impl CopiedOffsets {
    /// What of `stored`, the offsets that come next, is to be copied: it moved since it was copied last.
    pub(crate) fn moved<'p>(
        &mut self,
        stored: impl Iterator<Item = (&'p TopicPartition, i64)>,
    ) -> Vec<(TopicPartition, i64)> {
        let moved = stored.filter(|(at, next)| self.0.get(*at) != Some(next));
        let moved: Vec<_> = moved.map(|(at, next)| (at.clone(), next)).collect();
        self.0.extend(moved.iter().cloned());
        moved
    }
}
