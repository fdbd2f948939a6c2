//! A topic that somebody asks for: whether there is one, and where its partitions begin and end.

use std::ops::Range;
use std::sync::Arc;

use change::trouble::Trouble;
use rdkafka::Offset;

use crate::config::{Loaded, nearest};
use crate::error::{Code, Result};
use crate::kafka::discovery::{self, Topics};
use crate::kafka::offsets::{offsets, partitions_of};
use crate::kafka::reader::TopicPartition;
use crate::kafka::scan::Scan;

/// A topic of Kafka, and a client that reads it.
pub(crate) struct AskedTopic {
    pub(crate) topic: Arc<str>,
    pub(crate) partitions: i32,
    pub(crate) scan: Scan,
}

/// What there is instead of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoTopic {
    pub(crate) topic: String,
    /// One that may be meant.
    pub(crate) nearest: Option<String>,
}

impl NoTopic {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let near = self.nearest.as_ref();
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        format!("no topic {}{near}", self.topic)
    }
}

/// Where a partition begins and ends. What belongs to an open transaction is behind its end.
pub(crate) type TopicBounds = Vec<(TopicPartition, Range<i64>)>;

/// Looks for a topic. Blocks, as all that follows does.
pub(crate) fn ask(
    config: &Loaded,
    topic: &str,
) -> Result<std::result::Result<AskedTopic, NoTopic>> {
    let client = crate::kafka::client::asking(config)?;
    let topics = discovery::topics(&client)?;
    let Some(&partitions) = topics.get(topic) else {
        return Ok(Err(NoTopic {
            topic: topic.to_owned(),
            nearest: near(topic, &topics),
        }));
    };
    let scan = Scan::of_people(config, usize::try_from(partitions).unwrap_or_default())?;
    Ok(Ok(AskedTopic {
        topic: topic.into(),
        partitions,
        scan,
    }))
}

/// The topic that is nearest: people leave out the prefix, or mistype a letter.
fn near(topic: &str, topics: &Topics) -> Option<String> {
    let mut ending = topics
        .keys()
        .filter(|known| known.ends_with(&format!(".{topic}")));
    match (ending.next(), ending.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => nearest(topic, topics.keys().map(String::as_str)).map(str::to_owned),
    }
}

impl AskedTopic {
    /// Where its partitions begin and end now.
    pub(crate) fn bounds(&self) -> Result<TopicBounds> {
        bounds(&self.scan, &self.topic, self.partitions)
    }
}

/// Where the partitions of a topic begin and end now.
///
/// # Errors
/// CDC1003 where Kafka does not know it of one of them.
pub(crate) fn bounds(scan: &Scan, topic: &str, partitions: i32) -> Result<TopicBounds> {
    let ask = |which| offsets(scan.consumer(), partitions_of(topic, partitions), which);
    let unknown = |place: &str| {
        Trouble::new(
            Code::Unreachable,
            format!("kafka: where {place} begins and ends is not known"),
            "Look whether all its partitions have a leader, and the user may DESCRIBE the topic; then try again.",
        )
    };
    // In this order: nothing ends before it begins.
    let (begins, ends) = (ask(Offset::Beginning), ask(Offset::End));
    let (Some(begins), Some(ends)) = (begins, ends) else {
        return Err(unknown(topic));
    };
    let bounds = partitions_of(topic, partitions).map(|at| {
        let (Some(begin), Some(end)) = (begins.get(&at), ends.get(&at)) else {
            return Err(unknown(&format!("{topic}-{}", at.partition)));
        };
        Ok((at, *begin..*end))
    });
    bounds.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_that_may_be_meant_is_named() {
        let topics: Topics = [
            "shop.public.customer",
            "shop.public.item",
            "crm.public.item",
        ]
        .map(|topic| (topic.to_owned(), 1))
        .into();
        for (asked, meant) in [
            ("customer", Some("shop.public.customer")),
            ("public.customer", Some("shop.public.customer")),
            ("shop.public.custmer", Some("shop.public.customer")),
            ("shop.public.itm", Some("shop.public.item")),
            ("nothing at all", None),
        ] {
            assert_eq!(near(asked, &topics).as_deref(), meant, "{asked}");
        }
        let none = NoTopic {
            topic: "custmer".into(),
            nearest: Some("customer".into()),
        };
        assert_eq!(none.text(), "no topic custmer; did you mean customer?");
    }
}
