//! The figures of a sink: its state, what it did, and how far it is behind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use serde::Serialize;

use crate::event::Op;
use crate::event::own::op_text;
use crate::kafka::record::Record;
use crate::sink::batch::Applied;
use crate::status::histogram::Histogram;
use crate::status::rate::Rate;
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
    pub(super) fn now(error: &Trouble) -> Self {
        LastError {
            code: error.code.to_string(),
            message: error.message.clone(),
            hint: error.remedy.clone(),
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

/// Figures of a sink whose events have effects, since the start of the process.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct EffectFigures {
    /// Effects that were had.
    pub(crate) sent: u64,
    /// Attempts that failed.
    pub(crate) retried: u64,
    /// Events that went to the dead letters.
    pub(crate) refused: u64,
    /// Events that a person has left out.
    pub(crate) skipped: u64,
    /// Events that are not done.
    pub(crate) waiting: u64,
    /// Seconds since the oldest of them was read.
    pub(crate) oldest_waiting_seconds: f64,
    /// Why an attempt failed last.
    pub(crate) last_failure: Option<String>,
}

/// Figures of one sink since the start of the process.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// What the sink does at present.
    pub(crate) state: State,
    /// Partitions that this instance has; none where instances do not share them.
    pub(crate) partitions: Option<usize>,
    /// Events in Kafka that are not applied, in whatever state; none where that is not known.
    pub(crate) apply_lag_events: Option<u64>,
    /// Seconds since the first of them came to Kafka, 0 where there is none; none where that is not known.
    pub(crate) apply_lag_seconds: Option<f64>,
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
    /// Refused events, by reason.
    pub(crate) dead_letters: BTreeMap<Cow<'static, str>, u64>,
    /// Keys whose events are parked behind a refused one.
    pub(crate) parked_keys: u64,
    /// Changes of rows, of tables without a key, that the target did not have.
    pub(crate) unknown_rows: u64,
    /// Keys in the store, of a sink that has one of its own.
    pub(crate) store_keys: Option<u64>,
    /// What that store takes of the disk.
    pub(crate) store_bytes: Option<u64>,
    /// Topics that wait at an event about their table which the target cannot follow, with the reason; the others go on.
    pub(crate) stopped_topics: BTreeMap<String, LastError>,
    /// Effects; none of a sink of another kind.
    pub(crate) effects: Option<EffectFigures>,
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
    pub(super) moved_at: Instant,
    /// Since when some topic has been stopped.
    #[serde(skip)]
    pub(super) stopped_since: Option<Instant>,
    /// When the state became what it is.
    #[serde(skip)]
    pub(super) state_since: Instant,
    /// Since when the sink has been halted or tried again; short attempts between are no end of that.
    #[serde(skip)]
    troubled_since: Option<Instant>,
    /// It was running, or standing by, at some time.
    #[serde(skip)]
    has_worked: bool,
}

impl Figures {
    /// Those of a sink that is about to start.
    pub(super) fn new() -> Self {
        Figures {
            state: State::Starting,
            partitions: None,
            apply_lag_events: None,
            apply_lag_seconds: None,
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
            store_keys: None,
            store_bytes: None,
            stopped_topics: BTreeMap::new(),
            effects: None,
            last_error: None,
            apply_seconds: Histogram::default(),
            latency_seconds: Histogram::default(),
            moved_at: Instant::now(),
            stopped_since: None,
            state_since: Instant::now(),
            troubled_since: None,
            has_worked: false,
        }
    }

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
        for alike in records.chunk_by(|a, b| op_label(a) == op_label(b)) {
            let op = op_label(&alike[0]);
            *self.applied.entry(op).or_default() += alike.len() as u64;
        }
    }

    /// The sink works, so that what was wrong is over.
    pub(super) fn recover(&mut self) {
        self.troubled_since = None;
        self.retrying_since = None;
        if let Some(error) = self.last_error.as_mut()
            && error.over_since.is_none()
        {
            error.over_since = Some(timestamp::rfc3339(timestamp::now_us()));
        }
    }

    pub(super) fn enter(&mut self, state: State) {
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

    pub(super) fn set_lag(&mut self, lag: Lag, stuck_after: Duration) {
        (self.apply_lag_events, self.apply_lag_seconds) = match lag {
            Lag::Unknown => (None, None),
            Lag::None => (Some(0), Some(0.0)),
            Lag::Some { events, seconds } => (Some(events), seconds),
        };
        let is_working = matches!(self.state, State::Running | State::Standby);
        if is_working && self.state_since.elapsed() > WORKS_AFTER {
            let nothing_waits = self.apply_lag_events == Some(0) || self.state == State::Standby;
            if nothing_waits {
                self.recover();
            }
        }
        if self.apply_lag_events == Some(0) || self.state == State::Standby {
            self.moved_at = Instant::now();
        }
        let unmoved = self.moved_at.elapsed();
        let waits = self.apply_lag_events.is_some_and(|events| events > 0);
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
        let op = op_label(record);
        *self.applied.entry(op).or_default() += 1;
    }

    /// All applied events.
    pub(crate) fn applied_total(&self) -> u64 {
        self.applied.values().sum()
    }
}

/// The operation as a label; anything unknown is one label, for a label never comes from outside.
fn op_label(record: &Record) -> &'static str {
    Op::parse(op_text(record)).map_or("malformed", Op::header)
}
