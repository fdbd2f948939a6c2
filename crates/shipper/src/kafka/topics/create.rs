//! Makes topics.

use std::ffi::{CString, c_char};
use std::time::{Duration, Instant};

use rdkafka::bindings as rd;
use rdkafka::bindings::rd_kafka_resp_err_t as KafkaCode;
use rdkafka::client::{Client, ClientContext};

use super::admin_call::{Call, TIMEOUT_MS, text};
use super::describe::{Described, describe};
use super::design::{Design, MAX_MESSAGE_BYTES, TopicError, Use};
use super::name::TopicName;

/// Until a new topic is asked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Describes a topic; makes it first if it is missing. A topic that may not be used as it is to be is an error: found out
/// by writing, that would cost the producer.
pub(crate) fn ensure<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    design: &Design,
) -> Result<Described, TopicError> {
    match describe(client, name, design.usage) {
        Err(error) if design.create && error.is_missing() => {
            match create(client, name, design) {
                // Where no such size is allowed, the broker's own limit has to do.
                Err(error) if error.is_refused_setting() => {
                    let mut smaller = design.clone();
                    smaller
                        .configs
                        .retain(|(config, _)| *config != MAX_MESSAGE_BYTES);
                    create(client, name, &smaller)?;
                }
                created => created?,
            }
            describe_new(client, name, design.usage)
        }
        described => described,
    }
}

/// A topic that was just made may take a moment until every broker knows it.
fn describe_new<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    usage: Use,
) -> Result<Described, TopicError> {
    let start = Instant::now();
    loop {
        match describe(client, name, usage) {
            Err(error)
                if error.is_missing() && start.elapsed().as_millis() < TIMEOUT_MS as u128 =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            described => return described,
        }
    }
}

fn create<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    design: &Design,
) -> Result<(), TopicError> {
    let (client, name) = (client.native_ptr(), TopicName::new(name));
    let mut message = [0 as c_char; 256];
    // SAFETY: a live handle; the new topic is freed; the result is read before its event is freed.
    unsafe {
        let topic = rd::rd_kafka_NewTopic_new(
            name.as_c_str().as_ptr(),
            design.partitions,
            design.replication_factor,
            message.as_mut_ptr(),
            message.len(),
        );
        if topic.is_null() {
            return Err(TopicError {
                code: KafkaCode::RD_KAFKA_RESP_ERR__INVALID_ARG,
                message: text(message.as_ptr()),
            });
        }
        for (config, value) in &design.configs {
            let value = CString::new(value.as_str()).unwrap_or_default();
            rd::rd_kafka_NewTopic_set_config(topic, config.as_ptr(), value.as_ptr());
        }
        let call = Call::new(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS,
        );
        let mut topics = [topic];
        rd::rd_kafka_CreateTopics(client, topics.as_mut_ptr(), 1, call.options, call.queue);
        rd::rd_kafka_NewTopic_destroy(topic);
        call.answer(|event| {
            let mut count = 0;
            let results = rd::rd_kafka_CreateTopics_result_topics(
                rd::rd_kafka_event_CreateTopics_result(event),
                &mut count,
            );
            for index in 0..count {
                let result = *results.add(index);
                let code = rd::rd_kafka_topic_result_error(result);
                let existed = code == KafkaCode::RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS;
                if code != KafkaCode::RD_KAFKA_RESP_ERR_NO_ERROR && !existed {
                    return Err(TopicError {
                        code,
                        message: text(rd::rd_kafka_topic_result_error_string(result)),
                    });
                }
            }
            Ok(())
        })
    }
}
