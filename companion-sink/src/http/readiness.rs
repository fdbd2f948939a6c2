//! Whether the sinks do their work. That the process lives is another question: a halted sink waits for a person, and a new
//! process would halt there again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::status::{SinkStatus, State};

/// How often it is looked whether the sinks move.
pub const LOOK: Duration = Duration::from_secs(2);

/// What is known of each sink.
#[derive(Clone)]
pub struct Readiness {
    stalled_after: Duration,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
}

struct Seen {
    state: State,
    /// Since when it is in this state.
    since: Instant,
    /// It was running, or standing by, at some time.
    has_worked: bool,
    /// What it had applied, and since when it is no more though there is more.
    applied: u64,
    moved: Instant,
}

impl Readiness {
    /// Nothing is known yet. What has not moved for `stalled_after` is not ready.
    pub fn new(stalled_after: Duration) -> Self {
        Readiness {
            stalled_after,
            seen: Arc::default(),
        }
    }

    /// Looks at the sinks.
    pub fn look(&self, sinks: &[SinkStatus]) {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for sink in sinks {
            let (state, applied, has_more) = {
                let figures = sink.figures();
                let moved = figures.applied_total() + figures.duplicates;
                (
                    figures.state,
                    moved,
                    figures.lag_events.is_some_and(|events| events > 0),
                )
            };
            let known = seen.entry(sink.name.clone()).or_insert(Seen {
                state,
                since: now,
                has_worked: false,
                applied,
                moved: now,
            });
            if known.state != state {
                known.state = state;
                known.since = now;
            }
            known.has_worked |= matches!(state, State::Running | State::Standby);
            if known.applied != applied || !has_more {
                known.applied = applied;
                known.moved = now;
            }
        }
    }

    /// Why a sink is not ready; none if it is.
    pub fn trouble(&self, sink: &SinkStatus) -> Option<String> {
        let code = || {
            let figures = sink.figures();
            let error = figures.last_error.as_ref();
            error.map_or_else(
                || figures.state.name().to_owned(),
                |error| error.code.clone(),
            )
        };
        let state = sink.figures().state;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.get(&sink.name);
        let is_long = |since: Instant| since.elapsed() > self.stalled_after;
        match state {
            State::Standby => None,
            State::Running => {
                let is_stalled = known.is_some_and(|known| is_long(known.moved));
                is_stalled.then(|| "stalled".to_owned())
            }
            // A short pause is no trouble.
            State::Retrying => {
                let is_short = known.is_some_and(|known| {
                    known.has_worked && (known.state != state || !is_long(known.since))
                });
                (!is_short).then(code)
            }
            State::Starting | State::Halted | State::Stopped => Some(code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_move_is_not_ready() {
        let sink = SinkStatus::new("replica", "postgres");
        let sinks = [sink.clone()];
        let readiness = Readiness::new(Duration::ZERO);
        readiness.look(&sinks);
        assert_eq!(readiness.trouble(&sink).as_deref(), Some("starting"));
        sink.set_state(State::Running);
        sink.figures().lag_events = Some(5);
        readiness.look(&sinks);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(readiness.trouble(&sink).as_deref(), Some("stalled"));
        sink.figures().lag_events = Some(0);
        let patient = Readiness::new(Duration::from_secs(60));
        patient.look(&sinks);
        assert_eq!(patient.trouble(&sink), None);
        sink.set_state(State::Retrying);
        assert_eq!(patient.trouble(&sink), None, "a short pause");
        readiness.look(&sinks);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(readiness.trouble(&sink).as_deref(), Some("retrying"));
        sink.set_state(State::Halted);
        assert_eq!(patient.trouble(&sink).as_deref(), Some("halted"));
    }
}
