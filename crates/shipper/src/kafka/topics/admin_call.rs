//! One call of librdkafka's admin interface.

use std::ffi::{CStr, c_char};

use rdkafka::bindings as rd;
use rdkafka::bindings::rd_kafka_resp_err_t as KafkaCode;

use super::design::TopicError;

/// For one answer.
pub(super) const TIMEOUT_MS: i32 = 10_000;

/// A queue and options of one admin call, freed at its end.
pub(super) struct Call {
    pub(super) queue: *mut rd::rd_kafka_queue_t,
    pub(super) options: *mut rd::rd_kafka_AdminOptions_t,
}

impl Call {
    /// # Safety
    /// `client` is a live handle, and stays one until the call is dropped.
    pub(super) unsafe fn new(client: *mut rd::rd_kafka_t, kind: rd::rd_kafka_admin_op_t) -> Call {
        // SAFETY: a live handle; both objects are freed on drop.
        unsafe {
            let options = rd::rd_kafka_AdminOptions_new(client, kind);
            let mut message = [0 as c_char; 256];
            rd::rd_kafka_AdminOptions_set_request_timeout(
                options,
                TIMEOUT_MS,
                message.as_mut_ptr(),
                message.len(),
            );
            Call {
                queue: rd::rd_kafka_queue_new(client),
                options,
            }
        }
    }

    /// Waits for the answer and reads it.
    ///
    /// # Safety
    /// `read` reads the event as one of the operation that was asked for.
    pub(super) unsafe fn answer<R>(
        &self,
        read: impl FnOnce(*mut rd::rd_kafka_event_t) -> Result<R, TopicError>,
    ) -> Result<R, TopicError> {
        // SAFETY: the event is freed after it was read.
        unsafe {
            let event = rd::rd_kafka_queue_poll(self.queue, TIMEOUT_MS + 1000);
            if event.is_null() {
                return Err(TopicError {
                    code: KafkaCode::RD_KAFKA_RESP_ERR__TIMED_OUT,
                    message: "the broker did not answer".to_owned(),
                });
            }
            let code = rd::rd_kafka_event_error(event);
            let result = if code == KafkaCode::RD_KAFKA_RESP_ERR_NO_ERROR {
                read(event)
            } else {
                Err(TopicError {
                    code,
                    message: text(rd::rd_kafka_event_error_string(event)),
                })
            };
            rd::rd_kafka_event_destroy(event);
            result
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe {
            rd::rd_kafka_AdminOptions_destroy(self.options);
            rd::rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// A copy of a text of librdkafka.
///
/// # Safety
/// `pointer` is null, or points to a zero-ended string.
pub(super) unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        String::new()
    } else {
        // SAFETY: null or a zero-ended string of librdkafka.
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned()
    }
}
