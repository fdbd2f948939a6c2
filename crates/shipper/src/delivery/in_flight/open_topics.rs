//! The topics that records go to, as they were when they were opened.

use std::collections::{BTreeMap, HashMap};

use change::event::record::ControlEvent;
use change::position::{Ends, Events, NewestControl};

use super::deliveries::{Deliveries, InFlight};
use crate::delivery::failed_delivery::TopicLimit;
use crate::progress::Done;

/// A topic in use.
pub(in crate::delivery) struct OpenTopic {
    pub(in crate::delivery) name: String,
    pub(in crate::delivery) topic_id: String,
    pub(in crate::delivery) partitions: i32,
    pub(in crate::delivery) limit: TopicLimit,
    /// Oid of the database that writes to it.
    pub(in crate::delivery) database: u32,
    /// Its newest definition said that it is the last.
    pub(in crate::delivery) untracked: bool,
    /// The newest control event about it.
    pub(in crate::delivery) control: Option<NewestControl>,
}

/// All of them, numbered as they were opened.
#[derive(Default)]
pub(in crate::delivery) struct OpenTopics {
    topics: Vec<OpenTopic>,
    indexes: HashMap<String, usize>,
}

impl OpenTopics {
    #[inline]
    pub(in crate::delivery) fn index_of(&self, name: &str) -> Option<usize> {
        self.indexes.get(name).copied()
    }

    /// Adds one; returns its number.
    pub(in crate::delivery) fn add(&mut self, topic: OpenTopic) -> usize {
        let index = self.topics.len();
        self.indexes.insert(topic.name.clone(), index);
        self.topics.push(topic);
        index
    }

    #[inline]
    pub(in crate::delivery) fn get(&self, index: usize) -> Option<&OpenTopic> {
        self.topics.get(index)
    }

    /// A topic's name, empty if there is none of that number.
    pub(in crate::delivery) fn name(&self, index: usize) -> &str {
        self.get(index).map_or("", |topic| &topic.name)
    }

    /// Notes the newest control event about a topic.
    pub(in crate::delivery) fn set_control(&mut self, index: usize, control: ControlEvent<'_>) {
        if let Some(topic) = self.topics.get_mut(index) {
            topic.untracked = control.is_last;
            topic.control = Some(NewestControl {
                version: control.version.to_owned(),
                topic: control.topic.to_owned(),
            });
        }
    }

    pub(in crate::delivery) fn count(&self) -> usize {
        self.topics.len()
    }

    /// So many events of a transaction, and everything before it, are there; the changed topics end where they end now.
    pub(in crate::delivery) fn done(
        &self,
        transaction: &InFlight,
        changed: &[usize],
        deliveries: &Deliveries,
        events: u64,
    ) -> Done {
        let commit = &transaction.commit;
        Done {
            commit_lsn: commit.lsn,
            nonce: commit.nonce,
            events: Events {
                done: events,
                of: commit.event_count,
            },
            commit_us: commit.commit_us,
            ends: self.ends(changed, deliveries),
        }
    }

    /// Where some of them end, as far as records are acknowledged.
    fn ends(&self, changed: &[usize], deliveries: &Deliveries) -> BTreeMap<String, Ends> {
        let changed = changed
            .iter()
            .filter_map(|index| Some((*index, self.topics.get(*index)?)));
        let ends = changed.map(|(index, topic)| {
            let ends = Ends {
                topic_id: topic.topic_id.clone(),
                partitions: topic.partitions,
                end: deliveries.ends(index),
                database: topic.database,
                untracked: topic.untracked,
                control: topic.control.clone(),
            };
            (topic.name.clone(), ends)
        });
        ends.collect()
    }
}
