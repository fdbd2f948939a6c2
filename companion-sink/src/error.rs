//! What can go wrong, under the codes of the error catalogue: every error says what happened and what to do.

pub(crate) use change::code::{Code, Recovery};

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
    match error.code.recovery() {
        Recovery::Halt => {
            tracing::error!(sink, code = %error.code, hint = %error.hint, "{}", error.what);
        }
        Recovery::Retry
        | Recovery::StandBy
        | Recovery::Refuse
        | Recovery::SetAside
        | Recovery::Warn => {
            tracing::warn!(sink, code = %error.code, hint = %error.hint, "{}", error.what);
        }
    }
}
