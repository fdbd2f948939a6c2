//! How `companion-sink topic` ended.

/// What becomes the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicOutcome {
    Found,
    /// There is no such topic, event or record.
    Nothing,
    /// By SIGINT or SIGTERM.
    Interrupted,
}
