//! Which partitions a run has, and from where it reads them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::topic_pattern::follows;
use crate::delivery::by_partition::Run;
use crate::delivery::by_partition::lane::Lane;
use crate::delivery::control_topics;
use crate::delivery::opening::Opening;
use crate::error::Result;
use crate::kafka::discovery::Cluster;
use crate::kafka::reader::TopicPartition;
use crate::sink::batch::Position;
use crate::sink::{SharedTarget, Sink, all_partitions};
use crate::status::State;

impl<S: Sink> Run<'_, S> {
    /// Assigns the partitions that are new.
    pub(super) async fn follow(&mut self, cluster: Cluster) -> Result<()> {
        let Some(topics) = cluster.topics else {
            if let Some(error) = cluster.error {
                self.status.set_error(&error);
                self.status.set_state(State::Retrying);
            }
            return Ok(());
        };
        // What is read already is read on, whatever became of the topic.
        let lanes = &self.lanes;
        self.wanted
            .retain(|topic, _| lanes.keys().any(|at| *at.topic == **topic));
        for (topic, partitions) in topics.iter() {
            if follows(&self.config.topics, topic) {
                let known = self.wanted.entry(topic.clone()).or_default();
                *known = (*partitions).max(*known);
            }
        }
        self.share().await?;
        self.release_held().await?;
        self.tell_state(cluster.error.is_some());
        Ok(())
    }

    pub(super) fn tell_state(&self, is_kafka_away: bool) {
        let others_have_all = self.lanes.is_empty() && !self.incomplete && !self.wanted.is_empty();
        self.status.set_state(match is_kafka_away {
            true => State::Retrying,
            false if others_have_all => State::Standby,
            false => State::Running,
        });
    }

    /// Has the partitions that are this instance's now, and no others.
    pub(super) async fn share(&mut self) -> Result<()> {
        let mine = match self.sink.shared_mut() {
            Some(shared) => shared.share(&self.wanted).await?,
            None => all_partitions(&self.wanted),
        };
        let given_up: Vec<TopicPartition> = self
            .lanes
            .keys()
            .filter(|at| !mine.contains(at))
            .cloned()
            .collect();
        for at in &given_up {
            let lane = self.lanes.remove(at);
            if !self.lanes.keys().any(|left| left.topic == at.topic) {
                self.goes_on(&at.topic);
            }
            self.status.gives_up(at);
            // Where it was held, it is not read.
            if lane.is_some_and(|lane| !lane.rests()) {
                self.reader.unassign(at.clone());
            }
        }
        if !given_up.is_empty() {
            tracing::info!(sink = %self.status.name, partitions = given_up.len(), "partitions given up to other instances");
        }
        let fresh: Vec<TopicPartition> = mine
            .into_iter()
            .filter(|at| !self.lanes.contains_key(at))
            .collect();
        self.incomplete = false;
        if !fresh.is_empty() {
            self.assign(fresh).await?;
            if self.sink.shared().is_some() {
                // Of their keys as well.
                self.carry_out().await?;
            }
        }
        if self.sink.shared().is_some() {
            self.status.figures().partitions = Some(self.lanes.len());
        }
        Ok(())
    }

    pub(super) async fn assign(&mut self, fresh: Vec<TopicPartition>) -> Result<()> {
        let stored = self.sink.positions(&fresh).await?;
        let mut opening = Opening::default();
        for (at, stored) in fresh.into_iter().zip(stored) {
            let bounds = self.shared.discovery.bounds(&at.topic, at.partition);
            match bounds.await {
                Ok(bounds) => opening.add(at, stored, bounds)?,
                Err(error) => {
                    tracing::debug!(sink = %self.status.name, %error, "asked again");
                    self.incomplete = true;
                }
            }
        }
        let opened = opening.begin(self.sink, &self.status.name).await?;
        self.know_done(&opened).await?;
        for (at, position) in opened {
            self.go_on(at, position.next_offset, position.version);
        }
        self.read_control(true).await
    }

    /// What a replica that was consistent by transactions has done of the control events stands beside its partitions.
    pub(super) async fn know_done(&mut self, opened: &[(TopicPartition, Position)]) -> Result<()> {
        let topics: BTreeSet<Arc<str>> =
            opened.iter().map(|(at, _)| Arc::clone(&at.topic)).collect();
        let lanes = topics.into_iter().map(control_topics::lane_of);
        let lanes: Vec<TopicPartition> = lanes.collect();
        let stored = self.sink.positions(&lanes).await?;
        for (at, stored) in lanes.into_iter().zip(stored) {
            if let Some(stored) = stored {
                self.control.note_done(&at.topic, stored.version);
            }
        }
        Ok(())
    }

    /// Reads a partition from a position that the target has.
    pub(super) fn go_on(&mut self, at: TopicPartition, next: i64, version: String) {
        self.epoch += 1;
        let lane = Lane::new(next, version, self.epoch);
        self.reader.assign(at.clone(), next, lane.epoch);
        self.status.is_at(&at, next);
        self.lanes.insert(at, lane);
    }
}
