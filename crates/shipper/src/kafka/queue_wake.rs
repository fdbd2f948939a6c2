//! Waiting for a client's events (delivery reports, errors) without polling for them.

use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::util::Timeout;

use crate::wake::EventFd;

/// The main queue of a producer makes a descriptor readable while it has something. To be dropped before its producer, and
/// before the descriptor can go away.
pub(crate) struct QueueWake(*mut rd::rd_kafka_queue_t);

impl QueueWake {
    pub(crate) fn enable<C: ProducerContext + 'static>(
        producer: &BaseProducer<C>,
        wake: &EventFd,
    ) -> QueueWake {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the client lives longer than this value; the payload is copied, eight bytes as an eventfd wants.
        unsafe {
            let queue = rd::rd_kafka_queue_get_main(producer.client().native_ptr());
            rd::rd_kafka_queue_io_event_enable(
                queue,
                wake.raw().as_raw_fd(),
                one.as_ptr().cast(),
                one.len(),
            );
            QueueWake(queue)
        }
    }

    /// Serves what the queue has, to the last event: the descriptor is signalled only when it was empty before.
    pub(crate) fn serve<C: ProducerContext + 'static>(&self, producer: &BaseProducer<C>) {
        // SAFETY: the queue lives as long as `self`.
        while unsafe { rd::rd_kafka_queue_length(self.0) } > 0 {
            producer.poll(Timeout::After(Duration::ZERO));
        }
    }
}

impl Drop for QueueWake {
    fn drop(&mut self) {
        // SAFETY: enabled above, disabled once.
        unsafe {
            rd::rd_kafka_queue_io_event_enable(self.0, -1, ptr::null(), 0);
            rd::rd_kafka_queue_destroy(self.0);
        }
    }
}
