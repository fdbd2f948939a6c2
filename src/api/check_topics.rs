//! What `cdc_check` says of the topics of this database's tables: whether acknowledged events are safe in them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::check::{Line, line};
use crate::sender::topics;
use crate::settings;
use crate::topic_counters::{Safety, TopicCounters};

/// One line for each thing that is wrong, however many topics have it.
pub fn lines(tables: &[Value], counters: &TopicCounters) -> Vec<Line> {
    let own = |table: &Value| {
        let further = table["topics"].as_object().into_iter().flatten();
        let mut topics: Vec<String> = further
            .filter_map(|(_, topic)| topic.as_str().map(str::to_owned))
            .collect();
        topics.extend(table["topic"].as_str().map(str::to_owned));
        topics
    };
    let names: BTreeSet<String> = tables.iter().flat_map(own).collect();
    let seen: Vec<(&str, Safety)> = names
        .iter()
        .filter_map(|name| Some((name.as_str(), counters.safety(name)?)))
        .collect();
    let having = |is_so: fn(&Safety) -> bool| -> Vec<&str> {
        let topics = seen.iter().filter(|(_, safety)| is_so(safety));
        topics.map(|(name, _)| *name).collect()
    };
    let accepted = if settings::ALLOW_SINGLE_REPLICA.get() {
        "warning"
    } else {
        "error"
    };
    let brokers = settings::text(&settings::BROKERS);
    let configure = |setting: &str, topic: &str| {
        format!(
            "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config {setting}"
        )
    };
    let one_replica = having(|safety| safety.replicas == 1);
    let one_in_sync = having(|safety| {
        safety.replicas > 1
            && safety
                .settings
                .is_some_and(|settings| settings.min_in_sync == 1)
    });
    let compacted = having(|safety| {
        safety
            .settings
            .is_some_and(|settings| settings.is_compacted)
    });
    let unknown = having(|safety| safety.settings.is_none());
    let mut lines = Vec::new();
    let mut tell = |level, code, topics: &[&str], message, remedy: &dyn Fn(&str) -> String| {
        let item = match topics {
            [topic] => format!("topic {topic}"),
            [topic, rest @ ..] => format!("topic {topic} and {} more", rest.len()),
            [] => return,
        };
        lines.push(line(level, code, &item, message, &remedy(topics[0])));
    };
    tell(
        accepted,
        "CDC0308",
        &one_replica,
        "one replica: a lost broker loses events that were acknowledged",
        &|topic| {
            format!(
                "give {topic} three replicas with kafka-reassign-partitions.sh, or cdc.allow_single_replica = on to accept it"
            )
        },
    );
    tell(
        accepted,
        "CDC0308",
        &one_in_sync,
        "min.insync.replicas=1: events are acknowledged as soon as one broker has them",
        &|topic| {
            let command = configure("min.insync.replicas=2", topic);
            format!("{command}, or cdc.allow_single_replica = on to accept it")
        },
    );
    tell(
        "warning",
        "CDC0311",
        &compacted,
        "cleanup.policy has compact: only the last event of each key stays",
        &|topic| {
            let command = configure("cleanup.policy=delete", topic);
            format!("{command}, unless readers want no more than that")
        },
    );
    tell(
        "warning",
        "CDC0303",
        &unknown,
        "its settings cannot be read: how safe events are there is not known",
        &|topic| topics::acl_command(&brokers, &["DescribeConfigs"], "topic", topic),
    );
    lines
}
