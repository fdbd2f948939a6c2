//! Topics: made by the sender before the first record, never by the broker on its own, and then known by id and count.

use std::ffi::{CStr, CString, c_char};

use rdkafka::bindings as rd;
use rdkafka::bindings::rd_kafka_AclOperation_t as Right;
use rdkafka::bindings::rd_kafka_resp_err_t as Code;

use super::board::Trouble;
use super::client::trouble_of;

/// How a topic is made and used.
#[derive(Debug, Clone)]
pub struct Design {
    pub usage: Use,
    /// Missing ones are made by the sender.
    pub create: bool,
    pub partitions: i32,
    /// -1 for the broker's default.
    pub replication_factor: i32,
    pub configs: Vec<(&'static CStr, String)>,
}

/// A topic as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub topic_id: String,
    pub partitions: i32,
    /// Of the partition that has the fewest.
    pub replicas: usize,
}

/// Why a topic cannot be used.
#[derive(Debug, Clone)]
pub struct TopicError {
    pub code: rd::rd_kafka_resp_err_t,
    pub message: String,
}

impl TopicError {
    pub fn is_missing(&self) -> bool {
        self.code == Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
    }

    /// Kafka takes no topic of this name: it is illegal, or collides with another one.
    pub fn is_refused_name(&self) -> bool {
        self.code == Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION
    }

    /// It lies with this topic, and not with the brokers or the sender's user as a whole.
    pub fn is_of_topic(&self) -> bool {
        self.is_missing()
            || self.is_refused_setting()
            || self.code == Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
    }

    /// The next attempt may succeed, without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        self.is_missing()
            || matches!(
                self.code,
                Code::RD_KAFKA_RESP_ERR__TIMED_OUT
                    | Code::RD_KAFKA_RESP_ERR__TRANSPORT
                    | Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT
                    | Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
                    | Code::RD_KAFKA_RESP_ERR_NOT_CONTROLLER
            )
    }

    /// Kafka does not take the settings of a new topic: a policy may bound them.
    fn is_refused_setting(&self) -> bool {
        matches!(
            self.code,
            Code::RD_KAFKA_RESP_ERR_INVALID_CONFIG | Code::RD_KAFKA_RESP_ERR_POLICY_VIOLATION
        )
    }
}

const TIMEOUT_MS: i32 = 10_000;

/// What a topic takes in one batch.
pub const MAX_MESSAGE_BYTES: &CStr = c"max.message.bytes";

/// What is done with a topic, and what its user must be allowed to do with it.
#[derive(Debug, Clone, Copy)]
pub enum Use {
    /// Events are written.
    Events,
    /// Positions are written and read.
    Positions,
}

impl Use {
    /// Beside Describe, and Create where the sender makes the topic. As Kafka calls them, and as librdkafka does.
    fn rights(self) -> &'static [(&'static str, Right)] {
        const WRITE: (&str, Right) = ("Write", Right::RD_KAFKA_ACL_OPERATION_WRITE);
        match self {
            Use::Events => &[WRITE],
            Use::Positions => &[WRITE, ("Read", Right::RD_KAFKA_ACL_OPERATION_READ)],
        }
    }
}

/// Describes a topic; makes it first if it is missing. A topic that may not be used as it is to be is an error: found out
/// by writing, that would cost the producer.
///
/// # Safety
/// `client` is a live handle.
pub unsafe fn ensure(
    client: *mut rd::rd_kafka_t,
    name: &str,
    design: &Design,
) -> Result<Described, TopicError> {
    // SAFETY: as the caller promises.
    unsafe {
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
}

/// What a topic that cannot be used means, and what helps.
pub fn trouble(error: &TopicError, brokers: &str, name: &str, design: &Design) -> Trouble {
    let reason = format!("topic \"{name}\": {}", error.message);
    match error.code {
        Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => Trouble {
            code: "CDC0304",
            message: format!("topic \"{name}\" is missing"),
            remedy: format!("Run {}", command(brokers, name, design)),
        },
        Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
        | Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED => {
            let mut rights = vec!["Describe"];
            rights.extend(design.create.then_some("Create"));
            rights.extend(design.usage.rights().iter().map(|(right, _)| right));
            Trouble {
                remedy: acl_command(brokers, &rights, "topic", name),
                ..trouble_of(error.code.into(), brokers, &reason)
            }
        }
        code => trouble_of(code.into(), brokers, &reason),
    }
}

/// The command that allows something to the sender's user.
pub fn acl_command(brokers: &str, rights: &[&str], kind: &str, name: &str) -> String {
    let rights: String = rights
        .iter()
        .map(|right| format!(" --operation {right}"))
        .collect();
    format!(
        "For NAME, the sender's Kafka user, run kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal User:NAME{rights} --{kind} {name}"
    )
}

/// A topic that was just made may take a moment until every broker knows it.
unsafe fn describe_new(
    client: *mut rd::rd_kafka_t,
    name: &str,
    usage: Use,
) -> Result<Described, TopicError> {
    let start = std::time::Instant::now();
    loop {
        // SAFETY: as for `ensure`.
        match unsafe { describe(client, name, usage) } {
            Err(error)
                if error.is_missing() && start.elapsed().as_millis() < TIMEOUT_MS as u128 =>
            {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            described => return described,
        }
    }
}

/// A queue and options of one admin call, freed at its end.
struct Call {
    queue: *mut rd::rd_kafka_queue_t,
    options: *mut rd::rd_kafka_AdminOptions_t,
}

impl Call {
    unsafe fn new(client: *mut rd::rd_kafka_t, kind: rd::rd_kafka_admin_op_t) -> Call {
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
    unsafe fn answer<R>(
        &self,
        read: impl FnOnce(*mut rd::rd_kafka_event_t) -> Result<R, TopicError>,
    ) -> Result<R, TopicError> {
        // SAFETY: the event is freed after it was read.
        unsafe {
            let event = rd::rd_kafka_queue_poll(self.queue, TIMEOUT_MS + 1000);
            if event.is_null() {
                return Err(TopicError {
                    code: Code::RD_KAFKA_RESP_ERR__TIMED_OUT,
                    message: "the broker did not answer".to_owned(),
                });
            }
            let code = rd::rd_kafka_event_error(event);
            let result = if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
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

unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        String::new()
    } else {
        // SAFETY: null or a zero-ended string of librdkafka.
        unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned()
    }
}

unsafe fn describe(
    client: *mut rd::rd_kafka_t,
    name: &str,
    usage: Use,
) -> Result<Described, TopicError> {
    let c_name = CString::new(name).unwrap_or_default();
    // SAFETY: a live handle; the collection is freed; the description is read before its event is freed.
    unsafe {
        let call = Call::new(
            client,
            rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        // Null: this operation has the option.
        rd::rd_kafka_AdminOptions_set_include_authorized_operations(call.options, 1);
        let mut names = [c_name.as_ptr()];
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
                    code: Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                    message: "the broker described no topic".to_owned(),
                });
            }
            let topic = *topics;
            let error = rd::rd_kafka_TopicDescription_error(topic);
            let code = rd::rd_kafka_error_code(error);
            if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
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
                let missing = usage
                    .rights()
                    .iter()
                    .find(|(_, right)| !allowed.contains(right));
                if let Some((right, _)) = missing {
                    return Err(TopicError {
                        code: Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
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
        })
    }
}

/// Some of a topic's settings as they count, the broker's defaults included.
///
/// # Safety
/// `client` is a live handle.
pub unsafe fn settings<const N: usize>(
    client: *mut rd::rd_kafka_t,
    name: &str,
    wanted: [&str; N],
) -> Result<[String; N], TopicError> {
    let c_name = CString::new(name).unwrap_or_default();
    // SAFETY: as the caller promises; the resource is freed; the result is read before its event is freed.
    unsafe {
        let resource = rd::rd_kafka_ConfigResource_new(
            rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            c_name.as_ptr(),
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
                    Code::RD_KAFKA_RESP_ERR_UNKNOWN,
                    "the broker described no topic".to_owned(),
                ));
            }
            let code = rd::rd_kafka_ConfigResource_error(*resources);
            if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
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
                        Code::RD_KAFKA_RESP_ERR_UNKNOWN,
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
pub struct Limits {
    /// Of a batch: what the topic takes, and what a segment of it holds.
    pub max_message_bytes: usize,
    pub min_in_sync: usize,
    pub is_compacted: bool,
}

/// Reads them.
///
/// # Safety
/// `client` is a live handle.
pub unsafe fn limits(client: *mut rd::rd_kafka_t, name: &str) -> Result<Limits, TopicError> {
    let wanted = [
        "max.message.bytes",
        "min.insync.replicas",
        "segment.bytes",
        "cleanup.policy",
    ];
    // SAFETY: as the caller promises.
    let values = unsafe { settings(client, name, wanted) }?;
    let [max_message_bytes, min_in_sync, segment_bytes, policy] = values;
    let number = |name: &str, value: &str| {
        value.parse::<usize>().map_err(|_| TopicError {
            code: Code::RD_KAFKA_RESP_ERR_UNKNOWN,
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

unsafe fn create(
    client: *mut rd::rd_kafka_t,
    name: &str,
    design: &Design,
) -> Result<(), TopicError> {
    let c_name = CString::new(name).unwrap_or_default();
    let mut message = [0 as c_char; 256];
    // SAFETY: a live handle; the new topic is freed; the result is read before its event is freed.
    unsafe {
        let topic = rd::rd_kafka_NewTopic_new(
            c_name.as_ptr(),
            design.partitions,
            design.replication_factor,
            message.as_mut_ptr(),
            message.len(),
        );
        if topic.is_null() {
            return Err(TopicError {
                code: Code::RD_KAFKA_RESP_ERR__INVALID_ARG,
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
                let existed = code == Code::RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS;
                if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR && !existed {
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

/// The command that makes a topic by hand.
pub fn command(brokers: &str, name: &str, design: &Design) -> String {
    let mut command = format!(
        "kafka-topics.sh --bootstrap-server {brokers} --create --topic {name} --partitions {}",
        design.partitions
    );
    if design.replication_factor > 0 {
        command.push_str(&format!(
            " --replication-factor {}",
            design.replication_factor
        ));
    }
    for (config, value) in &design.configs {
        command.push_str(&format!(" --config {}={value}", config.to_string_lossy()));
    }
    command
}
