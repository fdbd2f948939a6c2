//! Control topics: definitions, truncates and snapshots' marks of the tables of a database stand there, and not between the
//! rows. Which they are, and whose events may stand there, the sender's positions say.

use std::collections::BTreeSet;
use std::sync::Arc;

use change::event::headers::HeaderName;
use change::position::Position;
use change::topic_name;
use change::version::Place;

use crate::config::topic_pattern::follows;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;

/// The control topics of the topics that `patterns` say.
pub(crate) fn of<'p>(position: &'p Position, patterns: &[String]) -> BTreeSet<&'p str> {
    let followed = position
        .ends
        .iter()
        .filter(|(topic, _)| follows(patterns, topic));
    let followed: Vec<(&String, u32, Option<&str>)> = followed
        .map(|(topic, ends)| {
            let control = ends.control.as_ref().map(|control| control.topic.as_str());
            (topic, ends.database, control)
        })
        .collect();
    let controls = position.ends.iter().filter(|(topic, ends)| {
        topic_name::is_control(topic)
            && followed.iter().any(|(_, database, control)| {
                *database == ends.database || *control == Some(topic.as_str())
            })
    });
    controls.map(|(topic, _)| topic.as_str()).collect()
}

/// Whether the sender writes what is about `topic` into the control topic `control`: nobody else's word counts.
pub(crate) fn speaks_for(position: &Position, control: &str, topic: &str) -> bool {
    let (Some(of), Some(by)) = (position.ends.get(topic), position.ends.get(control)) else {
        return false;
    };
    let named = of.control.as_ref().map(|newest| newest.topic.as_str());
    of.database == by.database || named == Some(control)
}

/// The topic that a record of a control topic is about; `None` where it is no control event.
pub(crate) fn subject(record: &Record) -> Option<&str> {
    let topic = record.header(HeaderName::TOPIC.as_str())?;
    record.is_about_table().then_some(topic)
}

/// Where control events are: in one partition.
pub(crate) fn partition_of(control: &str) -> TopicPartition {
    TopicPartition {
        topic: Arc::from(control),
        partition: 0,
    }
}

/// Stands for the control events about a topic among the positions of a target: which of them are done, their versions say.
pub(crate) const LANE: i32 = -1;

/// The lane of the control events about `topic`.
pub(crate) fn lane_of(topic: Arc<str>) -> TopicPartition {
    TopicPartition {
        topic,
        partition: LANE,
    }
}

/// Where a position says that a control topic ends.
pub(crate) fn end(position: &Position, control: &str) -> Option<i64> {
    position.ends.get(control)?.end.first().copied()
}

/// Whether an event that begins so must be there when everything up to `place` is.
pub(crate) fn is_up_to(version: &str, place: Place) -> bool {
    change::version::Version::parse(version).is_some_and(|version| version.place() <= place)
}
