//! Takes the position over, through a producer of the caller's.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::time::Duration;

use change::code::Code;
use change::trouble::Trouble;
use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use super::reader;
use super::record::RecordMaker;
use super::take_over::{claim, refuse_stranger};
use super::transaction::CALL_TIMEOUT;
use super::write_error::WriteError;
use crate::kafka::topics::design::{self, Design, Use};
use crate::kafka::topics::{create, describe};
use crate::session::Session;

/// For the names of all topics.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
const CLUSTER_ID_TIMEOUT_MS: i32 = 5000;
/// Segments of the position topic are small, so that compaction keeps it small and starting is fast.
const SEGMENT_BYTES: u32 = 16 * 1024 * 1024;

/// Makes the topic where it is missing. Looks whether the name is another source's, which must not be fenced; then fences
/// earlier senders of this one, and reads what they left, to the end: in this order nothing can come between. The epoch of
/// this sender and what it found stand on the board afterwards.
pub(crate) fn take_over<'a, C: ProducerContext + 'static>(
    session: &'a Session,
    producer: &BaseProducer<C>,
) -> Result<RecordMaker<'a>, WriteError> {
    prepare(session, producer)?;
    let cluster_id = cluster_id(producer.client());
    refuse_stranger(session, &reader::read(session)?)?;
    fence(session, producer)?;
    let claim = claim(session, &cluster_id, &reader::read(session)?)?;
    let mut records = RecordMaker::new(session, cluster_id, &claim);
    forget_deleted(session, producer, &mut records);
    session.board.tell(|facts| {
        facts.went_through();
        facts.start = Some((claim.newest.map(Box::new), claim.epoch));
    });
    Ok(records)
}

/// Makes the topic where it is missing. Fences nobody yet.
pub(super) fn prepare<C: ProducerContext + 'static>(
    session: &Session,
    producer: &BaseProducer<C>,
) -> Result<(), WriteError> {
    let (settings, topic) = (&session.settings, session.position_topic());
    let design = Design {
        usage: Use::Positions,
        create: settings.create_topics,
        partitions: 1,
        replication_factor: settings.replication_factor,
        configs: vec![
            (c"cleanup.policy", "compact".to_owned()),
            (c"segment.bytes", SEGMENT_BYTES.to_string()),
            (c"min.cleanable.dirty.ratio", "0.1".to_owned()),
        ],
    };
    // librdkafka asks for the first token.
    producer.poll(Duration::ZERO);
    create::ensure(producer.client(), &topic, &design).map_err(|error| {
        WriteError::Again(design::trouble(&error, &settings.brokers, &topic, &design))
    })?;
    refuse_deletion(session, producer.client(), &topic, &design)
}

/// Empty where the brokers do not say.
fn cluster_id<C: ClientContext>(client: &Client<C>) -> String {
    let handle = client.native_ptr();
    // SAFETY: the handle is live; the text is librdkafka's own until it is freed here.
    unsafe {
        let id = rd::rd_kafka_clusterid(handle, CLUSTER_ID_TIMEOUT_MS);
        if id.is_null() {
            return String::new();
        }
        let text = CStr::from_ptr(id).to_string_lossy().into_owned();
        rd::rd_kafka_mem_free(handle, id.cast());
        text
    }
}

/// A topic that deletes by age would lose the position of a source that rests for long.
fn refuse_deletion<C: ClientContext>(
    session: &Session,
    client: &Client<C>,
    topic: &str,
    design: &Design,
) -> Result<(), WriteError> {
    match describe::settings(client, topic, ["cleanup.policy"]) {
        Ok([policy]) if policy != "compact" => Err(WriteError::Again(Trouble::new(
            Code::PositionNotTrusted,
            format!("topic \"{topic}\" has cleanup.policy={policy}: it would lose the position"),
            format!(
                "Set cleanup.policy=compact with kafka-configs.sh. Its settings are those of: {}",
                design::command(&session.settings.brokers, topic, design)
            ),
        ))),
        // Who may not look is not stopped for it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Initialises the transactional id: every earlier producer of it is fenced from here on.
pub(super) fn fence<C: ProducerContext + 'static>(
    session: &Session,
    producer: &BaseProducer<C>,
) -> Result<(), WriteError> {
    producer
        .init_transactions(CALL_TIMEOUT)
        .map_err(|error| WriteError::of(session, &error, "init_transactions"))
}

/// Forgets topics whose tables are not tracked any more and which somebody has deleted: else they would be in positions for
/// ever.
fn forget_deleted<C: ProducerContext + 'static>(
    session: &Session,
    producer: &BaseProducer<C>,
    records: &mut RecordMaker<'_>,
) {
    if !records.has_untracked() {
        return;
    }
    // What is not known now, the next sender finds out.
    let Ok(metadata) = producer.client().fetch_metadata(None, METADATA_TIMEOUT) else {
        return;
    };
    let there: BTreeSet<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
    let counters = session.host.topic_counters;
    for topic in records.forget_untracked(|topic| there.contains(topic)) {
        if let Some(counter) = counters.claim(&topic) {
            counter.belongs_to(0);
        }
    }
}
