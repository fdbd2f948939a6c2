//! What can go wrong, under the codes of the error catalogue: every error says what happened and what to do.

use std::fmt;

/// A code of the catalogue (`docs/errors/CDCnnnn.md`). The number is the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Code {
    /// The configuration is wrong: unknown key, missing key, value out of range.
    Configuration = 1001,
    /// A file with a secret can be read by others.
    SecretFile = 1002,
    /// Kafka or a target is out of reach, or failed in a way that passes.
    Unreachable = 1003,
    /// The target refuses everything: privileges, missing objects, disk.
    TargetRefuses = 1004,
    /// An event that cannot be decoded.
    Undecodable = 1005,
    /// An event that a rule rejects.
    Rejected = 1006,
    /// A value that the target refuses.
    ValueRefused = 1007,
    /// The topic no longer reaches back to the stored offset.
    LogTruncated = 1008,
    /// Another instance writes for this sink.
    OtherInstance = 1009,
    /// An event that stops a consistent replica.
    Poison = 1010,
    /// A change of the table's definition that the target does not have.
    SchemaChange = 1011,
    /// An event of a table that its topic does not belong to.
    Foreign = 1012,
    /// An event for a table that the sink may not write.
    NotAllowed = 1013,
    /// An event that claims a place which its source has not come to.
    Unbelievable = 1014,
    /// A collection of a history of which the server takes nothing.
    CollectionRefused = 1018,
}

/// What the sink does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Try again, without end, with growing pauses.
    Retry,
    /// Stop this sink until a person has acted; the others go on.
    Halt,
    /// Wait until the other instance is gone.
    StandBy,
    /// Refuse this one event.
    Refuse,
}

impl Code {
    /// What the sink does about an error of this code.
    pub(crate) fn policy(self) -> Policy {
        match self {
            Code::Unreachable => Policy::Retry,
            Code::OtherInstance => Policy::StandBy,
            Code::Undecodable
            | Code::Rejected
            | Code::ValueRefused
            | Code::Foreign
            | Code::NotAllowed
            | Code::Unbelievable
            | Code::CollectionRefused => Policy::Refuse,
            Code::Configuration
            | Code::SecretFile
            | Code::TargetRefuses
            | Code::LogTruncated
            | Code::Poison
            | Code::SchemaChange => Policy::Halt,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CDC{:04}", *self as u16)
    }
}

/// An error with its code and its remedy. Holds neither a row's value nor a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what} [{code}]")]
pub(crate) struct Error {
    /// The code of the catalogue.
    pub(crate) code: Code,
    /// What happened: lower case, no full stop.
    pub(crate) what: String,
    /// What to do about it: a sentence.
    pub(crate) hint: String,
}

impl Error {
    /// An error of `code`; `what` happened, `hint` is the remedy.
    pub(crate) fn new(code: Code, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error {
            code,
            what: on_one_line(what.into()),
            hint: on_one_line(hint.into()),
        }
    }

    /// A configuration error (CDC1001).
    pub(crate) fn configuration(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::new(Code::Configuration, what, hint)
    }

    /// Kafka failed with `error` while `doing` (CDC1003).
    pub(crate) fn kafka(doing: &str, error: &rdkafka::error::KafkaError) -> Self {
        Error::new(
            Code::Unreachable,
            format!("kafka: {doing}: {error}"),
            "Check [kafka] brokers and the network, and in [kafka] config_file the user and its ACLs; it is tried again.",
        )
    }
}

/// Names of tables and columns may hold anything. What a person copies from here, into psql for example, is one line.
fn on_one_line(text: String) -> String {
    match text.contains(char::is_control) {
        true => text.replace(char::is_control, "\u{fffd}"),
        false => text,
    }
}

/// `Result` with this crate's error.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Logs an error as an operator needs it: code and hint beside the message.
pub(crate) fn log(error: &Error, sink: &str) {
    match error.code.policy() {
        Policy::Retry | Policy::StandBy | Policy::Refuse => {
            tracing::warn!(sink, code = %error.code, hint = %error.hint, "{}", error.what);
        }
        Policy::Halt => {
            tracing::error!(sink, code = %error.code, hint = %error.hint, "{}", error.what);
        }
    }
}
