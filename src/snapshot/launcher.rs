//! Starts a snapshot worker in each database that has something to do. Part of the sender, on its main thread.
//!
//! A file for each such database survives restarts: only the database's own table knows what there is to do, and the
//! sender is connected to none.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use change::backoff::Backoff;
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::pg_sys;

use super::attempts::{self, DIRECTORY};
use crate::report::Raise;
use crate::settings;
use crate::shared::Shared;

/// After a worker ended before its work was done; twice as long each time that it ended at once.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);

/// Notes that a database has snapshots to be made.
pub(crate) fn mark(database: u32) -> std::io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    fs::File::create(file_of(database))?.sync_all()?;
    fs::File::open(DIRECTORY)?.sync_all()
}

/// Notes that it has none any more.
pub(crate) fn unmark(database: u32) -> std::io::Result<()> {
    attempts::end(database);
    match fs::remove_file(file_of(database)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn file_of(database: u32) -> String {
    format!("{DIRECTORY}/{database}")
}

fn is_marked(database: u32) -> bool {
    fs::exists(file_of(database)).unwrap_or(true)
}

/// The databases that have notes. Snapshots of which nothing can be read go on when somebody asks for another.
fn marked() -> Vec<u32> {
    let names = fs::read_dir(DIRECTORY).and_then(|entries| {
        let names = entries.map(|entry| Ok(entry?.file_name()));
        names.collect::<std::io::Result<Vec<_>>>()
    });
    match names {
        Ok(names) => names
            .iter()
            // Other files than notes have other names.
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect(),
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                pgrx::log!("pg_cdc: {DIRECTORY} cannot be read: {error}");
            }
            Vec::new()
        }
    }
}

/// Whether a database of this oid is still there: its files are, wherever it lies. The catalog is another process's to
/// read: this one is connected to no database.
fn exists(database: u32) -> bool {
    if fs::exists(format!("base/{database}")).unwrap_or(true) {
        return true;
    }
    // pg_tblspc/<tablespace>/<version>/<database>
    let below = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    below("pg_tblspc".into())
        .flat_map(|tablespace| below(tablespace.path()))
        .any(|version| fs::exists(version.path().join(database.to_string())).unwrap_or(true))
}

/// The workers that run, and the databases that wait for one.
pub(crate) struct Launcher {
    seen_requests: u64,
    running: Vec<(u32, DynamicBackgroundWorker, Instant)>,
    due: BTreeMap<u32, Instant>,
    /// How long to wait where a worker ended at once.
    pauses: BTreeMap<u32, Backoff>,
}

impl Launcher {
    /// Begins with what the files say.
    pub(crate) fn new() -> Launcher {
        let now = Instant::now();
        Launcher {
            seen_requests: 0,
            running: Vec::new(),
            // Whoever wants to stop one that crashes the server must find it up.
            due: marked()
                .into_iter()
                .map(|database| match attempts::is_open(database) {
                    true => (database, now + AGAIN),
                    false => (database, now),
                })
                .collect(),
            pauses: BTreeMap::new(),
        }
    }

    /// Does what is to be done now; next to nothing where there is no snapshot.
    pub(crate) fn tend(&mut self, shared: &Shared) {
        let requests = shared.snapshots.requests();
        if requests != self.seen_requests {
            self.seen_requests = requests;
            for database in shared.snapshots.take_wanted() {
                if let Err(error) = mark(database) {
                    pgrx::log!("pg_cdc: {} cannot be written: {error}", file_of(database));
                }
                self.due.insert(database, Instant::now());
                self.pauses.remove(&database);
            }
        }
        if !self.running.is_empty() {
            let (due, pauses) = (&mut self.due, &mut self.pauses);
            self.running.retain(|(database, worker, since)| {
                let stopped = matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped));
                if stopped {
                    ended(*database, *since, due, pauses);
                }
                !stopped
            });
        }
        let waiting = match self.due.is_empty() {
            true => 0,
            false => self.start_due(),
        };
        shared.snapshots.set_waiting(waiting);
    }

    /// Starts a worker in each database whose time has come, the one that waits longest first, as far as there may be as many; how
    /// many wait then.
    fn start_due(&mut self) -> u32 {
        let now = Instant::now();
        let mut ready: Vec<(Instant, u32)> = self
            .due
            .iter()
            .filter(|(database, at)| {
                **at <= now
                    && self
                        .running
                        .iter()
                        .all(|(running, ..)| running != *database)
            })
            .map(|(database, at)| (*at, *database))
            .collect();
        ready.sort_unstable();
        for (started, (_, database)) in ready.iter().copied().enumerate() {
            if self.running.len() >= settings::SNAPSHOT_WORKERS.get() as usize {
                return (ready.len() - started) as u32;
            }
            match start(database) {
                Some(worker) => {
                    self.due.remove(&database);
                    self.running.push((database, worker, now));
                }
                None => {
                    self.due.insert(database, now + AGAIN);
                }
            }
        }
        0
    }
}

/// A worker has ended. One that cannot connect (the database was dropped, or allows no connections) ends at once.
fn ended(
    database: u32,
    since: Instant,
    due: &mut BTreeMap<u32, Instant>,
    pauses: &mut BTreeMap<u32, Backoff>,
) {
    if !is_marked(database) {
        pauses.remove(&database);
        return;
    }
    if !exists(database) {
        if let Err(error) = unmark(database) {
            pgrx::log!("pg_cdc: {} cannot be removed: {error}", file_of(database));
        }
        pauses.remove(&database);
        return;
    }
    let backoff = pauses
        .entry(database)
        .or_insert(Backoff::new(AGAIN, AGAIN_AT_MOST));
    if since.elapsed() >= AGAIN {
        backoff.reset();
    }
    let pause = backoff.pause();
    due.entry(database).or_insert(Instant::now() + pause);
}

/// None where no background worker is free.
fn start(database: u32) -> Option<DynamicBackgroundWorker> {
    let worker = BackgroundWorkerBuilder::new("pg_cdc snapshot")
        .set_type("pg_cdc snapshot")
        .set_library("pg_cdc")
        .set_function("pg_cdc_snapshot_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        // SAFETY: a plain read of this process's own pid.
        .set_notify_pid(unsafe { pg_sys::MyProcPid })
        .set_argument(Some(pg_sys::Datum::from(database)))
        .load_dynamic();
    if worker.is_err() {
        crate::report::no_worker()
            .detail("A snapshot waits for a background worker.")
            .log();
    }
    worker.ok()
}
