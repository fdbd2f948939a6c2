//! `[[rule]]` as it stands in the file.

use serde::{Deserialize, Serialize};

/// `[[rule]]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Name or `*` pattern of topics.
    pub topic: String,
    /// The reason of what it rejects.
    pub name: String,
    /// When it rejects an event.
    pub reject_if: String,
    /// The sinks that it is for; none for all.
    pub sinks: Vec<String>,
}
