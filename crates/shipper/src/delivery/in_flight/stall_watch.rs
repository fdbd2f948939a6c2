//! Whether records are acknowledged at all: Kafka may refuse what the client goes on trying without a word.

use std::time::{Duration, Instant};

/// Without an acknowledgement for this long, Kafka is asked why.
const STALL: Duration = Duration::from_secs(3);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Stall {
    No,
    /// It was said that nothing moves, and something does.
    IsOver,
    /// It is time to ask why nothing moves.
    AskWhy,
}

/// What moved, and when.
#[derive(Debug)]
pub(in crate::delivery) struct StallWatch {
    /// Records acknowledged when that was last looked at.
    delivered: u64,
    /// When they became more, or none was on its way, or somebody was asked.
    since: Instant,
    /// It was said that nothing moves.
    is_told: bool,
}

impl StallWatch {
    pub(in crate::delivery) fn new(now: Instant) -> StallWatch {
        StallWatch {
            delivered: 0,
            since: now,
            is_told: false,
        }
    }

    /// So many records were acknowledged so far, and so many are not.
    pub(in crate::delivery) fn look(
        &mut self,
        delivered: u64,
        unacknowledged: u64,
        now: Instant,
    ) -> Stall {
        if delivered != self.delivered || unacknowledged == 0 {
            (self.delivered, self.since) = (delivered, now);
            return match std::mem::take(&mut self.is_told) {
                true => Stall::IsOver,
                false => Stall::No,
            };
        }
        if now.saturating_duration_since(self.since) < STALL {
            return Stall::No;
        }
        self.since = now;
        Stall::AskWhy
    }

    /// It is said that nothing moves.
    pub(in crate::delivery) fn was_told(&mut self) {
        self.is_told = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_again_and_again_until_something_moves() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut watch = StallWatch::new(start);
        assert_eq!(watch.look(0, 0, later(10)), Stall::No);
        assert_eq!(watch.look(0, 1, later(12)), Stall::No);
        assert_eq!(watch.look(0, 1, later(13)), Stall::AskWhy);
        watch.was_told();
        assert_eq!(watch.look(0, 1, later(14)), Stall::No);
        assert_eq!(watch.look(0, 1, later(16)), Stall::AskWhy);
        assert_eq!(watch.look(1, 1, later(17)), Stall::IsOver);
        assert_eq!(watch.look(1, 0, later(18)), Stall::No);
    }
}
