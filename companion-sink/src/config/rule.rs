//! `[[rule]]` as it stands in the file.

use serde::{Deserialize, Serialize};

/// `[[rule]]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RuleSettings {
    /// Name or `*` pattern of topics.
    pub(crate) topic: String,
    /// The reason of what it rejects.
    pub(crate) name: String,
    /// When it rejects an event.
    pub(crate) reject_if: String,
    /// The sinks that it is for; none for all.
    pub(crate) sinks: Vec<String>,
}
