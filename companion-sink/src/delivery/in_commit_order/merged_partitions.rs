//! Which partitions are merged, and from where: those that a position names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use change::position::Position as SenderPosition;

use crate::config::topic_pattern::follows;
use crate::delivery::control_topics;
use crate::delivery::in_commit_order::{CommitOrderRun, LEADER_RETRY, LEADER_WAIT};
use crate::delivery::opening::Opening;
use crate::error::Result;
use crate::kafka::reader::TopicPartition;
use crate::sink::ordered::OrderedSink;

impl<S: OrderedSink> CommitOrderRun<'_, S> {
    /// Sees to it that all partitions that the position names are merged; false where that takes a new beginning.
    pub(super) async fn merge_all_of(&mut self, position: &SenderPosition) -> Result<bool> {
        let mut fresh = Vec::new();
        for (topic, ends) in &position.ends {
            if !follows(&self.context.config.topics, topic) {
                continue;
            }
            for partition in 0..ends.end.len() as i32 {
                let at = TopicPartition {
                    topic: topic.as_str().into(),
                    partition,
                };
                if self.merge.place(&at).is_none() {
                    fresh.push(at);
                }
            }
        }
        let control = control_topics::of(position, &self.context.config.topics);
        let control: Vec<TopicPartition> = control
            .into_iter()
            .map(control_topics::partition_of)
            .collect();
        let is_known = |at: &TopicPartition| self.merge.place(at).is_some();
        if fresh.is_empty() && control.iter().all(is_known) {
            return Ok(true);
        }
        if !fresh.is_empty() && self.merge.read().next().is_some() {
            // What is about them may have been read already.
            return Ok(false);
        }
        let topics: BTreeSet<Arc<str>> = fresh.iter().map(|at| Arc::clone(&at.topic)).collect();
        let stored = self.target.positions(&fresh).await?;
        let mut opening = Opening::default();
        for (at, stored) in fresh.into_iter().zip(stored) {
            let bounds = self.bounds(&at).await?;
            opening.add(at, stored, bounds)?;
        }
        let cut = opening.cut();
        let cut: Vec<String> = cut
            .map(|at| format!("{}-{}", at.topic, at.partition))
            .collect();
        let opened = opening.begin(self.target, &self.context.name).await?;
        if !cut.is_empty() {
            tracing::warn!(
                sink = self.context.name,
                partitions = cut.join(", "),
                hint = "SELECT cdc_snapshot('TABLE', sinks => ARRAY['SINK']) on the source brings what is missing.",
                "these no longer reach back to their beginning: rows from before are missing"
            );
        }
        for (at, position) in opened {
            let next = position.next_offset;
            self.queues.assign(at.clone(), next)?;
            self.context.status.is_at(&at, next);
            self.merge.add(at, next, &position.version);
        }
        self.merge_control(topics, control).await?;
        self.begun = self.merge.begun().max(self.target.begun());
        Ok(true)
    }

    /// Sees to it that the control events about new topics are merged: they may lie anywhere in the control topics, which are
    /// read from their beginnings.
    async fn merge_control(
        &mut self,
        topics: BTreeSet<Arc<str>>,
        control: Vec<TopicPartition>,
    ) -> Result<()> {
        let lanes = topics.into_iter().map(control_topics::lane_of);
        let lanes: Vec<TopicPartition> =
            lanes.filter(|at| self.merge.place(at).is_none()).collect();
        let stored = self.target.positions(&lanes).await?;
        let new = lanes.iter().zip(&stored);
        let new = new.filter_map(|(at, stored)| stored.is_none().then_some((at.clone(), 0)));
        let new: Vec<(TopicPartition, i64)> = new.collect();
        if !new.is_empty() {
            self.target.begin(&new).await?;
        }
        for (at, stored) in lanes.into_iter().zip(stored) {
            let (next, version) = stored.map_or((0, String::new()), |stored| {
                (stored.next_offset, stored.version)
            });
            self.merge.add_control(&at.topic, next, &version);
        }
        for at in control {
            if self.merge.place(&at).is_none() {
                let (begin, _) = self.bounds(&at).await?;
                self.queues.assign(at.clone(), begin)?;
                self.merge.add_control_topic(at, begin);
            }
        }
        Ok(())
    }

    /// Where a partition begins and ends; one that is new may have no leader yet.
    async fn bounds(&self, at: &TopicPartition) -> Result<(i64, i64)> {
        let began = Instant::now();
        loop {
            let bounds = self
                .context
                .shared
                .discovery
                .bounds(&at.topic, at.partition);
            match bounds.await {
                Err(_) if began.elapsed() < LEADER_WAIT => tokio::time::sleep(LEADER_RETRY).await,
                known => return known,
            }
        }
    }
}
