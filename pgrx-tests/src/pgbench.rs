//! pgbench, PostgreSQL's own load generator, with a script of the test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::postgres::Postgres;
use crate::process::{self, Process};
use crate::{Database, wait_until};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `script` with further arguments (`-T`, `-c`) to its end; returns what pgbench printed.
///
/// # Panics
/// When it fails, with what it printed.
pub fn run(server: &Postgres, database: &str, script: &str, arguments: &[&str]) -> String {
    let (command, _) = command(server, database, script, arguments);
    process::run(command, None)
}

/// Starts `script` with further arguments; it goes on until it is stopped.
///
/// # Panics
/// When it cannot be started.
pub fn start<'a>(database: &'a Database<'a>, script: &str, arguments: &[&str]) -> Pgbench<'a> {
    let (command, log) = command(database.bed().source(), database.name(), script, arguments);
    let process = Process::start("pgbench", command, None, &log, libc::SIGKILL);
    Pgbench {
        database,
        process,
        log,
    }
}

/// A running pgbench. Dropping it kills it.
#[derive(Debug)]
pub struct Pgbench<'a> {
    database: &'a Database<'a>,
    process: Process,
    log: PathBuf,
}

impl Pgbench<'_> {
    /// What it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Stops it, and waits until what it was doing is over.
    ///
    /// # Panics
    /// When it has ended before, or a client had an error; with what it printed.
    pub fn stop(mut self) {
        self.process
            .check_running()
            .unwrap_or_else(|e| panic!("{e}"));
        let output = self.output();
        assert!(!output.contains("error:"), "{output}");
        self.process.stop(libc::SIGTERM, TIMEOUT);
        let query = "SELECT count(*) FROM pg_stat_activity
            WHERE application_name = 'pgbench' AND datname = current_database()";
        let mut client = self.database.source();
        wait_until("pgbench's sessions to end", TIMEOUT, || {
            match client
                .query_one(query, &[])
                .expect("sessions")
                .get::<_, i64>(0)
            {
                0 => Ok(()),
                count => Err(count.to_string()),
            }
        });
    }
}

/// The command, and the file for what it prints.
fn command(
    server: &Postgres,
    database: &str,
    script: &str,
    arguments: &[&str],
) -> (Command, PathBuf) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = |ending: &str| {
        server
            .log_file()
            .with_file_name(format!("pgbench-{number}.{ending}"))
    };
    let path = file("sql");
    std::fs::write(&path, script).expect("write pgbench's script");
    let path = path.display().to_string();
    let arguments = [&["-n", "-f", &path], arguments, &[database]].concat();
    let command = server.command("pgbench", &arguments);
    (command, file("log"))
}
