//! A partition of which nothing but later copies comes: after a sender has started again that ends soon. Where it does not,
//! something claims a version that the source has not come to, and everything behind it is dropped as a copy.

use std::time::{Duration, Instant};

use crate::error::Code;

const LONGEST: Duration = Duration::from_secs(60);

/// Since when there are only copies.
#[derive(Debug, Default)]
pub(crate) struct EndlessCopies {
    since: Option<Instant>,
    told: bool,
}

impl EndlessCopies {
    /// A copy came, or something else; true once where there have been copies alone for too long.
    pub(crate) fn note(&mut self, is_copy: bool) -> bool {
        if !is_copy {
            *self = EndlessCopies::default();
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_alarm = since.elapsed() > LONGEST && !self.told;
        self.told |= is_alarm;
        is_alarm
    }
}

/// Says that a partition brings nothing but copies.
pub(crate) fn tell(sink: &str, topic: &str, partition: i32, version: &str) {
    tracing::error!(
        sink,
        topic,
        partition,
        version,
        code = %Code::Unbelievable,
        hint = "If the sender has not started again, look who writes to the topic; SELECT cdc_snapshot('TABLE', sinks => ARRAY['SINK']) on the source brings what is missing.",
        "for a minute there have been nothing but later copies: none has a higher version than the stored one"
    );
}
