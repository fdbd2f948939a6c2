//! `cdc_snapshot` and what stops it and goes on with it. `sql/snapshots.sql` has the table of the jobs and the view.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::request;
use super::table::{Table, as_superuser};
use crate::capture::row_filter;
use crate::report::{Report, not_loaded};
use crate::shared;
use crate::snapshot::chunk::{no_key, not_tracked};
use crate::snapshot::job::{Jobs, Wanted};
use crate::snapshot::launcher;

thread_local! {
    /// This transaction asked for a snapshot: its commit wakes the sender.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// `cdc_snapshot` in `sql/snapshots.sql` calls it. Returns the snapshot's id.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_snapshot(relation regclass, request bytea) RETURNS bigint LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn snapshot_by_request(relation: pg_sys::Oid, request: &[u8]) -> i64 {
    let wanted: Wanted = request::read(request);
    let table = Table::look(relation);
    table.refuse_unsupported();
    if let Some(filter) = wanted.filter.as_deref().filter(|filter| !filter.is_empty()) {
        // SAFETY: the relation is open while it is read, and locked.
        table.read(|relation| unsafe {
            row_filter::check(std::ptr::from_ref(relation).cast_mut(), filter);
        });
    }
    ask(&table, &wanted)
}

/// Adds a snapshot of a table; its rows are read once the transaction has committed.
pub fn ask(table: &Table, wanted: &Wanted) -> i64 {
    if shared::shared().is_none() {
        not_loaded().raise();
    }
    if table.options().is_none() {
        not_tracked(&table.name).raise();
    }
    if table.identity(false).is_empty() {
        no_key(&table.name).raise();
    }
    let id = as_superuser(|| match Jobs::find() {
        Some(jobs) => jobs.add(table.oid, wanted),
        None => pgrx::error!("extension pg_cdc is not there"),
    });
    note();
    id
}

/// After the job is written: the note that this database has work survives a crash, the flag wakes the sender.
fn note() {
    // SAFETY: set for the life of a backend.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    if let Err(error) = launcher::mark(database) {
        pgrx::error!("pg_cdc cannot note the snapshot in its folder: {error}");
    }
    ASKED.set(true);
}

/// The transaction ends; `committed` or prepared. Safe in a commit callback.
pub fn ended(committed: bool) {
    if ASKED.take()
        && committed
        && let Some(shared) = shared::shared()
    {
        // SAFETY: set for the life of a backend.
        shared
            .snapshots
            .want_worker(unsafe { pg_sys::MyDatabaseId }.to_u32());
        shared.wake_sender();
    }
}

/// `pause`, `resume` or `cancel`.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_snapshot_set(snapshot_id bigint, wanted text) RETURNS void LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn snapshot_set(snapshot_id: i64, wanted: &str) {
    let found = as_superuser(|| {
        let jobs = Jobs::find()?;
        let (relation, state) = jobs.look_up(snapshot_id)?;
        Some((jobs, relation, state))
    });
    let Some((jobs, relation, state)) = found else {
        Report::new(
            "CDC0503",
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no snapshot {snapshot_id}"),
            "SELECT * FROM cdc_snapshots.",
        )
        .raise()
    };
    Table::look(relation);
    let unfinished = matches!(
        state.as_str(),
        "waiting for writers" | "running" | "paused" | "failed"
    );
    let new_state = match wanted {
        "pause" if unfinished && state != "failed" => "paused",
        "resume" if matches!(state.as_str(), "paused" | "failed") => "waiting for writers",
        "resume" if unfinished => return,
        "cancel" if unfinished => "cancelled",
        _ => Report::new(
            "CDC0503",
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no snapshot {snapshot_id} to {wanted}"),
            "SELECT * FROM cdc_snapshots.",
        )
        .detail(format!("It is in state \"{state}\"."))
        .raise(),
    };
    as_superuser(|| jobs.set_state(snapshot_id, new_state));
    if wanted == "resume" {
        note();
    }
}
