//! What the sender costs where it has nothing to do: while nothing changes, and while others write WAL.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use serde_json::{Value, json};

use crate::account::{self, FULL_ROWS, rows};
use crate::bed::{sender_pid, start_bed, step};
use crate::measures::median::rounded;
use crate::measures::threads::{self, Thread};
use crate::measures::wal::{bytes_since, position};
use crate::outcome::Outcome;
use crate::table::Table;

/// How long nothing changes.
const IDLE: Duration = Duration::from_secs(30);
/// The server notes its running transactions up to 15 seconds after the last change (LOG_SNAPSHOT_INTERVAL_MS,
/// bgwriter.c); what it writes because of that is not to be measured.
const QUIET_BEFORE: Duration = Duration::from_secs(20);
const QUIET_TIMEOUT: Duration = Duration::from_secs(300);
/// WAL of the tables that are not tracked, for a run of full size.
const UNTRACKED_WAL_BYTES: i64 = 1_000_000_000;

/// Measures.
pub(crate) fn run() -> Outcome {
    let bed = start_bed();
    let database = bed.database("bench");
    let mut client = database.source();
    let sender = sender_pid(&mut client);
    step("a tracked table with one change, then silence", || {
        account::create(&mut client);
        account::run(&mut client, "SELECT cdc_track('account')");
        account::run(&mut client, &account::insert(1));
        account::run(&mut client, "SELECT cdc_wait()");
        account::settle(&mut client);
        wait_for_silence(&mut client);
    });
    let (idle, idle_s, idle_bytes) = step("nothing changes", || {
        let (lsn, before, start) = (position(&mut client), threads::of(sender), Instant::now());
        thread::sleep(IDLE);
        let (after, elapsed) = (threads::of(sender), start.elapsed());
        let used = threads::since(&before, &after);
        (used, elapsed.as_secs_f64(), bytes_since(&mut client, &lsn))
    });
    let wanted_bytes = UNTRACKED_WAL_BYTES * rows() / FULL_ROWS;
    let name = format!(
        "{} MB of WAL of a table that is not tracked",
        wanted_bytes / 1_000_000
    );
    let (load, load_s, load_bytes) = step(&name, || {
        let (before, start) = (threads::of(sender), Instant::now());
        let bytes = write_untracked(&mut client, wanted_bytes);
        // Until the sender has read all of it.
        account::run(&mut client, "SELECT cdc_wait('10 min')");
        let used = threads::since(&before, &threads::of(sender));
        (used, start.elapsed().as_secs_f64(), bytes)
    });
    let gb_of_wal_cpu_s = rounded(threads::total_cpu_s(&load) / (load_bytes as f64 / 1e9));
    let table = table(&idle, idle_s, &load);
    let raw = |used: &[Thread], seconds: f64, bytes: i64| -> Value {
        json!({"seconds": rounded(seconds), "wal_bytes": bytes, "threads": threads::json(used)})
    };
    Outcome {
        figures: json!({
            "cpu_s": threads::total_cpu_s(&idle),
            "wakeups_per_s": wakeups_per_s(&idle, idle_s),
            "wal_bytes": idle_bytes,
            "gb_of_wal_cpu_s": gb_of_wal_cpu_s,
        }),
        raw: json!({
            "idle": raw(&idle, idle_s, idle_bytes),
            "untracked_load": raw(&load, load_s, load_bytes),
        }),
        settings: json!({"idle_s": IDLE.as_secs(), "untracked_wal_bytes": wanted_bytes}),
        table,
    }
}

fn wakeups_per_s(used: &[Thread], seconds: f64) -> f64 {
    rounded(threads::total_wakeups(used) as f64 / seconds)
}

fn table(idle: &[Thread], idle_s: f64, load: &[Thread]) -> Table {
    let mut table = Table::new(&[
        "thread of the sender",
        "CPU s idle",
        "wake-ups/s idle",
        "CPU s in the load",
    ]);
    let in_load = |id: u32| {
        load.iter()
            .find(|thread| thread.id == id)
            .map_or(0.0, |thread| thread.cpu_s)
    };
    for thread in idle {
        table.row(
            &thread.name,
            &[
                format!("{:.2}", thread.cpu_s),
                format!("{:.2}", thread.wakeups as f64 / idle_s),
                format!("{:.2}", in_load(thread.id)),
            ],
        );
    }
    let sums = [
        threads::total_cpu_s(idle),
        wakeups_per_s(idle, idle_s),
        threads::total_cpu_s(load),
    ];
    table.row("all", &sums.map(|sum| format!("{sum:.2}")));
    table
}

/// Waits until the server has written no WAL for a while.
fn wait_for_silence(client: &mut Client) {
    let start = Instant::now();
    let mut last = (position(client), Instant::now());
    while last.1.elapsed() < QUIET_BEFORE {
        assert!(
            start.elapsed() < QUIET_TIMEOUT,
            "the server goes on writing WAL"
        );
        thread::sleep(Duration::from_millis(500));
        let now = position(client);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
}

/// Fills and changes a table that is not tracked until so much WAL was written; returns how much it was.
fn write_untracked(client: &mut Client, bytes: i64) -> i64 {
    let start = position(client);
    account::run(
        client,
        "CREATE TABLE untracked (LIKE account INCLUDING ALL)",
    );
    let insert = account::insert(rows()).replace("INTO account", "INTO untracked");
    let update = account::UPDATE.replace("account", "untracked");
    loop {
        for statement in ["TRUNCATE untracked", &insert, &update] {
            account::run(client, statement);
            let written = bytes_since(client, &start);
            if written >= bytes {
                return written;
            }
        }
    }
}
