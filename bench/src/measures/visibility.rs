//! From a commit to its visibility in a target: one connection commits at a fixed rate, another one asks the target for what it
//! does not have yet.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::measures::median::{percentile, rounded};

/// Between two questions to the target: what a figure may be too large by. Without a pause the questions would take a core.
const ASK_EVERY: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(120);

/// The commits of a round.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// How often there is one.
    pub commits_per_second: u32,
    /// Those at the start that are not counted.
    pub warm_up: i64,
    /// Those that are.
    pub counted: i64,
}

impl Load {
    /// All of them.
    pub(crate) const fn commits(self) -> i64 {
        self.warm_up + self.counted
    }

    /// As JSON.
    pub(crate) fn json(self) -> Value {
        json!({
            "commits_per_second_wanted": self.commits_per_second,
            "warm_up_commits": self.warm_up,
            "counted_commits": self.counted,
        })
    }
}

/// A commit that was acknowledged.
struct Committed {
    id: i64,
    /// None where it is not counted.
    at: Option<Instant>,
}

/// What a round came to.
pub(crate) struct Round {
    /// For each commit, milliseconds from its acknowledgement until the target showed it.
    pub milliseconds: Vec<f64>,
    /// How often the source committed.
    pub commits_per_s: f64,
}

/// From commit to visibility, an entry per round.
#[derive(Default)]
pub(crate) struct Lag {
    pub p50_ms: Vec<f64>,
    pub p99_ms: Vec<f64>,
    pub max_ms: Vec<f64>,
    pub commits_per_s: Vec<f64>,
    commits: Vec<usize>,
}

impl Lag {
    pub(crate) fn add(&mut self, mut round: Round) {
        let mut at = |percent| rounded(percentile(&mut round.milliseconds, percent));
        self.p50_ms.push(at(50.0));
        self.p99_ms.push(at(99.0));
        self.max_ms.push(at(100.0));
        self.commits_per_s.push(rounded(round.commits_per_s));
        self.commits.push(round.milliseconds.len());
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "max_ms": self.max_ms,
            "commits_per_s": self.commits_per_s,
            "commits": self.commits,
        })
    }
}

/// One round. `change` makes the nth commit and returns an id that no other one has; `seen` returns those of these ids that the
/// target shows.
///
/// # Panics
/// When one of them does, or the target does not show a commit in time.
pub(crate) fn measure(
    load: Load,
    change: impl FnMut(i64) -> i64 + Send,
    seen: impl FnMut(&[i64]) -> Vec<i64>,
) -> Round {
    let (committed, inbox) = channel();
    let (commits_per_s, milliseconds) = thread::scope(|scope| {
        // The writer ends by itself; the reader ends when the writer has and nothing is missing.
        let writer = scope.spawn(|| write(load, change, committed));
        let milliseconds = read(seen, inbox);
        (writer.join().expect("the writer"), milliseconds)
    });
    Round {
        milliseconds,
        commits_per_s,
    }
}

/// Commits at the rate; returns the rate that it reached.
fn write(load: Load, mut change: impl FnMut(i64) -> i64, committed: Sender<Committed>) -> f64 {
    let interval = Duration::from_secs(1) / load.commits_per_second;
    let start = Instant::now();
    for n in 0..load.commits() {
        // By the clock of the whole round, so that a slow commit does not lower the rate.
        let due = start + interval * n as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let id = change(n);
        let at = (n >= load.warm_up).then(Instant::now);
        // The reader has ended only if it failed.
        if committed.send(Committed { id, at }).is_err() {
            break;
        }
    }
    load.commits() as f64 / start.elapsed().as_secs_f64()
}

/// Asks for the ids that are missing until none is; returns the milliseconds of all that are counted.
fn read(mut seen: impl FnMut(&[i64]) -> Vec<i64>, inbox: Receiver<Committed>) -> Vec<f64> {
    let mut missing: HashMap<i64, Option<Instant>> = HashMap::new();
    let mut milliseconds = Vec::new();
    let mut last_seen = Instant::now();
    loop {
        let more = loop {
            match inbox.try_recv() {
                Ok(Committed { id, at }) => missing.insert(id, at),
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            };
        };
        if missing.is_empty() && !more {
            return milliseconds;
        }
        if !missing.is_empty() {
            let ids: Vec<i64> = missing.keys().copied().collect();
            let ids = seen(&ids);
            let now = Instant::now();
            for id in ids {
                last_seen = now;
                if let Some(at) = missing.remove(&id).expect("an id that was missing") {
                    milliseconds.push(now.duration_since(at).as_secs_f64() * 1e3);
                }
            }
        }
        assert!(
            missing.is_empty() || last_seen.elapsed() < TIMEOUT,
            "the target does not show {} commits",
            missing.len()
        );
        thread::sleep(ASK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_seen_once() {
        let load = Load {
            commits_per_second: 1000,
            warm_up: 10,
            counted: 40,
        };
        let shown = std::sync::Mutex::new(Vec::new());
        let round = measure(
            load,
            |n| {
                shown.lock().expect("the ids").push(n);
                n
            },
            |ids| {
                let shown = shown.lock().expect("the ids");
                ids.iter()
                    .copied()
                    .filter(|id| shown.contains(id))
                    .collect()
            },
        );
        assert_eq!(round.milliseconds.len(), 40);
        let mut lag = Lag::default();
        lag.add(round);
        assert!(lag.max_ms[0] >= lag.p50_ms[0], "{}", lag.json());
    }
}
