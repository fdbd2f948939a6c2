//! Why the Kafka thread stops.

use change::wal::message::MessageError;
use change::wire::WireError;

/// Why rendering or producing stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The session failed, or was asked to end.
    Over,
    Undecodable(String),
    OutOfMemory,
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        match error {
            WireError::OutOfMemory => Stop::OutOfMemory,
            error => Stop::Undecodable(error.to_string()),
        }
    }
}

impl From<MessageError> for Stop {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::OutOfMemory => Stop::OutOfMemory,
            error => Stop::Undecodable(error.to_string()),
        }
    }
}
