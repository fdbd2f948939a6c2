//! Whether new work is sent at once or gathers, so that requests grow with the load instead of their number
//! (`docs/decisions/0006`).

use std::time::{Duration, Instant};

/// With so many records on their way, new ones do not wait for a busy partition: requests are large anyway.
const LARGE_LOAD_RECORDS: u64 = 5000;
/// Bursts do not follow each other faster than this once a partition was busy: fewer requests, fewer wake-ups.
const GATHER: Duration = Duration::from_millis(2);

/// For how long new work stays in the channel, at most or until an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Gather {
    No,
    /// Until a busy partition has an answer.
    UntilAnswer,
    ForMs(i32),
}

/// What was sent last.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Gathering {
    /// When work was last taken from the channel; none if there was no more.
    taken_at: Option<Instant>,
    /// That work made a partition busy.
    crowded: bool,
}

impl Gathering {
    /// Work was taken.
    pub(in crate::delivery) fn took_work(&mut self, now: Instant) {
        self.taken_at = Some(now);
    }

    /// There was none.
    pub(in crate::delivery) fn found_none(&mut self) {
        self.taken_at = None;
    }

    /// How long to wait before more work is taken, with so many records on their way.
    pub(in crate::delivery) fn wait(
        &mut self,
        is_busy: bool,
        records: u64,
        now: Instant,
    ) -> Gather {
        if records >= LARGE_LOAD_RECORDS {
            return Gather::No;
        }
        if is_busy {
            self.crowded = true;
            return Gather::UntilAnswer;
        }
        let left = self
            .taken_at
            .filter(|_| self.crowded)
            .and_then(|at| GATHER.checked_sub(now.saturating_duration_since(at)));
        match left.map(|left| left.as_millis() as i32) {
            Some(left_ms) if left_ms > 0 => Gather::ForMs(left_ms),
            _ => {
                self.crowded = false;
                Gather::No
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_a_busy_partition_gathers() {
        let (mut gathering, start) = (Gathering::default(), Instant::now());
        let later = |micros| start + Duration::from_micros(micros);
        assert_eq!(gathering.wait(false, 0, start), Gather::No);
        gathering.took_work(start);
        assert_eq!(gathering.wait(false, 4, start), Gather::No);
        assert_eq!(gathering.wait(true, 5, later(100)), Gather::UntilAnswer);
        // The answer came: the rest of the time is waited for, then nothing more.
        assert_eq!(gathering.wait(false, 0, later(500)), Gather::ForMs(1));
        assert_eq!(gathering.wait(false, 0, later(2500)), Gather::No);
        gathering.took_work(later(2500));
        assert_eq!(gathering.wait(false, 0, later(2600)), Gather::No);
    }

    #[test]
    fn nothing_gathers_under_a_large_load() {
        let mut gathering = Gathering::default();
        assert_eq!(
            gathering.wait(true, LARGE_LOAD_RECORDS, Instant::now()),
            Gather::No
        );
    }

    #[test]
    fn nothing_gathers_where_there_was_nothing_to_take() {
        let (mut gathering, now) = (Gathering::default(), Instant::now());
        gathering.took_work(now);
        assert_eq!(gathering.wait(true, 5, now), Gather::UntilAnswer);
        gathering.found_none();
        assert_eq!(gathering.wait(false, 0, now), Gather::No);
    }
}
