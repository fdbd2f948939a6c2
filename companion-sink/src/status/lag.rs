//! How far each sink is behind what Kafka holds, measured beside the sinks: also of one that is halted, that cannot reach its
//! target, or whose target hangs.
//!
//! Kafka is asked where the partitions end; how far a sink is, it says whenever it moves. Of a sink that has not reached its
//! target since the process started, the copies of its offsets in the consumer group say it; where there are none, nothing is
//! known to be applied. What cannot be known is shown as unknown, and never as 0.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use tokio::sync::watch;

use crate::config;
use crate::config::topic_pattern::follows;
use crate::config::{Consistency, Kind, Loaded};
use crate::error::{Result, misconfigured};
use crate::kafka::client;
use crate::kafka::client::Silent;
use crate::kafka::discovery::Cluster;
use crate::kafka::discovery::Topics;
use crate::kafka::offsets;
use crate::kafka::reader::TopicPartition;
use crate::status::ends::TopicEnds;
use crate::status::ends::committed;
use crate::status::ends::first_time_us;
use crate::status::{Lag, SinkStatus, State};
use crate::timestamp::now_us;

const INTERVAL: Duration = Duration::from_secs(1);
/// A sink that starts knows its positions by then.
const STARTS_WITHIN: Duration = Duration::from_secs(3);
/// How often the consumer group is asked, where that is needed.
const ASK_GROUP: Duration = Duration::from_secs(5);
/// First events of partitions that are looked at in one round.
const READS_MAX: usize = 8;
const MEMORY_BYTES: u64 = 1 << 20;

/// A sink that is watched.
struct Watched {
    status: SinkStatus,
    topics: Vec<String>,
    is_shared: bool,
    stuck_after: Duration,
    /// Its consumer group's name, and who asks about it.
    group: String,
    asking: Option<BaseConsumer<Silent>>,
    asked_at: Option<Instant>,
    committed: Option<HashMap<TopicPartition, i64>>,
    /// Since when partitions are there of which the sink says nothing.
    unknown_since: Option<Instant>,
}

/// Watches the sinks `statuses`, on a thread of its own, until `stop`.
pub(crate) fn watch(
    config: &Arc<Loaded>,
    statuses: &[SinkStatus],
    cluster: watch::Receiver<Cluster>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let sinks = statuses.iter().filter_map(|status| {
        let sink = config.sinks.get(&status.name)?;
        Some(Watched::new(config, status, sink))
    });
    let mut measuring = Measuring {
        sinks: sinks.collect(),
        asking: client::asking(config)?,
        reading: None,
        config: Arc::clone(config),
        ends: TopicEnds::default(),
        first_times: HashMap::new(),
    };
    let spawned = thread::Builder::new().name("lag".into()).spawn(move || {
        while !*stop.borrow() && stop.has_changed().is_ok() {
            let topics = cluster.borrow().topics.clone();
            measuring.measure(topics.as_deref());
            thread::sleep(INTERVAL);
        }
    });
    spawned
        .map(drop)
        .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))
}

impl Watched {
    fn new(config: &Loaded, status: &SinkStatus, sink: &config::SinkSettings) -> Self {
        Watched {
            status: status.clone(),
            topics: sink.topics.clone(),
            is_shared: matches!(&sink.kind, Kind::Postgres(settings) if settings.consistency == Consistency::Row),
            stuck_after: sink.stuck_after(),
            group: format!("{}.{}", config.name, status.name),
            asking: None,
            asked_at: None,
            committed: None,
            unknown_since: None,
        }
    }

    /// What the consumer group has, asked now and then.
    fn committed(
        &mut self,
        config: &Loaded,
        partitions: &[TopicPartition],
    ) -> Option<&HashMap<TopicPartition, i64>> {
        if self.asked_at.is_none_or(|at| at.elapsed() > ASK_GROUP) {
            self.asked_at = Some(Instant::now());
            if self.asking.is_none() {
                let client = client::consumer(config, &self.group, MEMORY_BYTES);
                self.asking = client.create_with_context(Silent).ok();
            }
            let asking = self.asking.as_ref();
            self.committed = asking.and_then(|client| committed(client, partitions));
        }
        self.committed.as_ref()
    }
}

struct Measuring {
    sinks: Vec<Watched>,
    asking: BaseConsumer,
    reading: Option<BaseConsumer<Silent>>,
    config: Arc<Loaded>,
    ends: TopicEnds,
    /// When the first event from an offset on was written; none where no event is left there.
    first_times: HashMap<(TopicPartition, i64), Option<i64>>,
}

impl Measuring {
    fn measure(&mut self, topics: Option<&Topics>) {
        let followed: Topics = topics
            .into_iter()
            .flatten()
            .filter(|(topic, _)| {
                let mut sinks = self.sinks.iter();
                sinks.any(|sink| follows(&sink.topics, topic))
            })
            .map(|(topic, partitions)| (topic.clone(), *partitions))
            .collect();
        let is_known = topics.is_some() && self.ends.ask(&self.asking, &followed);
        let mut used = HashSet::new();
        let mut reads_left = READS_MAX;
        for place in 0..self.sinks.len() {
            let lag = match is_known {
                true => self.lag_of(place, &followed, &mut used, &mut reads_left),
                false => Lag::Unknown,
            };
            let sink = &self.sinks[place];
            sink.status.set_lag(lag, sink.stuck_after);
        }
        self.first_times.retain(|at, _| used.contains(at));
    }

    fn lag_of(
        &mut self,
        place: usize,
        followed: &Topics,
        used: &mut HashSet<(TopicPartition, i64)>,
        reads_left: &mut usize,
    ) -> Lag {
        let sink = &mut self.sinks[place];
        let state = sink.status.figures().state;
        if matches!(state, State::Standby | State::Stopped) {
            // Another instance has it all, and says how far it is.
            return Lag::Unknown;
        }
        let Some(next) = next_offsets(sink, state, followed, &self.ends, &self.config) else {
            return Lag::Unknown;
        };
        let mut events = 0;
        let mut oldest_us: Option<i64> = None;
        for (at, next) in next {
            let Some(end) = self.ends.end(&at) else {
                return Lag::Unknown;
            };
            if end <= next {
                continue;
            }
            let seen_us = match self.ends.seen_us(&at, next) {
                Some(seen_us) => Some(seen_us),
                None => {
                    let key = (at.clone(), next);
                    used.insert(key.clone());
                    match self.first_time(key, reads_left) {
                        // Only markers of transactions, and what was compacted away.
                        Some(None) => continue,
                        Some(read) => read,
                        None => None,
                    }
                }
            };
            events += u64::try_from(end - next).unwrap_or_default();
            oldest_us = match (oldest_us, seen_us) {
                (Some(oldest), Some(seen)) => Some(oldest.min(seen)),
                (oldest, seen) => oldest.or(seen),
            };
        }
        if events == 0 {
            return Lag::None;
        }
        let seconds = |since: i64| (now_us() - since).max(0) as f64 / 1e6;
        Lag::Some {
            events,
            // Of some partitions it may not be known: what is known is a lower bound, and worth more than nothing.
            seconds: oldest_us.map(seconds),
        }
    }

    /// When the first event from an offset on was written: of those that were there before this process. `None` where that is
    /// not known yet.
    fn first_time(
        &mut self,
        key: (TopicPartition, i64),
        reads_left: &mut usize,
    ) -> Option<Option<i64>> {
        if let Some(known) = self.first_times.get(&key) {
            return Some(*known);
        }
        if *reads_left == 0 {
            return None;
        }
        *reads_left -= 1;
        if self.reading.is_none() {
            let group = format!("{}.lag", self.config.name);
            let mut client = client::consumer(&self.config, &group, MEMORY_BYTES);
            client.set("statistics.interval.ms", "0");
            client.set("enable.partition.eof", "true");
            self.reading = client.create_with_context(Silent).ok();
        }
        let read = first_time_us(self.reading.as_ref()?, &key.0, key.1)?;
        self.first_times.insert(key, read);
        Some(read)
    }
}

/// The offsets that come next for a sink, of all its partitions, or where instances share them and this one runs, of its own.
/// `None` where that cannot be known.
fn next_offsets(
    sink: &mut Watched,
    state: State,
    followed: &Topics,
    ends: &TopicEnds,
    config: &Loaded,
) -> Option<BTreeMap<TopicPartition, i64>> {
    let own = sink.status.positions();
    if sink.is_shared && state == State::Running {
        return Some(own.into_iter().collect());
    }
    let topics = followed
        .iter()
        .filter(|(topic, _)| follows(&sink.topics, topic));
    let all: Vec<TopicPartition> = topics
        .flat_map(|(topic, partitions)| offsets::partitions_of(topic, *partitions))
        .collect();
    // Where instances share partitions, others may have gone on with those that this one had.
    let is_own_enough = !sink.is_shared && all.iter().all(|at| own.contains_key(at));
    if is_own_enough {
        sink.unknown_since = None;
        return Some(all.into_iter().map(|at| (at.clone(), own[&at])).collect());
    }
    let since = *sink.unknown_since.get_or_insert_with(Instant::now);
    if since.elapsed() < STARTS_WITHIN {
        return None;
    }
    let committed = sink.committed(config, &all)?;
    let next = all.into_iter().map(|at| {
        let known = own.get(&at).max(committed.get(&at)).copied();
        let next = known.or_else(|| ends.beginning(&at))?;
        Some((at, next))
    });
    next.collect()
}
