//! How many come in a second.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

/// Events per second, over the last ten seconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rate {
    /// When, and how many events there had been.
    pub(super) samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    const WINDOW: Duration = Duration::from_secs(10);

    /// Notes how many events there have been until `now`.
    pub(crate) fn note(&mut self, now: Instant, total: u64) {
        self.samples.push_back((now, total));
        // One that is older says where the window begins.
        while let Some((at, _)) = self.samples.get(1)
            && now - *at > Self::WINDOW
        {
            self.samples.pop_front();
        }
    }

    /// Events per second in the window that ends `now`.
    pub(crate) fn per_second(&self, now: Instant) -> f64 {
        let is_old = |at: Instant| now.saturating_duration_since(at) > Self::WINDOW;
        let mut before = self.samples.iter().rev().skip_while(|(at, _)| !is_old(*at));
        let (first, last) = (self.samples.front(), self.samples.back());
        match (before.next().or(first), last) {
            (Some((at, from)), Some((_, to))) if now > *at => {
                let seconds = (now - *at).min(Self::WINDOW).as_secs_f64();
                (to - from) as f64 / seconds
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(at(1)), 0.0);
        for second in 0..=30 {
            rate.note(at(second), second * 100);
        }
        assert!((rate.per_second(at(30)) - 110.0).abs() < 11.0);
        assert!(rate.samples.len() <= 13, "{}", rate.samples.len());
        assert!(rate.per_second(at(35)) < 70.0);
        assert_eq!(rate.per_second(at(60)), 0.0);
    }
}
