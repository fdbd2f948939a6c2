//! Topics that wait at an event about their whole table, which the target cannot follow: the others go on, and the event is
//! tried again by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::backoff::Backoff;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// When each of them is tried again.
#[derive(Debug, Default)]
pub(crate) struct StoppedTopics {
    topics: HashMap<Arc<str>, Stopped>,
}

#[derive(Debug)]
struct Stopped {
    again: Instant,
    backoff: Backoff,
}

impl StoppedTopics {
    /// The event was tried, in vain; whether for the first time.
    pub(crate) fn note(&mut self, topic: &Arc<str>, now: Instant) -> bool {
        let is_first = !self.topics.contains_key(topic);
        let fresh = || Stopped {
            again: now,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        };
        let stopped = self.topics.entry(Arc::clone(topic)).or_insert_with(fresh);
        stopped.again = now + stopped.backoff.pause();
        is_first
    }

    /// Whether the topic's event is not to be tried yet.
    pub(crate) fn rests(&self, topic: &str, now: Instant) -> bool {
        self.topics
            .get(topic)
            .is_some_and(|stopped| now < stopped.again)
    }

    /// The topic goes on; whether it was stopped.
    pub(crate) fn forget(&mut self, topic: &str) -> bool {
        self.topics.remove(topic).is_some()
    }

    /// Somebody has decided: each is tried when it is looked at next.
    pub(crate) fn try_now(&mut self) {
        let now = Instant::now();
        for stopped in self.topics.values_mut() {
            stopped.again = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_the_topic_goes_on() {
        let (topic, start) = (Arc::from("t"), Instant::now());
        let mut stopped = StoppedTopics::default();
        assert!(!stopped.rests("t", start));
        let mut now = start;
        let mut pauses = Vec::new();
        for attempt in 0..6 {
            assert_eq!(stopped.note(&topic, now), attempt == 0);
            let begun = now;
            while stopped.rests("t", now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - begun).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        stopped.note(&topic, Instant::now());
        stopped.try_now();
        assert!(!stopped.rests("t", Instant::now()));
        assert!(stopped.forget("t") && !stopped.forget("t"));
    }
}
