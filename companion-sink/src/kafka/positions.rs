//! The sender's positions: up to which commit everything is in Kafka, and where the topics end there.
//!
//! Read from the end of `<source>.cdc_positions`, for most of it is older than the newest full record. Only a server of the
//! source can check the seal of a record; whoever may write the topic is trusted here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use change::position::{FORMAT, Parts, Position, Record};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch;

use crate::config::Loaded;
use crate::error::{Result, kafka_failed, log, misconfigured};
use crate::kafka::client;
use crate::kafka::client::Silent;
use crate::kafka::client::{configuration_error, is_missing};
use crate::timestamp::now_us;

/// Fetched ahead; a position is some hundred bytes and a few for each topic.
const MEMORY_BYTES: u64 = 4 << 20;
/// Records from the end that are read first; if there is no full one among them, so many times more.
const FIRST_WINDOW: i64 = 64;
const WIDER: i64 = 16;
/// How long a poll waits before it is looked whether anybody still wants positions.
const POLL: Duration = Duration::from_secs(1);
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
const REPEAT_WARNING: Duration = Duration::from_secs(30);

/// The newest position; none until one was read.
pub(crate) type Newest = watch::Receiver<Option<Arc<Position>>>;

/// Seconds since the sender wrote a position.
pub(crate) fn age_seconds(position: &Position) -> f64 {
    now_us().saturating_sub(position.sent_ts_us).max(0) as f64 / 1e6
}

/// The topic that has them.
pub(crate) fn topic(config: &Loaded) -> String {
    format!("{}.cdc_positions", config.kafka.source_name)
}

/// Follows the positions of the source, on a thread of its own, until the last receiver is gone.
pub(crate) fn follow(config: &Loaded) -> Result<Newest> {
    let group = format!("{}.positions", config.name);
    let mut client = client::consumer(config, &group, MEMORY_BYTES);
    client.set("statistics.interval.ms", "0");
    client.set("enable.partition.eof", "true");
    let consumer: BaseConsumer<Silent> = client
        .create_with_context(Silent)
        .map_err(|error| configuration_error(&error))?;
    let topic = topic(config);
    let (sender, newest) = watch::channel(None);
    thread::Builder::new()
        .name("positions".into())
        .spawn(move || follow_forever(&consumer, &topic, &sender))
        .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))?;
    Ok(newest)
}

fn follow_forever(
    consumer: &BaseConsumer<Silent>,
    topic: &str,
    sender: &watch::Sender<Option<Arc<Position>>>,
) {
    let mut warned: Option<Instant> = None;
    while !sender.is_closed() {
        match read(consumer, topic, sender) {
            Ok(()) => return,
            // A source that never had a sender.
            Err(error) if is_missing(&error) => {}
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() > REPEAT_WARNING) {
                    log(&kafka_failed(&format!("reading {topic}"), &error), "");
                    warned = Some(Instant::now());
                }
            }
        }
        thread::sleep(RETRY);
    }
}

/// Until nobody wants positions any more.
fn read(
    consumer: &BaseConsumer<Silent>,
    topic: &str,
    sender: &watch::Sender<Option<Arc<Position>>>,
) -> std::result::Result<(), KafkaError> {
    let (low, high) = consumer.fetch_watermarks(topic, 0, WATERMARKS_TIMEOUT)?;
    let mut window = FIRST_WINDOW;
    let mut known = Known::default();
    let mut parts = Parts::default();
    let assign = |from: i64| {
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Offset(from))?;
        consumer.assign(&assignment)
    };
    assign((high - window).max(low))?;
    // Older ones than the newest are no news to anybody.
    let mut held_back = None;
    let mut is_at_end = false;
    let mut strange: Option<Instant> = None;
    while !sender.is_closed() {
        let message = match consumer.poll(POLL) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(_))) => {
                is_at_end = true;
                if held_back.is_some() {
                    sender.send_replace(held_back.take());
                }
                continue;
            }
            Some(message) => message?,
        };
        // The end of a partition that is always written to is never reached: where it was at the beginning will do. Behind the
        // last record lies the marker of its transaction.
        is_at_end |= message.offset() + 2 >= high;
        let position = message
            .payload()
            .and_then(|bytes| serde_json::from_slice::<Position>(bytes).ok());
        let Some(position) = position.filter(is_position) else {
            // Whoever may write the topic must not fill the log.
            if strange.is_none_or(|at| at.elapsed() > REPEAT_WARNING) {
                tracing::warn!(
                    topic,
                    offset = message.offset(),
                    "a record is not a position and is ignored"
                );
                strange = Some(Instant::now());
            }
            continue;
        };
        // A part of a position whose beginning lies before the window adds to nothing, as a tip does without its full record.
        let is_rest = position.part.is_some_and(|part| part.number > 0) && parts.is_empty();
        let taken = match parts.take(position) {
            Some(whole) => known.take(whole),
            None if is_rest => Taken::FullIsMissing,
            None => Taken::Nothing,
        };
        match taken {
            Taken::Newer(position) => held_back = Some(position),
            Taken::Nothing => {}
            Taken::FullIsMissing if high - window > low => {
                window *= WIDER;
                known = Known::default();
                parts = Parts::default();
                assign((high - window).max(low))?;
            }
            // The full record comes: the sender writes one when it starts, and now and then.
            Taken::FullIsMissing => {}
        }
        if is_at_end && held_back.is_some() {
            sender.send_replace(held_back.take());
        }
    }
    Ok(())
}

/// Whether a record says what a sender can say.
fn is_position(position: &Position) -> bool {
    let are_ends = position.ends.values().all(|ends| {
        usize::try_from(ends.partitions).is_ok_and(|partitions| partitions == ends.end.len())
            && ends.end.iter().all(|end| *end >= 0)
    });
    position.format == FORMAT && position.timeline > 0 && position.effective_ts_us >= 0 && are_ends
}

/// What was read so far.
#[derive(Default)]
struct Known {
    full: Option<Position>,
    newest_rank: (u64, u32, u64),
    /// Topics that were put aside when that was last said.
    aside: BTreeMap<String, String>,
}

enum Taken {
    /// A newer position, with all ends.
    Newer(Arc<Position>),
    /// What is known is as new, or it is no position.
    Nothing,
    /// It adds to a full record that was not read.
    FullIsMissing,
}

impl Known {
    /// Says which topics have nothing more though the position goes on: their tables are as of that commit.
    fn tell_asides(&mut self, position: &Position) {
        if self.aside == position.aside {
            return;
        }
        for (topic, from) in &position.aside {
            if !self.aside.contains_key(topic) {
                tracing::warn!(
                    topic,
                    from,
                    "the sender has put the topic aside: its events are missing from this commit on, see cdc_aside at the source"
                );
            }
        }
        for topic in self.aside.keys() {
            if !position.aside.contains_key(topic) {
                tracing::info!(topic, "the topic goes on; a snapshot repairs it");
            }
        }
        self.aside.clone_from(&position.aside);
    }

    fn take(&mut self, position: Position) -> Taken {
        if position.record == Record::Claim || position.rank() < self.newest_rank {
            return Taken::Nothing;
        }
        let whole = match (&position.record, &self.full) {
            (Record::Tip, Some(full)) if position.full == Some(full.commit_lsn) => {
                let mut ends = full.ends.clone();
                ends.extend(position.ends.clone());
                Position { ends, ..position }
            }
            (Record::Tip, _) => return Taken::FullIsMissing,
            _ => {
                self.full = Some(position.clone());
                position
            }
        };
        self.newest_rank = whole.rank();
        self.tell_asides(&whole);
        Taken::Newer(Arc::new(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(
        kind: &str,
        epoch: u64,
        lsn: &str,
        full: Option<&str>,
        ends: serde_json::Value,
    ) -> Position {
        let mut position = serde_json::json!({
            "format": 1, "record": kind, "source": "s", "name": "pg", "generation": 1, "epoch": epoch, "timeline": 1,
            "timeline_start": "0/0", "commit_lsn": lsn, "restart_lsn": lsn, "nonce": "", "events": {"done": 1, "of": 1},
            "effective_ts_us": 1, "sent_ts_us": 2, "heartbeat_ms": 10000, "node": "db1", "cluster_id": "k", "ends": ends,
            "mac": "",
        });
        if let Some(full) = full {
            position["full"] = full.into();
        }
        serde_json::from_value(position).unwrap()
    }

    fn ends(of: &[(&str, i64)]) -> serde_json::Value {
        let ends = of.iter().map(|(topic, end)| {
            let ends = serde_json::json!({"topic_id": "x", "partitions": 1, "end": [end]});
            ((*topic).to_owned(), ends)
        });
        serde_json::Value::Object(ends.collect())
    }

    #[test]
    fn what_no_sender_says_is_no_position() {
        let good = || record("full", 2, "0/20", None, ends(&[("a", 1)]));
        assert!(is_position(&good()));
        let wrong = |change: fn(&mut Position)| {
            let mut position = good();
            change(&mut position);
            !is_position(&position)
        };
        assert!(wrong(|position| position.format = 9));
        assert!(wrong(|position| position.timeline = 0));
        assert!(wrong(|position| position.effective_ts_us = i64::MIN));
        assert!(wrong(
            |position| position.ends.get_mut("a").unwrap().end = vec![]
        ));
        assert!(wrong(
            |position| position.ends.get_mut("a").unwrap().end = vec![-1]
        ));
        let mut known = Known::default();
        let mut newest = good();
        newest.epoch = u64::MAX;
        newest.sent_ts_us = i64::MIN;
        assert!(age_seconds(&newest) > 0.0);
        assert!(matches!(known.take(newest), Taken::Newer(_)));
    }

    #[test]
    fn a_tip_adds_to_its_full_record_and_nothing_goes_back() {
        let mut known = Known::default();
        let tip = |lsn, full| record("tip", 2, lsn, Some(full), ends(&[("b", 9)]));
        assert!(matches!(
            known.take(tip("0/30", "0/20")),
            Taken::FullIsMissing
        ));
        let full = record("full", 2, "0/20", None, ends(&[("a", 1), ("b", 2)]));
        assert!(matches!(known.take(full), Taken::Newer(_)));
        let Taken::Newer(newest) = known.take(tip("0/30", "0/20")) else {
            panic!("a newer one");
        };
        assert_eq!((newest.ends["a"].end[0], newest.ends["b"].end[0]), (1, 9));
        let of_replaced = record("full", 1, "0/99", None, ends(&[]));
        let claim = record("claim", 3, "0/0", None, ends(&[]));
        for older in [of_replaced, claim, tip("0/28", "0/20")] {
            assert!(matches!(known.take(older), Taken::Nothing));
        }
    }
}
