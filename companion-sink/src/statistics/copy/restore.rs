//! Brings a store to what the changelog says: a new one from its beginning, another one from where it is. It goes on where it
//! was ended.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Result, kafka_failed};
use crate::kafka::client::{Silent, configuration_error};
use crate::progress::Progress;
use crate::statistics::copy::changelog::{ChangelogPlace, TOMBSTONES};
use crate::statistics::kept::store::{Mark, Store, Written};
use crate::timestamp::now_us;

const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Silence for so long means that Kafka is away.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Changes that are written together.
const STEP_BYTES: usize = 8 << 20;
/// Fewer records are no matter for a bar.
const SHOWN_FROM: i64 = 10_000;

/// A reading of the changelog, up to where it ends.
pub(crate) struct Restore<'s> {
    store: &'s Store,
    place: &'s ChangelogPlace,
    consumer: BaseConsumer<Silent>,
    mark: Mark,
    begun_ms: i64,
    first: i64,
    end: i64,
    heard_at: Instant,
    progress: Option<Progress>,
}

impl<'s> Restore<'s> {
    /// Begins where the store is; at the beginning, where it has not been for so long that deletions may be forgotten.
    pub(crate) fn begin(place: &'s ChangelogPlace, store: &'s Store) -> Result<Restore<'s>> {
        let begun_ms = now_us() / 1000;
        let consumer: BaseConsumer<Silent> = place
            .reader
            .create_with_context(Silent)
            .map_err(|error| configuration_error(&error))?;
        let failed = |error| kafka_failed(&format!("reading {}", place.topic), &error);
        let (low, high) = consumer
            .fetch_watermarks(&place.topic, 0, WATERMARKS_TIMEOUT)
            .map_err(failed)?;
        let fresh = Mark {
            next_offset: low,
            read_at_ms: begun_ms,
        };
        let old_after_ms = (TOMBSTONES / 2).as_millis() as i64;
        let mark = match store.mark()? {
            None => fresh,
            Some(mark) => {
                // The end of its last transaction is no record.
                let is_old =
                    begun_ms - mark.read_at_ms > old_after_ms && high - mark.next_offset > 1;
                // Cut, or made anew.
                let is_elsewhere = mark.next_offset > high;
                if is_old || is_elsewhere {
                    tracing::warn!(
                        topic = place.topic,
                        "the store does not fit to the changelog any more and is made anew from it"
                    );
                    store.clear()?;
                    fresh
                } else {
                    mark
                }
            }
        };
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&place.topic, 0, Offset::Offset(mark.next_offset.max(low)))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(failed)?;
        let is_long = high - mark.next_offset.max(low) >= SHOWN_FROM;
        let progress = is_long.then(|| {
            let mut progress = Progress::of_run();
            progress.set_stage("restoring the figures");
            progress.set_total((high - mark.next_offset.max(low)).unsigned_abs());
            progress
        });
        Ok(Restore {
            store,
            place,
            consumer,
            mark,
            begun_ms,
            first: mark.next_offset.max(low),
            end: high,
            heard_at: Instant::now(),
            progress,
        })
    }

    /// Reads and writes the next part; whether the end is reached.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let mut written = Written::new();
        let mut bytes = 0;
        let mut is_at_end = false;
        let began = Instant::now();
        while bytes < STEP_BYTES && began.elapsed() < Duration::from_secs(1) {
            match self.consumer.poll(POLL) {
                None => {
                    if self.heard_at.elapsed() > SILENCE_MAX {
                        return Err(kafka_failed(
                            &format!("reading {}", self.place.topic),
                            &KafkaError::Canceled,
                        ));
                    }
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    is_at_end = true;
                    break;
                }
                Some(Err(error)) => {
                    return Err(kafka_failed(
                        &format!("reading {}", self.place.topic),
                        &error,
                    ));
                }
                Some(Ok(message)) => {
                    self.heard_at = Instant::now();
                    self.mark.next_offset = message.offset() + 1;
                    let Some(key) = message.key() else { continue };
                    let value = message.payload().map(<[u8]>::to_vec);
                    bytes += key.len() + value.as_ref().map_or(0, Vec::len);
                    written.insert(key.to_vec(), value);
                }
            }
        }
        if is_at_end {
            self.mark.read_at_ms = self.begun_ms;
        }
        if is_at_end || !written.is_empty() {
            self.store.write_durably(&written, self.mark)?;
        }
        let done = (self.mark.next_offset - self.first).unsigned_abs();
        if let Some(progress) = &mut self.progress {
            progress.show(done);
            if is_at_end {
                progress.clear();
            }
        }
        if is_at_end && self.end - self.first >= SHOWN_FROM {
            tracing::info!(
                topic = self.place.topic,
                records = done,
                "the figures are restored"
            );
        }
        Ok(is_at_end)
    }
}
