//! What an error of Kafka means for the sender.

use change::code::Code;
use change::trouble::Trouble;
use rdkafka::error::RDKafkaErrorCode;

/// How librdkafka begins what it says of a connection that the broker closed: it is about to stop, or to speak another
/// protocol.
pub(super) const CLOSED: &str = "Disconnected";
/// The condition that an error of Kafka means.
pub(crate) fn trouble_of(code: RDKafkaErrorCode, brokers: &str, reason: &str) -> Trouble {
    use RDKafkaErrorCode as KafkaCode;
    let reload = "then SELECT pg_reload_conf().";
    let (code, message, remedy) = match code {
        KafkaCode::Authentication | KafkaCode::SaslAuthenticationFailed | KafkaCode::SSL => (
            Code::AuthenticationFailed,
            format!("authentication with \"{brokers}\" failed: {reason}"),
            if reason.contains("certificate verify failed") {
                format!("Name the authority of the brokers' certificates as ssl.ca.location in the file of cdc.kafka_config_file, and the hosts of these certificates in cdc.brokers, {reload}")
            } else {
                format!("Correct the file that cdc.kafka_config_file names, {reload}")
            },
        ),
        KafkaCode::TopicAuthorizationFailed
        | KafkaCode::ClusterAuthorizationFailed
        | KafkaCode::TransactionalIdAuthorizationFailed => (
            Code::NotAuthorised,
            format!("not authorised: {reason}"),
            format!("Give the sender's Kafka user the rights that the page of {} in docs/errors lists.", Code::NotAuthorised),
        ),
        KafkaCode::NotEnoughReplicas | KafkaCode::NotEnoughReplicasAfterAppend | KafkaCode::InvalidReplicationFactor => (
            Code::WritesRefused,
            format!("broker refuses writes: {reason}"),
            "Bring the missing brokers back, or correct cdc.topic_replication_factor or min.insync.replicas.".to_owned(),
        ),
        KafkaCode::UnknownTopic | KafkaCode::UnknownTopicOrPartition | KafkaCode::UnknownPartition => (
            Code::TopicMissing,
            format!("topic is missing: {reason}"),
            "See whether somebody deleted it; it is looked at again at once.".to_owned(),
        ),
        _ => (
            Code::BrokersUnreachable,
            format!("brokers \"{brokers}\" cannot be reached: {reason}"),
            if reason.starts_with(CLOSED) {
                format!("Start Kafka, or correct cdc.brokers, or security.protocol in the file that cdc.kafka_config_file names, {reload} The WAL is held meanwhile.")
            } else {
                "Start Kafka, or correct cdc.brokers and SELECT pg_reload_conf(). The WAL is held meanwhile.".to_owned()
            },
        ),
    };
    Trouble::new(code, message, remedy)
}
