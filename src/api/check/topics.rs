//! What `cdc_check` says of the topics of this database's tables: whether acknowledged events are safe in them.

use std::collections::BTreeSet;

use change::code::Code;
use change::position::lsn_text;
use change::topic_name;
use serde_json::Value;
use shipper::files::orders::Orders;
use shipper::host::topic_counters::{Safety, TopicCounters};
use shipper::kafka::topics::design;

use super::line::{Line, line};
use crate::catalog::database_name;
use crate::settings;

/// What may be wrong with a topic.
struct Fault {
    is_so: fn(&Safety) -> bool,
    level: &'static str,
    code: Code,
    message: &'static str,
    remedy: fn(&Remedies, &str) -> String,
}

/// What remedies name.
struct Remedies {
    brokers: String,
}

impl Remedies {
    fn configure(&self, setting: &str, topic: &str) -> String {
        let brokers = &self.brokers;
        format!(
            "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config {setting}"
        )
    }
}

fn faults() -> [Fault; 5] {
    let accepted = if settings::ALLOW_SINGLE_REPLICA.get() {
        "warning"
    } else {
        "error"
    };
    [
        Fault {
            is_so: |safety| safety.replicas == 1,
            level: accepted,
            code: Code::WritesRefused,
            message: "one replica: a lost broker loses events that were acknowledged",
            remedy: |_, topic| {
                format!(
                    "give {topic} three replicas with kafka-reassign-partitions.sh, or cdc.allow_single_replica = on to accept it"
                )
            },
        },
        Fault {
            is_so: |safety| {
                let settings = safety.settings;
                safety.replicas > 1 && settings.is_some_and(|settings| settings.min_in_sync == 1)
            },
            level: accepted,
            code: Code::WritesRefused,
            message: "min.insync.replicas=1: events are acknowledged as soon as one broker has them",
            remedy: |remedies, topic| {
                let command = remedies.configure("min.insync.replicas=2", topic);
                format!("{command}, or cdc.allow_single_replica = on to accept it")
            },
        },
        Fault {
            is_so: |safety| {
                safety
                    .settings
                    .is_some_and(|settings| settings.is_compacted)
            },
            level: "warning",
            code: Code::TopicCompacted,
            message: "cleanup.policy has compact: only the last event of each key stays",
            remedy: |remedies, topic| {
                let command = remedies.configure("cleanup.policy=delete", topic);
                format!("{command}, unless readers want no more than that")
            },
        },
        Fault {
            is_so: |safety| safety.settings.is_some_and(|settings| settings.is_small),
            level: "warning",
            code: Code::TopicTakesSmallEvents,
            message: "it takes smaller events than cdc.topic_max_event_size: of larger rows the largest values become stubs",
            remedy: |remedies, topic| {
                let largest_bytes = settings::TOPIC_MAX_EVENT_SIZE.get() as usize * 1024;
                remedies.configure(&format!("max.message.bytes={largest_bytes}"), topic)
            },
        },
        Fault {
            is_so: |safety| safety.settings.is_none(),
            level: "warning",
            code: Code::NotAuthorised,
            message: "its settings cannot be read: how safe events are there is not known",
            remedy: |remedies, topic| {
                design::acl_command(&remedies.brokers, &["DescribeConfigs"], "topic", topic)
            },
        },
    ]
}

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
    let seen = names
        .iter()
        .filter_map(|name| Some((name.as_str(), counters.safety(name)?)));
    let mut lines = lines_of(&seen.collect::<Vec<_>>());
    let control = topic_name::control(&settings::topic_prefix(&database_name()));
    if let Some(mut safety) = counters.safety(&control) {
        // This one has to be compacted.
        if let Some(settings) = &mut safety.settings {
            settings.is_compacted = false;
        }
        lines.extend(lines_of(&[(control.as_str(), safety)]));
    }
    lines
}

/// What is wrong with topics of which this is known.
fn lines_of(seen: &[(&str, Safety)]) -> Vec<Line> {
    let remedies = Remedies {
        brokers: settings::text(&settings::BROKERS),
    };
    let line_of = |fault: Fault| {
        let mut having = seen.iter().filter(|(_, safety)| (fault.is_so)(safety));
        let (first, _) = having.next()?;
        let item = match having.count() {
            0 => format!("topic {first}"),
            more => format!("topic {first} and {more} more"),
        };
        let remedy = (fault.remedy)(&remedies, first);
        Some(line(fault.level, fault.code, &item, fault.message, &remedy))
    };
    faults().into_iter().filter_map(line_of).collect()
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
