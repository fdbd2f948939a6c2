//! What each sink is doing, for `/v1/status` and `/metrics`.

mod ends;
pub(crate) mod figures;
pub(crate) mod histogram;
pub(crate) mod lag;
pub(crate) mod prometheus;
pub(crate) mod rate;
pub(crate) mod sender;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use change::trouble::Trouble;
pub(crate) use figures::{EffectFigures, Figures, Lag, LastError, State};

use crate::kafka::reader::TopicPartition;
use crate::sink::batch::Move;
use crate::timestamp;

/// How far a sink is, whatever state it is in.
#[derive(Debug, Default)]
struct PartitionProgress {
    /// The offsets that come next.
    next: HashMap<TopicPartition, i64>,
}

/// The figures of one sink, shared with HTTP.
#[derive(Debug, Clone)]
pub(crate) struct SinkStatus {
    /// The sink's name.
    pub(crate) name: String,
    /// The sink's kind.
    pub(crate) kind: &'static str,
    figures: Arc<Mutex<Figures>>,
    progress: Arc<Mutex<PartitionProgress>>,
}

impl SinkStatus {
    /// A sink that is about to start.
    pub(crate) fn new(name: &str, kind: &'static str) -> Self {
        SinkStatus {
            name: name.to_owned(),
            kind,
            figures: Arc::new(Mutex::new(Figures::new())),
            progress: Arc::default(),
        }
    }

    /// The figures, to read or change them.
    pub(crate) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, PartitionProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target has everything of a partition before `next`.
    pub(crate) fn is_at(&self, at: &TopicPartition, next: i64) {
        self.progress().next.insert(at.clone(), next);
    }

    /// A batch brought partitions on.
    pub(crate) fn moved(&self, moves: &[Move]) {
        let mut progress = self.progress();
        for moved in moves {
            match progress.next.get_mut(&moved.at) {
                Some(next) => *next = moved.end,
                None => drop(progress.next.insert(moved.at.clone(), moved.end)),
            }
        }
    }

    /// Nothing before `next` is left of a partition that is known: what lies between are markers of Kafka's transactions.
    pub(crate) fn has_nothing_before(&self, at: &TopicPartition, next: i64) {
        if let Some(known) = self.progress().next.get_mut(at) {
            *known = next.max(*known);
        }
    }

    /// Another instance has the partition.
    pub(crate) fn gives_up(&self, at: &TopicPartition) {
        self.progress().next.remove(at);
    }

    /// How far the sink is.
    pub(crate) fn positions(&self) -> HashMap<TopicPartition, i64> {
        self.progress().next.clone()
    }

    /// Notes how far the sink is behind what Kafka holds, and whether it moves.
    pub(crate) fn set_lag(&self, lag: Lag, stuck_after: Duration) {
        self.figures().set_lag(lag, stuck_after);
    }

    /// Notes that a part of a transaction was applied.
    pub(crate) fn works(&self) {
        self.figures().moved_at = Instant::now();
    }

    /// Notes the state, and logs it when it is new.
    pub(crate) fn set_state(&self, state: State) {
        let mut figures = self.figures();
        if figures.state != state {
            figures.enter(state);
            drop(figures);
            tracing::info!(sink = %self.name, state = state.name(), "state");
        }
    }

    /// Notes an error.
    pub(crate) fn set_error(&self, error: &Trouble) {
        self.figures().last_error = Some(LastError::now(error));
    }

    /// A topic waits at an event that the target cannot follow.
    pub(crate) fn stops_at(&self, topic: &str, error: &Trouble) {
        let mut figures = self.figures();
        let at = figures
            .stopped_topics
            .get(topic)
            .map(|known| known.at.clone());
        let mut stopped = LastError::now(error);
        stopped.at = at.unwrap_or(stopped.at);
        figures.stopped_topics.insert(topic.to_owned(), stopped);
        figures.stopped_since.get_or_insert_with(Instant::now);
    }

    /// The topic goes on.
    pub(crate) fn goes_on(&self, topic: &str) {
        let mut figures = self.figures();
        figures.stopped_topics.remove(topic);
        if figures.stopped_topics.is_empty() {
            figures.stopped_since = None;
        }
    }

    /// A new run: which topics are stopped is found out again.
    pub(crate) fn begins_anew(&self) {
        let mut figures = self.figures();
        figures.stopped_topics.clear();
        figures.stopped_since = None;
    }

    /// Notes an applied batch, and when its last event was committed, microseconds since 1970.
    pub(crate) fn applied(&self, took: Duration, last_commit_us: Option<i64>) {
        let mut figures = self.figures();
        figures.batches += 1;
        figures.moved_at = Instant::now();
        figures.recover();
        figures.apply_seconds.observe(took.as_secs_f64());
        if let Some(commit_us) = last_commit_us {
            let seconds = timestamp::now_us().saturating_sub(commit_us).max(0) as f64 / 1e6;
            figures.latency_seconds.observe(seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::misconfigured;

    #[test]
    fn what_does_not_move_is_stuck() {
        let status = SinkStatus::new("replica", "postgres");
        let limit = Duration::from_millis(20);
        let waiting = Lag::Some {
            events: 3,
            seconds: Some(1.0),
        };
        let look = |lag| {
            status.set_lag(lag, limit);
            let figures = status.figures();
            (figures.apply_lag_events, figures.stuck)
        };
        status.set_state(State::Running);
        std::thread::sleep(limit * 2);
        assert_eq!(look(Lag::None), (Some(0), false));
        assert_eq!(look(waiting), (Some(3), false), "it has just come");
        std::thread::sleep(limit * 2);
        assert_eq!(look(waiting), (Some(3), true));
        status.applied(limit, None);
        assert_eq!(look(waiting), (Some(3), false));
        // What is tried again in vain is so also where nothing is known, and between the attempts.
        status.set_error(&misconfigured("x", "y"));
        status.set_state(State::Retrying);
        let since = status.figures().retrying_since.clone();
        assert!(since.is_some());
        std::thread::sleep(limit * 2);
        status.set_state(State::Running);
        assert_eq!(look(Lag::Unknown), (None, true));
        status.set_state(State::Retrying);
        assert_eq!(status.figures().retrying_since, since);
        let is_over = || {
            let figures = status.figures();
            let error = figures.last_error.as_ref().unwrap();
            error.over_since.is_some()
        };
        assert!(!is_over());
        status.set_state(State::Running);
        status.applied(limit, None);
        assert_eq!(look(Lag::Unknown), (None, false));
        assert!(is_over() && status.figures().retrying_since.is_none());
    }

    #[test]
    fn what_is_stuck_is_not_ready() {
        let status = SinkStatus::new("replica", "postgres");
        let trouble = || status.figures().trouble();
        let look = |limit| {
            let lag = Lag::Some {
                events: 5,
                seconds: None,
            };
            status.set_lag(lag, limit);
        };
        assert_eq!(trouble().as_deref(), Some("starting"));
        status.set_state(State::Retrying);
        assert_eq!(trouble().as_deref(), Some("retrying"), "it never worked");
        status.set_state(State::Running);
        status.applied(Duration::ZERO, None);
        look(Duration::from_secs(60));
        assert_eq!(trouble(), None);
        look(Duration::ZERO);
        assert_eq!(trouble().as_deref(), Some("stuck"));
        look(Duration::from_secs(60));
        status.set_state(State::Retrying);
        assert_eq!(trouble(), None, "a short pause");
        look(Duration::ZERO);
        assert_eq!(trouble().as_deref(), Some("retrying"));
        status.set_state(State::Standby);
        look(Duration::ZERO);
        assert_eq!(trouble(), None);
        status.set_state(State::Halted);
        assert_eq!(trouble().as_deref(), Some("halted"));
    }
}
