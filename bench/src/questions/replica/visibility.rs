//! From a commit at the source to its visibility in a replica: one connection commits at a fixed rate, another one asks the
//! replica for what it does not have yet.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use serde_json::{Value, json};

use crate::account;
use crate::measures::median::{percentile, rounded};

/// One-row transactions per second: INSERT and UPDATE in turns.
pub(crate) const COMMITS_PER_SECOND: u32 = 300;
/// How long a round takes.
pub(crate) const SECONDS: u32 = 20;
/// Not counted at the start of each round.
const WARM_UP: Duration = Duration::from_secs(2);
/// Between two questions to the replica: what a figure may be too large by. Without a pause the questions would take a core.
const ASK_EVERY: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(120);

/// Transactions of a round.
const COMMITS: i64 = COMMITS_PER_SECOND as i64 * SECONDS as i64;
/// Rows that a round updates, each once: they must be there before, with the ids from 1 on.
pub(crate) const UPDATED_ROWS: i64 = COMMITS / 2;

/// A commit that was acknowledged.
struct Committed {
    id: i64,
    at: Instant,
}

/// What a round came to.
pub(crate) struct Round {
    /// For each commit, milliseconds from its acknowledgement until the replica showed its row.
    pub milliseconds: Vec<f64>,
    /// How often the source committed.
    pub commits_per_s: f64,
}

/// From commit to visibility, an entry per round.
#[derive(Default)]
pub(super) struct Lag {
    pub(super) p50_ms: Vec<f64>,
    pub(super) p99_ms: Vec<f64>,
    max_ms: Vec<f64>,
    commits_per_s: Vec<f64>,
    commits: Vec<usize>,
}

impl Lag {
    pub(super) fn add(&mut self, mut round: Round) {
        let mut at = |percent| rounded(percentile(&mut round.milliseconds, percent));
        self.p50_ms.push(at(50.0));
        self.p99_ms.push(at(99.0));
        self.max_ms.push(at(100.0));
        self.commits_per_s.push(rounded(round.commits_per_s));
        self.commits.push(round.milliseconds.len());
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "max_ms": self.max_ms,
            "commits_per_s": self.commits_per_s,
            "commits": self.commits,
        })
    }
}

/// One round: writes `account` at the source, and reads it in the replica. No other round has the same number.
///
/// # Panics
/// When a statement fails, or the replica does not show a row in time.
pub(crate) fn measure(source: &mut Client, replica: &mut Client, round: i64) -> Round {
    let (committed, inbox) = channel();
    let note = format!("round {round}");
    let (commits_per_s, milliseconds) = thread::scope(|scope| {
        // The writer ends by itself; the reader ends when the writer has and nothing is missing.
        let writer = scope.spawn(|| write(source, round, &note, committed));
        let milliseconds = read(replica, &note, inbox);
        (writer.join().expect("the writer"), milliseconds)
    });
    Round {
        milliseconds,
        commits_per_s,
    }
}

/// Commits at the rate; returns the rate that it reached.
fn write(client: &mut Client, round: i64, note: &str, committed: Sender<Committed>) -> f64 {
    let insert =
        account::insert(1).replace("generate_series(1, 1)", "generate_series($1::bigint, $1)");
    let insert = insert.replace("repeat('note ', 8)", "$2");
    let prepare = |client: &mut Client, statement: &str| {
        client
            .prepare(statement)
            .unwrap_or_else(|e| panic!("{statement}: {e:?}"))
    };
    let insert = prepare(client, &insert);
    let update = prepare(
        client,
        "UPDATE account SET balance = balance + 1, note = $2 WHERE id = $1",
    );
    let interval = Duration::from_secs(1) / COMMITS_PER_SECOND;
    let start = Instant::now();
    for n in 0..COMMITS {
        // By the clock of the whole round, so that a slow commit does not lower the rate.
        let due = start + interval * n as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let (statement, id) = match n % 2 {
            0 => (&insert, round * COMMITS + n),
            _ => (&update, n / 2 + 1),
        };
        let rows = client.execute(statement, &[&id, &note]).expect("a change");
        let at = Instant::now();
        assert_eq!(rows, 1, "rows changed for {id}");
        // The reader has ended only if it failed.
        if committed.send(Committed { id, at }).is_err() {
            break;
        }
    }
    COMMITS as f64 / start.elapsed().as_secs_f64()
}

/// Asks for the rows that are missing until none is; returns the milliseconds of all after the warm-up.
fn read(client: &mut Client, note: &str, inbox: Receiver<Committed>) -> Vec<f64> {
    let question = "SELECT id FROM account WHERE id = ANY ($1) AND note = $2";
    let question = client.prepare(question).expect("a question");
    let start = Instant::now();
    let mut missing: HashMap<i64, Instant> = HashMap::new();
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
            let seen = client.query(&question, &[&ids, &note]).expect("an answer");
            let now = Instant::now();
            for row in &seen {
                last_seen = now;
                let at = missing.remove(&row.get(0)).expect("a row that was missing");
                if at > start + WARM_UP {
                    milliseconds.push(now.duration_since(at).as_secs_f64() * 1e3);
                }
            }
        }
        assert!(
            missing.is_empty() || last_seen.elapsed() < TIMEOUT,
            "the replica does not show {} rows",
            missing.len()
        );
        thread::sleep(ASK_EVERY);
    }
}
