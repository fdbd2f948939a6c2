//! The background worker that makes the snapshots of one database, one after the other, and ends.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use change::code::Code;
use change::trouble::Trouble;
use pgrx::PgTryBuilder;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::chunk::{self, Reader};
use super::job::{Job, Jobs, failure};
use super::{attempts, launcher};
use crate::report::Raise;
use crate::sender::sleep::{interrupts, pause};
use crate::settings;
use crate::shared::{self, Shared};
use crate::tracked::partitions::below;
use crate::{ffi, report};

/// The net below everything that wakes the worker.
const TICK_MS: i64 = 1000;
/// After so long it is another owner's turn, or another database's, if one waits.
const TURN: Duration = Duration::from_secs(10);
/// So long a writer is waited for before it is looked again whether that is still wanted.
const WRITER_LOOK_MS: i32 = 500;
/// How output functions and planner are set while rows are read: keys as text that reads back, and in the order of their
/// index, so that no chunk sorts the table.
const SETTINGS: [(&std::ffi::CStr, &std::ffi::CStr); 16] = [
    (c"application_name", c"pg_cdc snapshot"),
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    // A chunk is nothing that a standby must have first: its rows are.
    (c"synchronous_commit", c"local"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    (c"row_security", c"off"),
    (c"DateStyle", c"ISO, YMD"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"enable_seqscan", c"off"),
    (c"enable_sort", c"off"),
    // What is off costs so much on paper that every statement would be compiled.
    (c"jit", c"off"),
];

thread_local! {
    /// The place in shared memory, for the exit callback.
    static SLOT: Cell<Option<u32>> = const { Cell::new(None) };
    /// A chunk is noted as being read.
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// At every exit: the sender need not remember changes any more.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _arg: pg_sys::Datum) {
    release_slot();
    // An orderly end, whatever asked for it: no crash to be counted.
    if READING.take() {
        attempts::end(database());
    }
}

fn database() -> u32 {
    // SAFETY: set for the life of the process.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

fn release_slot() {
    if let (Some(slot), Some(shared)) = (SLOT.take(), shared::shared()) {
        shared.snapshots.release(slot);
    }
}

/// Entry point of the background worker; its argument is the database's oid.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn pg_cdc_snapshot_main(arg: pg_sys::Datum) {
    let Some(shared) = shared::shared() else {
        return;
    };
    let database = arg.value() as u32;
    // SAFETY: the main thread of a new background worker; the handlers are PostgreSQL's own, and the settings' names and
    // values are constants.
    unsafe {
        pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0));
        ffi::take_signals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database),
            pg_sys::InvalidOid,
            0,
        );
        for (name, value) in SETTINGS {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    }
    let begun = Instant::now();
    loop {
        // The note of this database stays: it has its turn again.
        if begun.elapsed() > TURN && shared.snapshots.is_waited_for() {
            return;
        }
        let next = transaction(|| Jobs::find().and_then(|jobs| jobs.next()));
        match next {
            Some(job) => make(shared, job),
            None if nothing_left(database) => return,
            None => {}
        }
    }
}

/// Runs `body` in a transaction of its own.
fn transaction<R>(body: impl FnOnce() -> R) -> R {
    BackgroundWorker::transaction(AssertUnwindSafe(body))
}

/// Takes the note away that this database has snapshots to be made, unless somebody is just adding one.
fn nothing_left(database: u32) -> bool {
    transaction(|| {
        if let Some(jobs) = Jobs::find() {
            jobs.lock_out_new_ones();
            // Another statement, another snapshot: sees what was committed while the lock was waited for.
            if jobs.next().is_some() {
                return false;
            }
        }
        if let Err(error) = launcher::unmark(database) {
            pgrx::log!("pg_cdc: the note of database {database} cannot be removed: {error}");
        }
        true
    })
}

/// Makes a snapshot until it is done, paused, cancelled or has failed.
fn make(shared: &'static Shared, job: Job) {
    let id = job.id;
    let relation = job.relation;
    if cancelled_as_gone(id, relation) {
        return;
    }
    let slot = loop {
        match shared.snapshots.claim((database(), job.relation.to_u32())) {
            Some(slot) => break slot,
            None => pause(Duration::from_secs(1)),
        }
    };
    SLOT.set(Some(slot));
    let made = PgTryBuilder::new(AssertUnwindSafe(|| {
        make_chunks(shared, job, slot);
        Ok(())
    }))
    .catch_others(|error| {
        let report = match &error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
            CaughtError::RustPanic { ereport, .. } => ereport,
        };
        Err((
            report::code_of(report).unwrap_or(Code::SnapshotFailed),
            report.message().to_owned(),
        ))
    })
    .execute();
    release_slot();
    if READING.take() {
        attempts::end(database());
    }
    let Err((code, message)) = made else {
        return;
    };
    // SAFETY: outside of any error handling now; ends the failed transaction.
    unsafe { pg_sys::AbortCurrentTransaction() };
    if code == Code::OptionsChanged || cancelled_as_gone(id, relation) {
        return;
    }
    failure(id, code, &message).log();
    transaction(|| {
        if let Some(jobs) = Jobs::find() {
            jobs.fail(id, code, &message);
        }
    });
}

/// Cancels a snapshot whose table was dropped; false if the table is there.
fn cancelled_as_gone(id: i64, relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    let is_gone = transaction(|| unsafe { pg_sys::get_rel_relkind(relation) }) == 0;
    if is_gone {
        transaction(|| {
            if let Some(jobs) = Jobs::find() {
                jobs.set_state(id, "cancelled");
            }
        });
    }
    is_gone
}

/// Whether a job that has been made since then is to let others have their turn.
fn is_turn_over(shared: &Shared, jobs: &Jobs, job: &Job, since: Instant) -> bool {
    since.elapsed() > TURN && (shared.snapshots.is_waited_for() || jobs.others_wait(job.relation))
}

/// Why a run of chunks ended.
enum Ended {
    /// Done, stopped by somebody, or others have their turn.
    Finished,
    /// Writers must be waited for once more.
    Again,
}

fn make_chunks(shared: &'static Shared, mut job: Job, slot: u32) {
    let since = Instant::now();
    loop {
        // What the sender remembers begins with its session; what committed before, the next snapshots see.
        let session = shared.session.load(Ordering::SeqCst);
        if !wait_for_writers(shared, &job, since) {
            return;
        }
        let reader = Reader {
            slot,
            session,
            max_rows: chunk_rows(&job),
        };
        match run(shared, &mut job, reader, since) {
            Ended::Finished => return,
            Ended::Again => interrupts(),
        }
    }
}

/// Waits for everybody who is writing the table: they may have a commit record already and not be visible yet. Their locks
/// go after they are visible. False if the job was stopped, or others have their turn meanwhile: one writer may take its time.
fn wait_for_writers(shared: &Shared, job: &Job, since: Instant) -> bool {
    let goes_on = transaction(|| {
        let Some(jobs) = Jobs::find().filter(|jobs| jobs.goes_on(job.id)) else {
            return false;
        };
        jobs.wait_for_writers(job.id);
        true
    });
    if !goes_on {
        return false;
    }
    for writer in transaction(|| writers(job.relation)) {
        while !is_over(writer) {
            let goes_on = transaction(|| {
                Jobs::find().is_some_and(|jobs| {
                    jobs.goes_on(job.id) && !is_turn_over(shared, &jobs, job, since)
                })
            });
            if !goes_on {
                return false;
            }
        }
    }
    transaction(|| {
        if let Some(jobs) = Jobs::find() {
            jobs.begin(job.id);
        }
    });
    true
}

/// Waits a moment for a transaction, also a prepared one; whether it is over.
fn is_over(writer: pg_sys::VirtualTransactionId) -> bool {
    // SAFETY: outside of a transaction before and after; one without a snapshot, for it may wait for hours and must not
    // hold back VACUUM meanwhile. The setting is that of this process, which waits for no lock at the same time.
    let wait = AssertUnwindSafe(|| unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::LockTimeout = WRITER_LOOK_MS;
        pg_sys::VirtualXactLock(writer, true);
        pg_sys::LockTimeout = 0;
        pg_sys::CommitTransactionCommand();
        true
    });
    let is_over = PgTryBuilder::new(wait)
        .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| false)
        // SAFETY: a plain write to a variable of this process, on its main thread.
        .finally(|| unsafe { pg_sys::LockTimeout = 0 })
        .execute();
    if !is_over {
        // SAFETY: outside of any error handling now; ends the failed transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    is_over
}

/// The transactions that hold a lock under which rows of the table are changed. As WaitForLockers would find them, but for
/// those that VACUUM and ANALYZE take: they may last for hours, and change no row.
fn writers(relation: pg_sys::Oid) -> Vec<pg_sys::VirtualTransactionId> {
    let relations: Vec<String> = std::iter::once(relation)
        .chain(below(relation))
        .map(|oid| oid.to_u32().to_string())
        .collect();
    let query = format!(
        "SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l
         JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
         WHERE l.locktype = 'relation' AND l.relation IN ({}) AND l.granted
           AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')",
        relations.join(", ")
    );
    let found = Spi::connect(|client| {
        let rows = client.select(&query, None, &[])?;
        rows.map(|row| row.get::<String>(1))
            .collect::<Result<Vec<_>, _>>()
    });
    let found =
        found.unwrap_or_else(|error| pgrx::error!("pg_cdc could not read pg_locks: {error}"));
    found
        .into_iter()
        .flatten()
        .filter_map(|text| virtual_transaction(&text))
        .collect()
}

/// Reads `backend/transaction`, as pg_locks has it; the backend is -1 for what was prepared before a restart.
fn virtual_transaction(text: &str) -> Option<pg_sys::VirtualTransactionId> {
    let (backend, transaction) = text.split_once('/')?;
    let (backend, transaction) = (backend.parse().ok()?, transaction.parse().ok()?);
    Some(pg_sys::VirtualTransactionId {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        backendId: backend,
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        procNumber: backend,
        localTransactionId: transaction,
    })
}

fn run(shared: &'static Shared, job: &mut Job, mut reader: Reader, since: Instant) -> Ended {
    let mut busy = Instant::now();
    loop {
        follow_settings();
        reader.max_rows = chunk_rows(job);
        if shared.session.load(Ordering::SeqCst) != reader.session {
            return Ended::Again;
        }
        shared.snapshots.forget_verdict(reader.slot);
        let busy_ms = busy.elapsed().as_millis() as i64;
        busy = Instant::now();
        let read = transaction(|| {
            let jobs = Jobs::find()?;
            let goes_on = jobs.goes_on(job.id) && !is_turn_over(shared, &jobs, job, since);
            jobs.save(job, busy_ms);
            goes_on.then(|| {
                READING.set(true);
                if attempts::begin(database(), job.id, job.chunk + 1) > attempts::MOST {
                    crashes(job.id).raise();
                }
                chunk::read(job, &reader)
            })
        });
        if READING.take() {
            attempts::end(database());
        }
        let Some(read) = read else {
            return Ended::Finished;
        };
        // SAFETY: a plain read; set by the commit record that was just written.
        let end_lsn = unsafe { pg_sys::XactLastCommitEnd };
        if !is_accepted(shared, reader.slot, job.chunk + 1, end_lsn) {
            return Ended::Again;
        }
        job.chunk += 1;
        job.rows_done += read.rows;
        if read.place.is_some() {
            job.place = read.place;
        }
        if read.end {
            transaction(|| {
                if let Some(jobs) = Jobs::find() {
                    jobs.save(job, busy.elapsed().as_millis() as i64);
                    jobs.finish(job.id);
                }
            });
            return Ended::Finished;
        }
        throttle(job, read.rows, busy);
    }
}

/// CDC0507.
fn crashes(id: i64) -> Trouble {
    Trouble::new(
        Code::ChunkCrashes,
        format!(
            "reading a chunk of snapshot {id} crashed the server {} times",
            attempts::MOST
        ),
        format!(
            "Find the cause in the server log, then SELECT cdc_snapshot_resume({id}), or cdc_snapshot_cancel({id})."
        ),
    )
}

/// Waits until Kafka has the chunk, or it is known that it must be read again.
fn is_accepted(shared: &Shared, slot: u32, chunk: u64, end_lsn: u64) -> bool {
    loop {
        let done = shared.done_lsn.load(Ordering::Acquire) >= end_lsn;
        match shared.snapshots.verdict(slot, chunk) {
            Some(accepted) => return accepted,
            // The sender is past it and has not judged it: it was not read in this session.
            None if done => return false,
            None => {}
        }
        shared.wait_until(TICK_MS, || {
            shared.snapshots.verdict(slot, chunk).is_some()
                || shared.done_lsn.load(Ordering::Acquire) >= end_lsn
        });
        interrupts();
    }
}

/// Rows per second; 0 for no limit.
fn rate_of(job: &Job) -> i32 {
    job.wanted
        .rows_per_second
        .filter(|rate| *rate > 0)
        .unwrap_or_else(|| settings::SNAPSHOT_ROWS_PER_SECOND.get())
}

/// Rows of a chunk: with a rate, what a second takes, so that nobody waits long for a slow one to be paused.
fn chunk_rows(job: &Job) -> i64 {
    let rows = settings::SNAPSHOT_CHUNK_ROWS.get();
    i64::from(match rate_of(job) {
        rate @ 1.. => rows.min(rate),
        _ => rows,
    })
}

/// Sleeps so long that the rate is kept.
fn throttle(job: &Job, rows: i64, since: Instant) {
    let rate = rate_of(job);
    if rate <= 0 {
        return;
    }
    let wanted = Duration::from_secs_f64(rows as f64 / f64::from(rate));
    if let Some(left) = wanted.checked_sub(since.elapsed()) {
        pause(left);
    }
}

/// Follows the settings; waits while all snapshots are held.
fn follow_settings() {
    loop {
        // SAFETY: a flag of the signal handler, on the main thread.
        unsafe {
            if pg_sys::ConfigReloadPending != 0 {
                pg_sys::ConfigReloadPending = 0;
                pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            }
        }
        if settings::SNAPSHOT_WORKERS.get() > 0 {
            return;
        }
        pause(Duration::from_secs(1));
    }
}
