//! Topics that are put aside: what one topic cannot take stops nobody else. Nothing more of it is sent, which is noted in
//! the orders and told by every position, until somebody lets it go on.

use change::code::Code;
use change::trouble::Trouble;
use change::value::datetime::EPOCH_US;

use crate::clock::unix_us;
use crate::files::orders::Aside;

/// A topic that is put aside from the transaction on that committed at `from`.
pub(crate) fn new(topic: &str, from: u64, database: u32, trouble: Trouble) -> Aside {
    Aside {
        topic: topic.to_owned(),
        from,
        database,
        since_us: unix_us() - EPOCH_US,
        trouble,
    }
}

/// CDC0312: a name that Kafka, or pg_cdc, does not take. It may be anything.
pub(crate) fn refused_name(topic: &str, why: &str) -> Trouble {
    let shown: String = topic.escape_debug().take(300).collect();
    Trouble::new(
        Code::TopicNotMade,
        format!("topic \"{shown}\" cannot be made: {why}"),
        "Give the table another topic with cdc_track(…, topic => …), then cdc_snapshot() it.",
    )
}

/// CDC0313: an event that does not even fit with stubs.
pub(crate) fn too_large(id: &str, bytes: usize, topic: &str) -> Trouble {
    let id = if id.is_empty() {
        String::new()
    } else {
        format!(" {id}")
    };
    Trouble::new(
        Code::EventDoesNotFit,
        format!(
            "event{id} of {bytes} bytes is too large for topic \"{topic}\", also without its large values"
        ),
        format!(
            "Raise max.message.bytes of the topic, or exclude columns, then SELECT * FROM cdc_resume_topic('{topic}')."
        ),
    )
}

/// CDC0317: an event that Kafka refuses for what it is.
pub(crate) fn refused_event(id: &str, topic: &str, why: &str) -> Trouble {
    Trouble::new(
        Code::EventRefused,
        format!("event {id} is refused by topic \"{topic}\": {why}"),
        format!(
            "A compacted topic takes no events without a key: set cleanup.policy=delete, or give the table a key; then SELECT * FROM cdc_resume_topic('{topic}')."
        ),
    )
}

/// CDC0318: a topic that was not there, or not allowed, for `cdc.topic_timeout`.
pub(crate) fn unusable(topic: &str, trouble: Trouble) -> Trouble {
    Trouble::new(
        Code::TopicUnusable,
        format!("topic \"{topic}\" cannot be used: {}", trouble.message),
        format!(
            "{} Then SELECT * FROM cdc_resume_topic('{topic}').",
            trouble.remedy
        ),
    )
}
