//! What an error of Kafka means for the sender.

use rdkafka::error::RDKafkaErrorCode;

use crate::trouble::Trouble;

/// How librdkafka begins what it says of a connection that the broker closed: it is about to stop, or to speak another
/// protocol.
pub(super) const CLOSED: &str = "Disconnected";
/// The condition that an error of Kafka means.
pub(crate) fn trouble_of(code: RDKafkaErrorCode, brokers: &str, reason: &str) -> Trouble {
    use RDKafkaErrorCode as Code;
    let reload = "then SELECT pg_reload_conf().";
    let (code, message, remedy) = match code {
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => (
            "CDC0302",
            format!("authentication with \"{brokers}\" failed: {reason}"),
            if reason.contains("certificate verify failed") {
                format!("Name the authority of the brokers' certificates as ssl.ca.location in the file of cdc.kafka_config_file, and the hosts of these certificates in cdc.brokers, {reload}")
            } else {
                format!("Correct the file that cdc.kafka_config_file names, {reload}")
            },
        ),
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => (
            "CDC0303",
            format!("not authorised: {reason}"),
            "Give the sender's Kafka user the rights that the page of CDC0303 in docs/errors lists.".to_owned(),
        ),
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend | Code::InvalidReplicationFactor => (
            "CDC0308",
            format!("broker refuses writes: {reason}"),
            "Bring the missing brokers back, or correct cdc.topic_replication_factor or min.insync.replicas.".to_owned(),
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => (
            "CDC0304",
            format!("topic is missing: {reason}"),
            "See whether somebody deleted it; it is looked at again at once.".to_owned(),
        ),
        _ => (
            "CDC0301",
            format!("brokers \"{brokers}\" cannot be reached: {reason}"),
            if reason.starts_with(CLOSED) {
                format!("Start Kafka, or correct cdc.brokers, or security.protocol in the file that cdc.kafka_config_file names, {reload} The WAL is held meanwhile.")
            } else {
                "Start Kafka, or correct cdc.brokers and SELECT pg_reload_conf(). The WAL is held meanwhile.".to_owned()
            },
        ),
    };
    Trouble {
        code,
        message,
        remedy,
    }
}
