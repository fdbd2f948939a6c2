//! What can go wrong, under the codes of the error catalogue: every error says what happened and what to do.

pub(crate) use change::code::{Code, Recovery};
use change::trouble::Trouble;

/// A configuration error (CDC1001).
pub(crate) fn misconfigured(what: impl Into<String>, remedy: impl Into<String>) -> Trouble {
    Trouble::new(Code::Configuration, what, remedy)
}

/// Kafka failed with `error` while `doing` (CDC1003).
pub(crate) fn kafka_failed(doing: &str, error: &rdkafka::error::KafkaError) -> Trouble {
    Trouble::new(
        Code::Unreachable,
        format!("kafka: {doing}: {error}"),
        "Check [kafka] brokers and the network, and in [kafka] config_file the user and its ACLs; it is tried again.",
    )
}

/// `Result` with this crate's error.
pub(crate) type Result<T> = std::result::Result<T, Trouble>;

/// Logs an error as an operator needs it: code and hint beside the message.
pub(crate) fn log(error: &Trouble, sink: &str) {
    match error.code.recovery() {
        Recovery::Halt => {
            tracing::error!(sink, code = %error.code, hint = %error.remedy, "{}", error.message);
        }
        Recovery::Retry
        | Recovery::StandBy
        | Recovery::Refuse
        | Recovery::SetAside
        | Recovery::Warn => {
            tracing::warn!(sink, code = %error.code, hint = %error.remedy, "{}", error.message);
        }
    }
}
