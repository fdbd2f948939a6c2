//! What `cdc_check` says of the topics of this database's tables: whether acknowledged events are safe in them.

use std::collections::BTreeSet;

use change::code::Code;
use change::position::lsn_text;
use serde_json::Value;
use shipper::files::orders::Orders;
use shipper::host::topic_counters::{Safety, TopicCounters};
use shipper::kafka::topics::design;

use super::check_line::{Line, line};
use crate::settings;

/// One line for each thing that is wrong, however many topics have it.
pub(super) fn lines(tables: &[Value], counters: &TopicCounters) -> Vec<Line> {
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
    let small = having(|safety| safety.settings.is_some_and(|settings| settings.is_small));
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
        Code::WritesRefused,
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
        Code::WritesRefused,
        &one_in_sync,
        "min.insync.replicas=1: events are acknowledged as soon as one broker has them",
        &|topic| {
            let command = configure("min.insync.replicas=2", topic);
            format!("{command}, or cdc.allow_single_replica = on to accept it")
        },
    );
    tell(
        "warning",
        Code::TopicCompacted,
        &compacted,
        "cleanup.policy has compact: only the last event of each key stays",
        &|topic| {
            let command = configure("cleanup.policy=delete", topic);
            format!("{command}, unless readers want no more than that")
        },
    );
    let largest = settings::TOPIC_MAX_EVENT_SIZE.get() as usize * 1024;
    tell(
        "warning",
        Code::TopicTakesSmallEvents,
        &small,
        "it takes smaller events than cdc.topic_max_event_size: of larger rows the largest values become stubs",
        &|topic| configure(&format!("max.message.bytes={largest}"), topic),
    );
    tell(
        "warning",
        Code::NotAuthorised,
        &unknown,
        "its settings cannot be read: how safe events are there is not known",
        &|topic| design::acl_command(&brokers, &["DescribeConfigs"], "topic", topic),
    );
    lines
}

/// Topics that are put aside, and those of which events are given up, of all databases.
pub(super) fn held_back(orders: &Orders, passed_lsn: u64) -> Vec<Line> {
    let asides = orders.asides.iter().map(|aside| {
        let name = aside.topic.escape_debug();
        let item = format!("topic {name}");
        let trouble = &aside.trouble;
        let message = format!("put aside at {}: {}", lsn_text(aside.from), trouble.message);
        line("error", trouble.code, &item, &message, &trouble.remedy)
    });
    let skips = orders.active_skips(passed_lsn).map(|skip| {
        let by = &skip.by;
        let message = format!(
            "its events are given up to {}, by {} at {}",
            lsn_text(skip.up_to),
            by.role,
            by.at
        );
        let remedy = format!("SELECT cdc_unskip_topic('{}') takes it back", skip.topic);
        line(
            "warning",
            Code::EventsGivenUp,
            &format!("topic {}", skip.topic),
            &message,
            &remedy,
        )
    });
    asides.chain(skips).collect()
}
