//! A topic's name as librdkafka takes it.

use std::ffi::{CStr, CString};

/// Ends in a zero byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicName(CString);

impl TopicName {
    /// A name that has a zero byte in it, which no text of PostgreSQL has, becomes the empty one: Kafka refuses it.
    pub fn new(name: &str) -> TopicName {
        TopicName(CString::new(name).unwrap_or_default())
    }

    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }
}
