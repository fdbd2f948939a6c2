//! What each sink is doing, for `/v1/status` and `/metrics`.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::civil_time;
use crate::error::Error;
use crate::record::Record;
use crate::sink::Applied;

/// The states of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Connects and looks for its topics.
    Starting,
    /// Applies events.
    Running,
    /// The target or Kafka is out of reach; tried again without end.
    Retrying,
    /// Another instance is active; takes over when that is gone.
    Standby,
    /// Waits for a person: see the last error.
    Halted,
    /// Ended on request.
    Stopped,
}

impl State {
    /// All states.
    pub const ALL: [State; 6] = [
        State::Starting,
        State::Running,
        State::Retrying,
        State::Standby,
        State::Halted,
        State::Stopped,
    ];

    /// The state's name in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Retrying => "retrying",
            State::Standby => "standby",
            State::Halted => "halted",
            State::Stopped => "stopped",
        }
    }
}

/// The last error of a sink.
#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    /// The code of the catalogue.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// When, RFC 3339.
    pub at: String,
}

/// Figures of one sink since the start of the process.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// What the sink does at present.
    pub state: State,
    /// Partitions that this instance has; none where instances do not share them.
    pub partitions: Option<usize>,
    /// Events in Kafka that are not applied.
    pub lag_events: u64,
    /// Seconds from the commit of the last applied event to its application, while there is lag; else 0.
    pub lag_seconds: f64,
    /// Applied events by operation.
    pub applied: BTreeMap<&'static str, u64>,
    /// Later copies that were recognised and dropped.
    pub duplicates: u64,
    /// The same over the last seconds.
    #[serde(skip)]
    pub rate: Rate,
    /// Applied batches.
    pub batches: u64,
    /// Attempts after a failure.
    pub retries: u64,
    /// Events put aside, by reason.
    pub dead_letters: BTreeMap<Cow<'static, str>, u64>,
    /// Keys whose events are parked behind a refused one.
    pub parked_keys: u64,
    /// The last error, also when it is over.
    pub last_error: Option<LastError>,
    /// Seconds that applying a batch took.
    #[serde(skip)]
    pub apply_seconds: Histogram,
    /// Seconds from commit to applied, of the last event of each batch.
    #[serde(skip)]
    pub latency_seconds: Histogram,
}

impl Figures {
    /// Counts the events of an applied batch, and what became of them.
    pub fn count(&mut self, records: &[Record], applied: &Applied) {
        self.count_events(records);
        for reason in &applied.dead_letters {
            *self.dead_letters.entry(reason.clone()).or_default() += 1;
        }
        self.parked_keys = applied.parked_keys;
        let total = self.applied_total();
        self.rate.note(Instant::now(), total);
    }

    /// Counts applied events.
    pub fn count_events(&mut self, records: &[Record]) {
        for alike in records.chunk_by(|a, b| a.op() == b.op()) {
            let op = op_label(alike[0].op());
            *self.applied.entry(op).or_default() += alike.len() as u64;
        }
    }

    /// Events in Kafka that are not applied.
    pub fn set_lag(&mut self, events: u64) {
        self.lag_events = events;
        if events == 0 {
            self.lag_seconds = 0.0;
        }
    }

    /// Counts one applied event.
    pub fn count_event(&mut self, record: &Record) {
        let op = op_label(record.op());
        *self.applied.entry(op).or_default() += 1;
    }

    /// All applied events.
    pub fn applied_total(&self) -> u64 {
        self.applied.values().sum()
    }
}

/// Events per second, over the last ten seconds.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    /// When, and how many events there had been.
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    const WINDOW: Duration = Duration::from_secs(10);

    /// Notes how many events there have been until `now`.
    pub fn note(&mut self, now: Instant, total: u64) {
        self.samples.push_back((now, total));
        // One that is older says where the window begins.
        while let Some((at, _)) = self.samples.get(1)
            && now - *at > Self::WINDOW
        {
            self.samples.pop_front();
        }
    }

    /// Events per second in the window that ends `now`.
    pub fn per_second(&self, now: Instant) -> f64 {
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

/// Counts of observations below each bound.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: [u64; Histogram::BOUNDS.len()],
    /// Number of observations.
    pub count: u64,
    /// Sum of the observations.
    pub sum: f64,
}

impl Histogram {
    /// Upper bounds in seconds.
    pub const BOUNDS: [f64; 12] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
    ];

    /// Counts one observation.
    pub fn observe(&mut self, seconds: f64) {
        self.count += 1;
        self.sum += seconds;
        for (count, bound) in self.counts.iter_mut().zip(Self::BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
    }

    /// Bounds with the number of observations at or below.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        Self::BOUNDS.into_iter().zip(self.counts)
    }
}

/// The figures of one sink, shared with HTTP.
#[derive(Debug, Clone)]
pub struct SinkStatus {
    /// The sink's name.
    pub name: String,
    /// The sink's kind.
    pub kind: &'static str,
    figures: Arc<Mutex<Figures>>,
}

impl SinkStatus {
    /// A sink that is about to start.
    pub fn new(name: &str, kind: &'static str) -> Self {
        SinkStatus {
            name: name.to_owned(),
            kind,
            figures: Arc::new(Mutex::new(Figures {
                state: State::Starting,
                partitions: None,
                lag_events: 0,
                lag_seconds: 0.0,
                applied: BTreeMap::new(),
                duplicates: 0,
                rate: Rate::default(),
                batches: 0,
                retries: 0,
                dead_letters: BTreeMap::new(),
                parked_keys: 0,
                last_error: None,
                apply_seconds: Histogram::default(),
                latency_seconds: Histogram::default(),
            })),
        }
    }

    /// The figures, to read or change them.
    pub fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the state, and logs it when it is new.
    pub fn set_state(&self, state: State) {
        let mut figures = self.figures();
        if figures.state != state {
            figures.state = state;
            drop(figures);
            tracing::info!(sink = %self.name, state = state.name(), "state");
        }
    }

    /// Notes an error.
    pub fn set_error(&self, error: &Error) {
        self.figures().last_error = Some(LastError {
            code: error.code.to_string(),
            message: error.what.clone(),
            hint: error.hint.clone(),
            at: civil_time::rfc3339(civil_time::now_us()),
        });
    }

    /// Notes an applied batch, and when its last event was committed, microseconds since 1970.
    pub fn applied(&self, took: Duration, last_commit_us: Option<i64>) {
        let mut figures = self.figures();
        figures.batches += 1;
        figures.apply_seconds.observe(took.as_secs_f64());
        if let Some(commit_us) = last_commit_us {
            let seconds = civil_time::now_us().saturating_sub(commit_us).max(0) as f64 / 1e6;
            figures.latency_seconds.observe(seconds);
            figures.lag_seconds = seconds;
        }
    }
}

/// The operation as a label; anything unknown is one label, for a label never comes from outside.
fn op_label(op: Option<&str>) -> &'static str {
    const OPS: [&str; 10] = [
        "c", "u", "d", "r", "t", "m", "schema", "snapshot", "barrier", "emit",
    ];
    OPS.into_iter()
        .find(|known| Some(*known) == op)
        .unwrap_or("malformed")
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
