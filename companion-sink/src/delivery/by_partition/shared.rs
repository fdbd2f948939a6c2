//! Where several instances share the partitions: they meet, in the target, at events about whole tables, and go on where it
//! says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::delivery::by_partition::Run;
use crate::delivery::progress::version_of;
use crate::error::{Result, log};
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::batch::Position;
use crate::sink::{Met, SharedTarget, Sink};

impl<S: Sink> Run<'_, S> {
    /// Other instances came, went, or met at an event that partitions of this one wait at; or a second has passed.
    pub(crate) async fn look_at_others(&mut self) -> Result<()> {
        if self.sink.shared().is_none() {
            return Ok(());
        }
        self.share().await?;
        for lane in self.lanes.values_mut() {
            lane.is_noted = false;
        }
        self.meet_others().await?;
        let cluster = self.shared.discovery.cluster();
        self.tell_state(cluster.borrow().error.is_some());
        Ok(())
    }

    /// Notes for the others which events partitions are held at; what all have reached is done then.
    pub(crate) async fn meet_others(&mut self) -> Result<()> {
        for record in self.events_to_meet_at() {
            let moves = self.moves_past(&record);
            if moves.is_empty() {
                continue;
            }
            let partitions = self.wanted.get(&*record.topic).copied().unwrap_or_default();
            let held: Vec<TopicPartition> = moves.iter().map(|moved| moved.at.clone()).collect();
            let dead_letters = &self.shared.dead_letters;
            let Some(shared) = self.sink.shared_mut() else {
                return Ok(());
            };
            let met = shared.meet(&record, &moves, partitions, dead_letters);
            match met.await? {
                Met::Waiting => {
                    for at in &held {
                        if let Some(lane) = self.lanes.get_mut(at) {
                            lane.is_noted = true;
                        }
                    }
                }
                Met::Busy => self.incomplete = true,
                Met::Done => {
                    self.status.figures().count_event(&record);
                    self.goes_on(&record.topic);
                    self.go_on_where_target_is(&held).await?;
                }
                Met::Moved => {
                    self.goes_on(&record.topic);
                    self.go_on_where_target_is(&held).await?;
                }
                Met::Stopped(error) => {
                    if self.stopped.note(&record.topic, Instant::now()) {
                        log(&error, &self.status.name);
                    }
                    self.status.stops_at(&record.topic, &error);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn goes_on(&mut self, topic: &str) {
        if self.stopped.forget(topic) {
            tracing::info!(sink = %self.status.name, topic, "the table goes on");
            self.status.goes_on(topic);
        }
    }

    /// The events that partitions are held at, of each topic the earliest first, but for those that the others know of,
    /// and that it is too soon to try again.
    fn events_to_meet_at(&self) -> Vec<Record> {
        let now = Instant::now();
        let mut events: BTreeMap<(Arc<str>, &str), &Record> = BTreeMap::new();
        for (at, lane) in &self.lanes {
            if let Some(held) = lane.held.as_ref()
                && !lane.is_noted
                && !self.stopped.rests(&at.topic, now)
            {
                events.insert((Arc::clone(&at.topic), version_of(held)), held);
            }
        }
        events.into_values().cloned().collect()
    }

    /// Takes over positions of held partitions that were moved when the event was done, here or by another instance.
    async fn go_on_where_target_is(&mut self, held: &[TopicPartition]) -> Result<()> {
        let stored = self.sink.positions(held).await?;
        for (at, position) in held.iter().zip(stored) {
            // A control event moves the version alone.
            let is_moved = |position: &Position| {
                let lane = self.lanes.get(at);
                lane.is_some_and(|lane| {
                    lane.stored_next != position.next_offset || lane.version != position.version
                })
            };
            if let Some(position) = position.filter(is_moved) {
                self.go_on(at.clone(), position.next_offset, position.version);
            }
        }
        Ok(())
    }
}
