//! Where an event lies.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where an event lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct EventPlace {
    /// The topic.
    #[serde(with = "shared_text")]
    pub(crate) topic: Arc<str>,
    /// The partition of it.
    pub(crate) partition: i32,
    /// The offset in that.
    pub(crate) offset: i64,
}

/// A text that many share.
mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        text: &Arc<str>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<str>, D::Error> {
        String::deserialize(deserializer).map(Arc::from)
    }
}
