//! What a run does with control events: it reads their topics, and does them where they belong.

use std::sync::Arc;

use change::position::Position;

use crate::delivery::by_partition::gathering::Gathered;
use crate::delivery::by_partition::lane::Lane;
use crate::delivery::by_partition::{Run, TOLD_AFTER};
use crate::delivery::control_topics;
use crate::error::Result;
use crate::event::snapshot::SnapshotBody;
use crate::event::{Op, is_for_others};
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::Sink;

impl<S: Sink> Run<'_, S> {
    /// Reads the control topics of the topics that are followed; from their beginnings where there are `fresh` partitions.
    pub(super) async fn read_control(&mut self, fresh: bool) -> Result<()> {
        let position = self.shared.position.borrow().clone();
        let Some(position) = position else {
            return Ok(());
        };
        for control in control_topics::of(&position, &self.config.topics) {
            if self.control.reads(control) && !fresh {
                continue;
            }
            let at = control_topics::partition_of(control);
            if self.control.reads(control) {
                self.reader.unassign(at.clone());
            }
            self.control.expect(Arc::clone(&at.topic));
            let bounds = self.shared.discovery.bounds(&at.topic, at.partition);
            match bounds.await {
                Ok((begin, _)) => {
                    self.epoch += 1;
                    self.control.begin(Arc::clone(&at.topic), begin, self.epoch);
                    self.reader.assign(at, begin, self.epoch);
                }
                Err(error) => {
                    tracing::debug!(sink = %self.status.name, %error, "asked again");
                    self.incomplete = true;
                }
            }
        }
        Ok(())
    }

    /// What the partition `at` does with a control event that comes next there; false where it waits at it.
    pub(super) fn do_control(
        &mut self,
        at: &TopicPartition,
        event: Record,
        gathered: &mut Gathered,
    ) -> bool {
        let for_others = is_for_others(&event, &self.status.name);
        let waits = !for_others && waits_for_all_partitions(event.op(), &event);
        let waits = waits && self.sink.waits_together(&event);
        let Some(lane) = self.lanes.get_mut(at) else {
            return false;
        };
        if waits {
            self.reader.unassign(at.clone());
            lane.held = Some(event);
            lane.is_noted = false;
            return false;
        }
        lane.version.clear();
        lane.version.push_str(event.version().unwrap_or_default());
        lane.is_version_new = true;
        if !for_others {
            gathered.bytes += event.size_bytes();
            gathered.batch.records.push(event);
        }
        gathered.touched = true;
        true
    }

    /// Does the control events that are due where no row comes, and reads on where one waited for them.
    pub(super) async fn do_due(&mut self) -> Result<()> {
        let waits = |lane: &Lane| lane.waits_for.is_some();
        if self.control.is_empty() && !self.lanes.values().any(waits) {
            return Ok(());
        }
        let position = self.shared.position.borrow().clone();
        let Some(position) = position else {
            return Ok(());
        };
        self.end_waits(&position);
        let mut gathered = Gathered::default();
        let idle: Vec<TopicPartition> = self.lanes.keys().cloned().collect();
        for at in idle {
            while let Some(lane) = self.lanes.get(&at)
                && lane.held.is_none()
                && lane.doubted.is_none()
                && self.is_at_end(&at, lane, &position)
                && let Some(event) = self.control.due(&at, lane, &position)
            {
                if !self.do_control(&at, event, &mut gathered) {
                    break;
                }
            }
        }
        self.apply(gathered).await?;
        self.control.forget_done(&self.lanes);
        self.release_held().await
    }

    /// Whether a partition is applied up to where a position says that it ends.
    fn is_at_end(&self, at: &TopicPartition, lane: &Lane, position: &Position) -> bool {
        let ends = position.ends.get(&*at.topic);
        let end = ends.and_then(|ends| ends.end.get(usize::try_from(at.partition).ok()?));
        let is_told = lane.assigned.elapsed() > TOLD_AFTER;
        end.is_some_and(|end| {
            lane.next >= *end || (is_told && self.reader.is_read_to(at, *end, lane.stored_next))
        })
    }

    /// Reads on where a record waited for a control event that was read meanwhile.
    fn end_waits(&mut self, position: &Position) {
        let is_over = |(at, lane): &(&TopicPartition, &Lane)| {
            let control = lane.waits_for.as_deref();
            control.is_some_and(|control| self.control.has_read(&at.topic, control, position))
        };
        let over = self.lanes.iter().filter(is_over);
        let over: Vec<TopicPartition> = over.map(|(at, _)| at.clone()).collect();
        for at in over {
            if let Some(lane) = self.lanes.get(&at) {
                let (next, version) = (lane.stored_next, lane.version.clone());
                self.go_on(at, next, version);
            }
        }
    }
}

/// Truncates, changes of definitions, and the beginnings and ends of snapshots.
fn waits_for_all_partitions(op: Option<Op>, record: &Record) -> bool {
    match op {
        Some(Op::Truncate | Op::Schema) => true,
        Some(Op::Snapshot) => SnapshotBody::parse(record)
            .is_ok_and(|snapshot| snapshot.is_beginning() || snapshot.is_end()),
        _ => false,
    }
}
