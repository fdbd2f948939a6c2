//! How a topic is to be, why it cannot be used, and the commands that help.

use std::ffi::CStr;

use change::code::Code;
use change::trouble::Trouble;
use rdkafka::bindings::rd_kafka_AclOperation_t as Right;
use rdkafka::bindings::rd_kafka_resp_err_t as KafkaCode;

use crate::kafka::trouble_of::trouble_of;

/// How a topic is made and used.
#[derive(Debug, Clone)]
pub(crate) struct Design {
    pub usage: Use,
    /// Missing ones are made by the sender.
    pub create: bool,
    pub partitions: i32,
    /// -1 for the broker's default.
    pub replication_factor: i32,
    pub configs: Vec<(&'static CStr, String)>,
}

/// Why a topic cannot be used.
#[derive(Debug, Clone)]
pub(crate) struct TopicError {
    pub code: KafkaCode,
    pub message: String,
}

impl TopicError {
    pub(crate) fn is_missing(&self) -> bool {
        self.code == KafkaCode::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
    }

    /// Kafka takes no topic of this name: it is illegal, or collides with another one.
    pub(crate) fn is_refused_name(&self) -> bool {
        self.code == KafkaCode::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION
    }

    /// It lies with this topic, and not with the brokers or the sender's user as a whole.
    pub(crate) fn is_of_topic(&self) -> bool {
        self.is_missing()
            || self.is_refused_setting()
            || self.code == KafkaCode::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
    }

    /// The next attempt may succeed, without anybody doing anything.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_missing()
            || matches!(
                self.code,
                KafkaCode::RD_KAFKA_RESP_ERR__TIMED_OUT
                    | KafkaCode::RD_KAFKA_RESP_ERR__TRANSPORT
                    | KafkaCode::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT
                    | KafkaCode::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
                    | KafkaCode::RD_KAFKA_RESP_ERR_NOT_CONTROLLER
            )
    }

    /// Kafka does not take the settings of a new topic: a policy may bound them.
    pub(super) fn is_refused_setting(&self) -> bool {
        matches!(
            self.code,
            KafkaCode::RD_KAFKA_RESP_ERR_INVALID_CONFIG
                | KafkaCode::RD_KAFKA_RESP_ERR_POLICY_VIOLATION
        )
    }
}

/// What a topic takes in one batch.
pub(crate) const MAX_MESSAGE_BYTES: &CStr = c"max.message.bytes";

/// What is done with a topic, and what its user must be allowed to do with it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Use {
    /// Events are written.
    Events,
    /// Positions are written and read.
    Positions,
}

impl Use {
    /// Beside Describe, and Create where the sender makes the topic. As Kafka calls them, and as librdkafka does.
    pub(super) fn rights(self) -> &'static [(&'static str, Right)] {
        const WRITE: (&str, Right) = ("Write", Right::RD_KAFKA_ACL_OPERATION_WRITE);
        match self {
            Use::Events => &[WRITE],
            Use::Positions => &[WRITE, ("Read", Right::RD_KAFKA_ACL_OPERATION_READ)],
        }
    }
}

/// What a topic that cannot be used means, and what helps.
pub(crate) fn trouble(error: &TopicError, brokers: &str, name: &str, design: &Design) -> Trouble {
    let reason = format!("topic \"{name}\": {}", error.message);
    match error.code {
        KafkaCode::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => Trouble::new(
            Code::TopicMissing,
            format!("topic \"{name}\" is missing"),
            format!("Run {}", command(brokers, name, design)),
        ),
        KafkaCode::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
        | KafkaCode::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED => {
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

/// The command that makes a topic by hand.
pub(crate) fn command(brokers: &str, name: &str, design: &Design) -> String {
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
