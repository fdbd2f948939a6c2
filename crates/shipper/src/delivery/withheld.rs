//! What is not sent of topics: what was given up, and what is put aside.

use std::collections::HashMap;

use crate::files::orders::{Aside, Skip};

/// Of one topic.
#[derive(Debug, Clone, Copy, Default)]
struct Withheld {
    /// What committed up to here is given up.
    up_to: u64,
    /// From this commit on it is put aside.
    from: Option<u64>,
}

/// Why an event is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// By `cdc_skip_topic`.
    GivenUp,
    PutAside,
}

/// Of all topics.
#[derive(Debug, Clone, Default)]
pub(super) struct WithheldTopics(HashMap<String, Withheld>);

impl WithheldTopics {
    /// Events of a topic are given up.
    pub(super) fn skip(&mut self, skip: &Skip) {
        let withheld = self.0.entry(skip.topic.clone()).or_default();
        withheld.up_to = withheld.up_to.max(skip.up_to);
    }

    /// A topic was put aside.
    pub(super) fn note(&mut self, aside: &Aside) {
        self.put_aside(&aside.topic, aside.from);
    }

    /// A topic is put aside from the transaction on that committed at `from`.
    pub(super) fn put_aside(&mut self, topic: &str, from: u64) {
        self.0.entry(topic.to_owned()).or_default().from = Some(from);
    }

    /// Whether, and why, events of the transaction that committed at `commit_lsn` are not to go into a topic.
    #[inline]
    pub(super) fn reason(&self, topic: &str, commit_lsn: u64) -> Option<Reason> {
        if self.0.is_empty() {
            return None;
        }
        let withheld = self.0.get(topic)?;
        if commit_lsn <= withheld.up_to {
            return Some(Reason::GivenUp);
        }
        let from = withheld.from.filter(|from| commit_lsn >= *from);
        from.map(|_| Reason::PutAside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_ends_where_it_was_said_and_what_is_put_aside_does_not_end() {
        let mut withheld = WithheldTopics::default();
        for up_to in [200, 100] {
            withheld.skip(&Skip {
                topic: "t".to_owned(),
                up_to,
                by: Default::default(),
            });
        }
        assert_eq!(withheld.reason("t", 200), Some(Reason::GivenUp));
        assert_eq!(withheld.reason("t", 201), None);
        withheld.put_aside("t", 300);
        assert_eq!(withheld.reason("t", 200), Some(Reason::GivenUp));
        assert_eq!(withheld.reason("t", 299), None);
        assert_eq!(withheld.reason("t", 300), Some(Reason::PutAside));
        assert_eq!(withheld.reason("t", u64::MAX), Some(Reason::PutAside));
        assert_eq!(withheld.reason("other", 100), None);
    }
}
