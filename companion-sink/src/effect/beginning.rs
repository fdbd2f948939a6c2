//! Where a sink of effects begins that has never run, if what is in the topics by then has no effect: no event that came about since
//! the process started is passed over.
//!
//! Three things say where that is, and the earliest counts. Where a partition ends now; but the process may have waited for Kafka,
//! and rows were committed meanwhile: so what was sent since it started counts, by the clocks of who sent it. And where the sender's
//! position says that the partition ends: what lies behind may come again, and would pass for new.

use std::sync::Arc;
use std::time::Duration;

use change::position::Position;
use tokio::time::timeout;

use crate::config::Loaded;
use crate::config::topic_pattern::follows;
use crate::delivery::runner::{Shared, ended};
use crate::effect::state::journal::blocking;
use crate::error::Result;
use crate::kafka::discovery::Topics;
use crate::kafka::offsets::partitions_of;
use crate::kafka::positions;
use crate::kafka::reader::TopicPartition;
use crate::kafka::scan::Scan;

/// A position that is there is read within this.
const POSITION_WAIT: Duration = Duration::from_secs(10);

/// The partitions of the topics of `followed` that are there now, each with the offset where it begins.
pub(crate) async fn beginnings(
    config: &Arc<Loaded>,
    shared: &Shared,
    followed: &[String],
) -> Result<Vec<(TopicPartition, i64)>> {
    let mut cluster = shared.discovery.cluster();
    let known = cluster.wait_for(|cluster| cluster.topics.is_some()).await;
    let topics = known.map_err(|_| ended("discovery"))?.topics.clone();
    let topics = topics.unwrap_or_default();
    let there = topics.iter().filter(|(topic, _)| follows(followed, topic));
    let there: Vec<TopicPartition> = there
        .flat_map(|(topic, partitions)| partitions_of(topic, *partitions))
        .collect();
    let sent = sent_position(config, shared, &topics).await;
    let since = {
        let (config, there) = (Arc::clone(config), there.clone());
        let (group, since_ms) = (format!("{}.effects", config.name), shared.started_ms);
        blocking(move || Scan::new(&config, &group)?.offsets_at(&there, since_ms)).await?
    };
    let mut beginnings = Vec::with_capacity(there.len());
    for (at, since) in there.into_iter().zip(since) {
        let (low, high) = shared.discovery.bounds(&at.topic, at.partition).await?;
        let sent = sent.as_deref().and_then(|sent| end(sent, &at));
        let begin = [since, sent].into_iter().flatten().fold(high, i64::min);
        beginnings.push((at, begin.max(low)));
    }
    Ok(beginnings)
}

/// The sender's position, if there is one.
async fn sent_position(config: &Loaded, shared: &Shared, topics: &Topics) -> Option<Arc<Position>> {
    let mut position = shared.position.clone();
    if topics.contains_key(&positions::topic(config)) {
        let read = position.wait_for(Option::is_some);
        // One that does not come is told by others.
        let _ = timeout(POSITION_WAIT, read).await;
    }
    let read = position.borrow();
    read.clone()
}

fn end(position: &Position, at: &TopicPartition) -> Option<i64> {
    let ends = position.ends.get(&*at.topic)?;
    ends.end.get(usize::try_from(at.partition).ok()?).copied()
}
