//! What a session counts, and how it is shown.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shipper::facts::Facts;

use crate::sender::main_thread::Counted;
use crate::shared::Shared;

/// What the threads count.
pub(super) struct Figures {
    pub(super) events: u64,
    bytes: u64,
    transactions: u64,
    pub(super) unacknowledged_events: u64,
    pub(super) oldest_unacknowledged_us: i64,
    topics: u32,
    brokers_up: u32,
    brokers_down: u32,
    throttle_ms: u32,
}

impl Figures {
    /// As they are now.
    pub(super) fn of(facts: &Facts) -> Figures {
        Figures {
            events: facts.events,
            bytes: facts.bytes,
            transactions: facts.transactions,
            unacknowledged_events: facts.unacknowledged_events,
            oldest_unacknowledged_us: facts.oldest_unacknowledged_us,
            topics: facts.topics,
            brokers_up: facts.brokers_up,
            brokers_down: facts.brokers_down,
            throttle_ms: facts.throttle_ms,
        }
    }

    /// Shows them, together with those of the sessions before.
    pub(super) fn publish(&self, rates: &mut Rates, counted: &Counted, shared: &Shared) {
        let (events_rate, bytes_rate) = rates.update(self.events, self.bytes);
        shared
            .events
            .store(counted.events + self.events, Ordering::Relaxed);
        shared
            .bytes
            .store(counted.bytes + self.bytes, Ordering::Relaxed);
        shared
            .transactions
            .store(counted.transactions + self.transactions, Ordering::Relaxed);
        shared
            .events_per_second_milli
            .store(events_rate, Ordering::Relaxed);
        shared
            .bytes_per_second_milli
            .store(bytes_rate, Ordering::Relaxed);
        shared
            .lag_events
            .store(self.unacknowledged_events, Ordering::Relaxed);
        shared
            .lag_since
            .store(self.oldest_unacknowledged_us, Ordering::Relaxed);
        shared.topics.store(self.topics, Ordering::Relaxed);
        shared.brokers_up.store(self.brokers_up, Ordering::Relaxed);
        shared
            .brokers_down
            .store(self.brokers_down, Ordering::Relaxed);
        shared
            .throttle_ms
            .store(self.throttle_ms, Ordering::Relaxed);
    }
}

/// Rates over the last ten seconds.
pub(super) struct Rates {
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Rates {
    const WINDOW: Duration = Duration::from_secs(10);

    pub(super) fn new() -> Rates {
        Rates {
            samples: VecDeque::new(),
        }
    }

    /// Events and bytes per second, in thousandths.
    fn update(&mut self, events: u64, bytes: u64) -> (u64, u64) {
        let now = Instant::now();
        if self
            .samples
            .back()
            .is_none_or(|(at, ..)| now - *at >= Duration::from_millis(500))
        {
            self.samples.push_back((now, events, bytes));
        }
        while self.samples.len() > 2
            && self
                .samples
                .front()
                .is_some_and(|(at, ..)| now - *at > Self::WINDOW)
        {
            self.samples.pop_front();
        }
        match self.samples.front() {
            Some((at, first_events, first_bytes)) if now > *at => {
                let seconds = (now - *at).as_secs_f64();
                let rate =
                    |newer: u64, older: u64| ((newer - older) as f64 / seconds * 1000.0) as u64;
                (rate(events, *first_events), rate(bytes, *first_bytes))
            }
            _ => (0, 0),
        }
    }
}
