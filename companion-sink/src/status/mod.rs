//! What each sink is doing, for `/v1/status` and `/metrics`.

use crate::event::Op;
use crate::status::histogram::Histogram;

pub(crate) mod histogram;

use crate::status::rate::Rate;

pub(crate) mod rate;

mod ends;
pub(crate) mod lag;
pub(crate) mod prometheus;
pub(crate) mod sender;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Error;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::batch::Applied;
use crate::sink::batch::Move;
use crate::timestamp;

/// A sink that has been running so long, and has nothing to do, works.
const WORKS_AFTER: Duration = Duration::from_secs(3);

/// The states of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
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
    pub(crate) const ALL: [State; 6] = [
        State::Starting,
        State::Running,
        State::Retrying,
        State::Standby,
        State::Halted,
        State::Stopped,
    ];

    /// The state's name in status and metrics.
    pub(crate) fn name(self) -> &'static str {
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
pub(crate) struct LastError {
    /// The code of the catalogue.
    pub(crate) code: String,
    /// What happened.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: String,
    /// When, RFC 3339.
    pub(crate) at: String,
    /// Since when it is over, RFC 3339; none while it is not.
    pub(crate) over_since: Option<String>,
}

impl LastError {
    fn now(error: &Error) -> Self {
        LastError {
            code: error.code.to_string(),
            message: error.what.clone(),
            hint: error.hint.clone(),
            at: timestamp::rfc3339(timestamp::now_us()),
            over_since: None,
        }
    }
}

/// How far a sink is behind what Kafka holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Lag {
    /// That cannot be known at present, or another instance says it.
    Unknown,
    /// Everything is applied.
    None,
    /// Events wait.
    Some {
        /// How many.
        events: u64,
        /// Seconds since the first of them came, if that is known.
        seconds: Option<f64>,
    },
}

/// How far a sink is, whatever state it is in.
#[derive(Debug, Default)]
struct PartitionProgress {
    /// The offsets that come next.
    next: HashMap<TopicPartition, i64>,
}

/// Figures of one sink since the start of the process.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// What the sink does at present.
    pub(crate) state: State,
    /// Partitions that this instance has; none where instances do not share them.
    pub(crate) partitions: Option<usize>,
    /// Events in Kafka that are not applied, in whatever state; none where that is not known.
    pub(crate) lag_events: Option<u64>,
    /// Seconds since the first of them came to Kafka, 0 where there is none; none where that is not known.
    pub(crate) lag_seconds: Option<f64>,
    /// Seconds since the sink applied something, while something waits.
    pub(crate) unmoved_seconds: Option<f64>,
    /// Since when it is tried again without success, RFC 3339; none where it is not.
    pub(crate) retrying_since: Option<String>,
    /// It has been halted, tried again, or applied nothing though something waits, or a topic has been stopped, for longer than
    /// `stuck_after`.
    pub(crate) stuck: bool,
    /// Which of these.
    pub(crate) stuck_because: Option<String>,
    /// Applied events by operation.
    pub(crate) applied: BTreeMap<&'static str, u64>,
    /// Later copies that were recognised and dropped.
    pub(crate) duplicates: u64,
    /// The same over the last seconds.
    #[serde(skip)]
    pub(crate) rate: Rate,
    /// Applied batches.
    pub(crate) batches: u64,
    /// Attempts after a failure.
    pub(crate) retries: u64,
    /// Events put aside, by reason.
    pub(crate) dead_letters: BTreeMap<Cow<'static, str>, u64>,
    /// Keys whose events are parked behind a refused one.
    pub(crate) parked_keys: u64,
    /// Changes of rows, of tables without a key, that the target did not have.
    pub(crate) unknown_rows: u64,
    /// Topics that wait at an event about their table which the target cannot follow, with the reason; the others go on.
    pub(crate) stopped_topics: BTreeMap<String, LastError>,
    /// The last error, also when it is over.
    pub(crate) last_error: Option<LastError>,
    /// Seconds that applying a batch took.
    #[serde(skip)]
    pub(crate) apply_seconds: Histogram,
    /// Seconds from commit to applied, of the last event of each batch.
    #[serde(skip)]
    pub(crate) latency_seconds: Histogram,
    /// When something was applied last, or nothing waited.
    #[serde(skip)]
    moved_at: Instant,
    /// Since when some topic has been stopped.
    #[serde(skip)]
    stopped_since: Option<Instant>,
    /// When the state became what it is.
    #[serde(skip)]
    state_since: Instant,
    /// Since when the sink has been halted or tried again; short attempts between are no end of that.
    #[serde(skip)]
    troubled_since: Option<Instant>,
    /// It was running, or standing by, at some time.
    #[serde(skip)]
    has_worked: bool,
}

impl Figures {
    /// Counts the events of an applied batch, and what became of them.
    pub(crate) fn count(&mut self, records: &[Record], applied: &Applied) {
        self.count_events(records);
        for reason in &applied.dead_letters {
            *self.dead_letters.entry(reason.clone()).or_default() += 1;
        }
        self.parked_keys = applied.parked_keys;
        self.unknown_rows += applied.unknown_rows;
        let total = self.applied_total();
        self.rate.note(Instant::now(), total);
    }

    /// Counts applied events.
    pub(crate) fn count_events(&mut self, records: &[Record]) {
        for alike in records.chunk_by(|a, b| a.op() == b.op()) {
            let op = op_label(alike[0].op());
            *self.applied.entry(op).or_default() += alike.len() as u64;
        }
    }

    /// The sink works, so that what was wrong is over.
    fn recover(&mut self) {
        self.troubled_since = None;
        self.retrying_since = None;
        if let Some(error) = self.last_error.as_mut()
            && error.over_since.is_none()
        {
            error.over_since = Some(timestamp::rfc3339(timestamp::now_us()));
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.has_worked |= matches!(state, State::Running | State::Standby);
        self.state_since = Instant::now();
        if matches!(state, State::Retrying | State::Halted) {
            self.troubled_since.get_or_insert(self.state_since);
        }
        if state == State::Retrying && self.retrying_since.is_none() {
            self.retrying_since = Some(timestamp::rfc3339(timestamp::now_us()));
        }
        if state == State::Halted {
            self.retrying_since = None;
        }
    }

    /// Why the sink is not ready, for `/readyz`; none if it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        let error = self.last_error.as_ref().map(|error| error.code.as_str());
        let code = error.unwrap_or(self.state.name());
        let trouble = match self.state {
            State::Standby => None,
            State::Running => self.stuck.then_some("stuck"),
            // A short pause is no trouble.
            State::Retrying => (self.stuck || !self.has_worked).then_some(code),
            State::Starting | State::Halted | State::Stopped => Some(code),
        };
        trouble.map(str::to_owned)
    }

    fn set_lag(&mut self, lag: Lag, stuck_after: Duration) {
        (self.lag_events, self.lag_seconds) = match lag {
            Lag::Unknown => (None, None),
            Lag::None => (Some(0), Some(0.0)),
            Lag::Some { events, seconds } => (Some(events), seconds),
        };
        let is_working = matches!(self.state, State::Running | State::Standby);
        if is_working && self.state_since.elapsed() > WORKS_AFTER {
            let nothing_waits = self.lag_events == Some(0) || self.state == State::Standby;
            if nothing_waits {
                self.recover();
            }
        }
        if self.lag_events == Some(0) || self.state == State::Standby {
            self.moved_at = Instant::now();
        }
        let unmoved = self.moved_at.elapsed();
        let waits = self.lag_events.is_some_and(|events| events > 0);
        self.unmoved_seconds = waits.then_some(unmoved.as_secs_f64());
        let troubled = self.troubled_since.map(|since| since.elapsed());
        let seconds = stuck_after.as_secs_f64();
        self.stuck_because = match (self.state, troubled) {
            (State::Stopped | State::Standby, _) => None,
            (State::Halted, Some(troubled)) if troubled > stuck_after => {
                Some(format!("halted for more than {seconds} s"))
            }
            (State::Halted, _) => None,
            (_, Some(troubled)) if troubled > stuck_after => {
                Some(format!("tried again for more than {seconds} s"))
            }
            _ if self
                .stopped_since
                .is_some_and(|since| since.elapsed() > stuck_after) =>
            {
                let topic = self.stopped_topics.keys().next();
                topic.map(|topic| {
                    format!("topic {topic} has been stopped for more than {seconds} s")
                })
            }
            _ if waits && unmoved > stuck_after => Some(format!(
                "nothing was applied for more than {seconds} s though events wait"
            )),
            _ => None,
        };
        self.stuck = self.stuck_because.is_some();
    }

    /// Counts one applied event.
    pub(crate) fn count_event(&mut self, record: &Record) {
        let op = op_label(record.op());
        *self.applied.entry(op).or_default() += 1;
    }

    /// All applied events.
    pub(crate) fn applied_total(&self) -> u64 {
        self.applied.values().sum()
    }
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
            figures: Arc::new(Mutex::new(Figures {
                state: State::Starting,
                partitions: None,
                lag_events: None,
                lag_seconds: None,
                unmoved_seconds: None,
                retrying_since: None,
                stuck: false,
                stuck_because: None,
                applied: BTreeMap::new(),
                duplicates: 0,
                rate: Rate::default(),
                batches: 0,
                retries: 0,
                dead_letters: BTreeMap::new(),
                parked_keys: 0,
                unknown_rows: 0,
                stopped_topics: BTreeMap::new(),
                last_error: None,
                apply_seconds: Histogram::default(),
                latency_seconds: Histogram::default(),
                moved_at: Instant::now(),
                stopped_since: None,
                state_since: Instant::now(),
                troubled_since: None,
                has_worked: false,
            })),
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
    pub(crate) fn set_error(&self, error: &Error) {
        self.figures().last_error = Some(LastError::now(error));
    }

    /// A topic waits at an event that the target cannot follow.
    pub(crate) fn stops_at(&self, topic: &str, error: &Error) {
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

/// The operation as a label; anything unknown is one label, for a label never comes from outside.
fn op_label(op: Option<Op>) -> &'static str {
    op.map_or("malformed", Op::header)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (figures.lag_events, figures.stuck)
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
        status.set_error(&Error::configuration("x", "y"));
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
