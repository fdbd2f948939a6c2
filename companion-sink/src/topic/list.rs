//! Which topics there are, and what is in them.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use change::event::headers::HeaderName;
use change::event::op::Op;
use change::trouble::Trouble;
use serde_json::{Value, json};

use crate::config::Loaded;
use crate::config::topic_pattern::{follows, matches};
use crate::error::{Code, Result};
use crate::kafka::discovery::{self, Topics};
use crate::kafka::scan::Scan;
use crate::kafka::{client, positions};
use crate::progress::Progress;
use crate::timestamp::rfc3339;
use crate::topic::asked::{AskedTopic, TopicBounds, bounds};
use crate::topic::entry::Entry;
use crate::topic::filter::TopicFilter;
use crate::topic::kind::TopicKind;
use crate::topic::settings::{TopicSettings, settings};
use crate::topic::tail::TailSearch;

/// One topic.
pub(crate) struct Overview {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    /// Offsets from the beginnings to the ends; none where Kafka does not say.
    pub(crate) events: Option<i64>,
    pub(crate) kind: TopicKind,
    /// As its newest event has it.
    pub(crate) table: Option<String>,
    pub(crate) newest_us: Option<i64>,
    pub(crate) settings: TopicSettings,
}

impl Overview {
    /// As answers have it.
    pub(crate) fn json(&self) -> Value {
        json!({
            "topic": self.topic,
            "kind": self.kind.name(),
            "table": self.table,
            "partitions": self.partitions,
            "events": self.events,
            "newest": self.newest_us.map(rfc3339),
            "cleanup_policy": self.settings.cleanup,
            "retention_ms": self.settings.retention_ms,
        })
    }
}

/// The topics that `pattern` matches; without one those that the sinks of the configuration follow, with what belongs to them.
pub(crate) async fn overview(config: &Loaded, pattern: Option<&str>) -> Result<Vec<Overview>> {
    let (asking, pattern) = (config.clone(), pattern.map(str::to_owned));
    let read = tokio::task::spawn_blocking(move || read(&asking, pattern.as_deref()));
    let mut all = read.await.unwrap_or_else(|error| {
        Err(Trouble::new(
            Code::Unreachable,
            format!("kafka: {error}"),
            "Try again.",
        ))
    })?;
    let names: Vec<&str> = all.iter().map(|one| one.topic.as_str()).collect();
    let mut settings = settings(config, &names).await?;
    for one in &mut all {
        one.settings = settings.remove(&one.topic).unwrap_or_default();
    }
    Ok(all)
}

fn read(config: &Loaded, pattern: Option<&str>) -> Result<Vec<Overview>> {
    let topics = discovery::topics(&client::asking(config)?)?;
    let wanted = match pattern {
        Some(pattern) => {
            let names = topics.keys().filter(|topic| matches(pattern, topic));
            names.map(String::as_str).collect()
        }
        None => followed(config, &topics),
    };
    let most = wanted.iter().filter_map(|topic| topics.get(*topic)).max();
    let scan = Scan::of_people(config, most.map_or(0, |most| most.unsigned_abs() as usize))?;
    let mut progress = Progress::beside_answer("reading", "topics");
    progress.set_total(wanted.len() as u64);
    let mut asked = AskedTopic {
        topic: "".into(),
        partitions: 0,
        scan,
    };
    let mut all = Vec::with_capacity(wanted.len());
    for topic in wanted {
        asked.topic = topic.into();
        asked.partitions = topics.get(topic).copied().unwrap_or_default();
        all.push(one(&asked));
        progress.show(all.len() as u64);
    }
    progress.clear();
    Ok(all)
}

/// Topics that sinks follow, and their control events, dead letters and positions. Without sinks all but Kafka's own.
fn followed<'t>(config: &Loaded, topics: &'t Topics) -> BTreeSet<&'t str> {
    let names = || topics.keys().map(String::as_str);
    if config.sinks.is_empty() {
        return names().filter(|topic| !topic.starts_with("__")).collect();
    }
    let is_followed = |topic: &&str| {
        let mut sinks = config.sinks.values();
        sinks.any(|sink| follows(&sink.topics, topic))
    };
    let followed: BTreeSet<&str> = names().filter(is_followed).collect();
    let positions = positions::topic(config);
    let belongs = |topic: &&str| {
        let letters = topic.strip_suffix(".dlq");
        let is_control = change::topic_name::is_control(topic)
            && topic.rsplit_once('.').is_some_and(|(prefix, _)| {
                let prefix = format!("{prefix}.");
                followed.iter().any(|topic| topic.starts_with(&prefix))
            });
        followed.contains(topic)
            || letters.is_some_and(|of| followed.contains(of))
            || is_control
            || **topic == *positions
    };
    names().filter(belongs).collect()
}

fn one(asked: &AskedTopic) -> Overview {
    let topic = asked.topic.to_string();
    let ranges = bounds(&asked.scan, &topic, asked.partitions).ok();
    let newest = match &ranges {
        // Of one that must not be read there is less to show.
        Some(ranges) => newest(asked, ranges).unwrap_or_else(|error| {
            tracing::debug!(topic, "{error}");
            None
        }),
        None => None,
    };
    let table = newest.as_ref().and_then(table);
    Overview {
        kind: TopicKind::of(&topic, newest.as_ref()),
        topic,
        partitions: asked.partitions,
        events: ranges.map(|ranges| {
            let lengths = ranges.iter().map(|(_, range)| range.end - range.start);
            lengths.sum()
        }),
        table,
        newest_us: newest.as_ref().and_then(Entry::time_us),
        settings: TopicSettings::default(),
    }
}

/// The newest record of a topic.
fn newest(asked: &AskedTopic, bounds: &TopicBounds) -> Result<Option<Entry>> {
    let mut search = TailSearch {
        asked,
        filter: &mut TopicFilter::default(),
        limit: 1,
        stop: &AtomicBool::new(false),
        progress: Progress::nowhere(),
    };
    let found = search.run(bounds)?;
    Ok(found.and_then(|mut found| found.pop()))
}

/// The table whose rows a topic has; a control topic has those of many.
fn table(newest: &Entry) -> Option<String> {
    let is_row = newest
        .record
        .op()
        .is_some_and(|op| op.is_row() || op == Op::Tombstone);
    let table = newest.record.header(HeaderName::TABLE.as_str());
    table.filter(|_| is_row).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_topics_of_sinks_is_listed_with_them() {
        let config = "kafka.brokers = \"b\"\n[sink.a]\nkind = \"postgres\"\ntopics = [\"shop.public.*\"]\nurl = \"postgres://h/d\"\n";
        let config = Loaded::parse("f.toml", config, std::iter::empty()).unwrap();
        let topics: Topics = [
            "shop.public.customer",
            "shop.public.customer.dlq",
            "shop.cdc-control",
            "pg.cdc_positions",
            "crm.public.item",
            "crm.public.item.dlq",
            "crm.cdc-control",
            "other.cdc_positions",
            "__consumer_offsets",
        ]
        .map(|topic| (topic.to_owned(), 1))
        .into();
        let listed: Vec<&str> = followed(&config, &topics).into_iter().collect();
        assert_eq!(
            listed,
            [
                "pg.cdc_positions",
                "shop.cdc-control",
                "shop.public.customer",
                "shop.public.customer.dlq"
            ]
        );
    }
}
