//! The transaction that a position is written in.

use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::record::Prepared;
use super::write_error::WriteError;
use crate::kafka::queue_wake::QueueWake;
use crate::session::Session;
use crate::wake::EventFd;

/// For one call about a transaction.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The end of a session is looked for so often while an acknowledgement does not come.
const ACKNOWLEDGEMENT_MS: i32 = 1000;

pub(crate) fn begin<C: ProducerContext + 'static>(
    session: &Session,
    producer: &BaseProducer<C>,
) -> Result<(), WriteError> {
    producer
        .begin_transaction()
        .map_err(|error| WriteError::of(session, &error, "begin_transaction"))
}

/// Sends a position in the open transaction, and commits when it is acknowledged. `queue` and `wake` are the producer's.
pub(crate) fn commit<C: ProducerContext + 'static>(
    session: &Session,
    producer: &BaseProducer<C>,
    queue: &QueueWake,
    wake: &EventFd,
    prepared: &Prepared,
    opaque: C::DeliveryOpaque,
) -> Result<(), WriteError>
where
    C::DeliveryOpaque: Copy,
{
    let topic = session.position_topic();
    for (key, value) in prepared.records() {
        let record = BaseRecord::with_opaque_to(&topic, opaque)
            .partition(0)
            .key(key)
            .payload(value);
        producer
            .send(record)
            .map_err(|(error, _)| WriteError::of(session, &error, "position record"))?;
    }
    // What `commit_transaction` does about it itself takes a tenth of a second at least (`BaseProducer::flush`).
    let start = Instant::now();
    loop {
        queue.serve(producer);
        let is_late = start.elapsed() > CALL_TIMEOUT || session.is_over();
        if producer.in_flight_count() == 0 || is_late {
            break;
        }
        wake.wait(ACKNOWLEDGEMENT_MS);
    }
    // -1 would wait as long as the broker's own limit does.
    producer
        .commit_transaction(CALL_TIMEOUT)
        .map_err(|error| WriteError::of(session, &error, "commit_transaction"))
}
