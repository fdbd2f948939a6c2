//! Starts a snapshot worker in each database that has something to do. Part of the sender, on its main thread.
//!
//! A file for each such database survives restarts: only the database's own table knows what there is to do, and the
//! sender is connected to none.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::pg_sys;

use crate::settings;
use crate::shared::Shared;

/// Below the data directory, which is the server's working directory.
const DIRECTORY: &str = "pg_cdc/snapshots";
/// After a worker ended before its work was done.
const AGAIN: Duration = Duration::from_secs(5);

/// Notes that a database has snapshots to be made.
pub fn mark(database: u32) -> std::io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    fs::File::create(file_of(database))?.sync_all()?;
    fs::File::open(DIRECTORY)?.sync_all()
}

/// Notes that it has none any more.
pub fn unmark(database: u32) -> std::io::Result<()> {
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

fn marked() -> Vec<u32> {
    let names = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The workers that run, and the databases that wait for one.
pub struct Launcher {
    seen_requests: u64,
    running: Vec<(u32, DynamicBackgroundWorker)>,
    due: BTreeMap<u32, Instant>,
}

impl Launcher {
    /// Begins with what the files say.
    pub fn new() -> Launcher {
        let now = Instant::now();
        Launcher {
            seen_requests: 0,
            running: Vec::new(),
            due: marked()
                .into_iter()
                .map(|database| (database, now))
                .collect(),
        }
    }

    /// Does what is to be done now; next to nothing where there is no snapshot.
    pub fn tend(&mut self, shared: &Shared) {
        let requests = shared.snapshots.requests();
        if requests != self.seen_requests {
            self.seen_requests = requests;
            for database in shared.snapshots.take_wanted() {
                if let Err(error) = mark(database) {
                    pgrx::log!("pg_cdc: {} cannot be written: {error}", file_of(database));
                }
                self.due.insert(database, Instant::now());
            }
        }
        if !self.running.is_empty() {
            let due = &mut self.due;
            self.running.retain(|(database, worker)| {
                let stopped = matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped));
                if stopped && is_marked(*database) {
                    due.entry(*database).or_insert(Instant::now() + AGAIN);
                }
                !stopped
            });
        }
        if !self.due.is_empty() {
            self.start_due();
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        let ready: Vec<u32> = self
            .due
            .iter()
            .filter(|(database, at)| {
                **at <= now && self.running.iter().all(|(running, _)| running != *database)
            })
            .map(|(database, _)| *database)
            .collect();
        for database in ready {
            if self.running.len() >= settings::SNAPSHOT_WORKERS.get() as usize {
                return;
            }
            match start(database) {
                Some(worker) => {
                    self.due.remove(&database);
                    self.running.push((database, worker));
                }
                None => {
                    self.due.insert(database, now + AGAIN);
                }
            }
        }
    }
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
        crate::api::track::no_worker()
            .detail("A snapshot waits for a background worker.")
            .log();
    }
    worker.ok()
}
