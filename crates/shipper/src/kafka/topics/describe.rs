//! What the brokers say of a topic: its id and partitions, who may do what with it, and its settings.

use rdkafka::bindings as rd;
use rdkafka::bindings::rd_kafka_resp_err_t as KafkaCode;
use rdkafka::client::{Client, ClientContext};

use super::admin_call::{Call, text};
use super::design::{TopicError, Use};
use super::name::TopicName;

/// A topic as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    pub topic_id: String,
    pub partitions: i32,
    /// Of the partition that has the fewest.
    pub replicas: usize,
}

/// Describes a topic; an error where its user may not do with it what is to be done.
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    usage: Use,
) -> Result<Described, TopicError> {
    let (client, name) = (client.native_ptr(), TopicName::new(name));
    // SAFETY: a live handle; the collection is freed; the description is read before its event is freed.
    unsafe {
        let call = Call::new(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        // Null: this operation has the option.
        rd::rd_kafka_AdminOptions_set_include_authorized_operations(call.options, 1);
        let mut names = [name.as_c_str().as_ptr()];
        let collection = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        rd::rd_kafka_DescribeTopics(client, collection, call.options, call.queue);
        rd::rd_kafka_TopicCollection_destroy(collection);
        call.answer(|event| {
            let mut count = 0;
            let topics = rd::rd_kafka_DescribeTopics_result_topics(
                rd::rd_kafka_event_DescribeTopics_result(event),
                &mut count,
            );
            if topics.is_null() || count == 0 {
                return Err(TopicError {
                    code: KafkaCode::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                    message: "the broker described no topic".to_owned(),
                });
            }
            read_description(*topics, usage)
        })
    }
}

/// # Safety
/// The event that `topic` is of lives.
unsafe fn read_description(
    topic: *const rd::rd_kafka_TopicDescription_t,
    usage: Use,
) -> Result<Described, TopicError> {
    // SAFETY: as the caller promises; what the description has lives as long.
    unsafe {
        let error = rd::rd_kafka_TopicDescription_error(topic);
        let code = rd::rd_kafka_error_code(error);
        if code != KafkaCode::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(TopicError {
                code,
                message: text(rd::rd_kafka_error_string(error)),
            });
        }
        let mut count = 0;
        let allowed = rd::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
        // Brokers before 2.3 do not say.
        if !allowed.is_null() && count > 0 {
            let allowed = std::slice::from_raw_parts(allowed, count);
            let mut rights = usage.rights().iter();
            if let Some((right, _)) = rights.find(|(_, right)| !allowed.contains(right)) {
                return Err(TopicError {
                    code: KafkaCode::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                    message: format!("{right} is not allowed"),
                });
            }
        }
        let mut partitions = 0;
        let infos = rd::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let replicas = (0..partitions).map(|index| {
            let mut replicas = 0;
            rd::rd_kafka_TopicPartitionInfo_replicas(*infos.add(index), &mut replicas);
            replicas
        });
        let replicas = replicas.min().unwrap_or_default();
        // Kafka's own tools print ids in the alphabet for URLs, without padding.
        let topic_id = text(rd::rd_kafka_Uuid_base64str(
            rd::rd_kafka_TopicDescription_topic_id(topic),
        ));
        let topic_id = topic_id
            .trim_end_matches('=')
            .replace('+', "-")
            .replace('/', "_");
        Ok(Described {
            topic_id,
            partitions: partitions as i32,
            replicas,
        })
    }
}

/// Some of a topic's settings as they count, the broker's defaults included.
pub(crate) fn settings<C: ClientContext, const N: usize>(
    client: &Client<C>,
    name: &str,
    wanted: [&str; N],
) -> Result<[String; N], TopicError> {
    let (client, name) = (client.native_ptr(), TopicName::new(name));
    // SAFETY: a live handle; the resource is freed; the result is read before its event is freed.
    unsafe {
        let resource = rd::rd_kafka_ConfigResource_new(
            rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            name.as_c_str().as_ptr(),
        );
        let call = Call::new(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS,
        );
        let mut resources = [resource];
        rd::rd_kafka_DescribeConfigs(client, resources.as_mut_ptr(), 1, call.options, call.queue);
        rd::rd_kafka_ConfigResource_destroy(resource);
        call.answer(|event| {
            let mut count = 0;
            let resources = rd::rd_kafka_DescribeConfigs_result_resources(
                rd::rd_kafka_event_DescribeConfigs_result(event),
                &mut count,
            );
            let unknown = |code, message: String| TopicError { code, message };
            if resources.is_null() || count == 0 {
                return Err(unknown(
                    KafkaCode::RD_KAFKA_RESP_ERR_UNKNOWN,
                    "the broker described no topic".to_owned(),
                ));
            }
            let code = rd::rd_kafka_ConfigResource_error(*resources);
            if code != KafkaCode::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(unknown(
                    code,
                    text(rd::rd_kafka_ConfigResource_error_string(*resources)),
                ));
            }
            let mut count = 0;
            let entries = rd::rd_kafka_ConfigResource_configs(*resources, &mut count);
            let mut values = [const { String::new() }; N];
            for (value, wanted) in values.iter_mut().zip(wanted) {
                let found = (0..count)
                    .map(|index| *entries.add(index))
                    .find(|entry| text(rd::rd_kafka_ConfigEntry_name(*entry)) == wanted);
                let Some(entry) = found else {
                    return Err(unknown(
                        KafkaCode::RD_KAFKA_RESP_ERR_UNKNOWN,
                        format!("the broker did not tell {wanted}"),
                    ));
                };
                *value = text(rd::rd_kafka_ConfigEntry_value(entry));
            }
            Ok(values)
        })
    }
}

/// What a topic's settings allow, and promise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of a batch: what the topic takes, and what a segment of it holds.
    pub max_message_bytes: usize,
    pub min_in_sync: usize,
    pub is_compacted: bool,
}

/// Reads them.
pub(crate) fn limits<C: ClientContext>(
    client: &Client<C>,
    name: &str,
) -> Result<Limits, TopicError> {
    let wanted = [
        "max.message.bytes",
        "min.insync.replicas",
        "segment.bytes",
        "cleanup.policy",
    ];
    let values = settings(client, name, wanted)?;
    let [max_message_bytes, min_in_sync, segment_bytes, policy] = values;
    let number = |name: &str, value: &str| {
        value.parse::<usize>().map_err(|_| TopicError {
            code: KafkaCode::RD_KAFKA_RESP_ERR_UNKNOWN,
            message: format!("{name} is {value}"),
        })
    };
    Ok(Limits {
        max_message_bytes: number(wanted[0], &max_message_bytes)?
            .min(number(wanted[2], &segment_bytes)?),
        min_in_sync: number(wanted[1], &min_in_sync)?,
        is_compacted: policy.split(',').any(|part| part == "compact"),
    })
}
