//! `cdc_snapshot` and what stops it and goes on with it. `sql/snapshots.sql` has the table of the jobs and the view.

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Value, json};

use super::arguments;
use crate::capture::filter::row_filter;
use crate::report::Raise;
use crate::snapshot::job::{Jobs, Place, Wanted};
use crate::snapshot::request::ask;
use crate::snapshot::request::note;
use crate::tracked::rights::as_superuser;
use crate::tracked::table::Table;

/// What the names of the sinks may have together.
const MAX_SINKS_BYTES: usize = 4096;

/// `cdc_snapshot` in `sql/snapshots.sql` calls it. Returns the snapshot's id.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_snapshot(relation regclass, request bytea) RETURNS bigint LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn snapshot_by_request(relation: pg_sys::Oid, request: &[u8]) -> i64 {
    let mut wanted: Wanted = arguments::read(request);
    let table = Table::look(relation);
    table.refuse_unsupported();
    let names = wanted.sinks.iter().flatten();
    if names.map(|name| name.len() + 4).sum::<usize>() > MAX_SINKS_BYTES {
        // Every row of the snapshot names them.
        Trouble::new(
            Code::OptionsRefused,
            "options contradict each other or are unknown",
            "Name fewer sinks.",
        )
        .detail(format!(
            "Names of sinks may have {MAX_SINKS_BYTES} bytes together."
        ))
        .raise();
    }
    if let Some(filter) = wanted.filter.as_deref().filter(|filter| !filter.is_empty()) {
        // SAFETY: the relation is open while it is read, and locked.
        let lasting = table.read(|relation| unsafe {
            row_filter::check(std::ptr::from_ref(relation).cast_mut(), filter)
        });
        wanted.filter = Some(lasting);
    }
    ask(&table, &wanted)
}

/// `pause`, `resume` or `cancel`.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_snapshot_set(snapshot_id bigint, wanted text) RETURNS void LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn snapshot_set(snapshot_id: i64, wanted: &str) {
    let found = as_superuser(|| {
        let jobs = Jobs::find()?;
        let relation = jobs.relation_of(snapshot_id)?;
        Some((jobs, relation))
    });
    let none = || -> ! {
        Trouble::new(
            Code::NoSuchSnapshot,
            format!("no snapshot {snapshot_id}"),
            "SELECT * FROM cdc_snapshots.",
        )
        .raise()
    };
    let Some((jobs, relation)) = found else {
        none()
    };
    // Before the job is locked: somebody without rights must not have the worker wait.
    Table::look(relation);
    let Some(state) = as_superuser(|| jobs.lock(snapshot_id)) else {
        none()
    };
    let unfinished = matches!(
        state.as_str(),
        "waiting_for_writers" | "running" | "paused" | "failed"
    );
    let new_state = match wanted {
        "pause" if unfinished && state != "failed" => "paused",
        "resume" if matches!(state.as_str(), "paused" | "failed") => "waiting_for_writers",
        "resume" if unfinished => return,
        "cancel" if unfinished => "cancelled",
        _ => Trouble::new(
            Code::NoSuchSnapshot,
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

/// What `cdc_snapshots` shows of a job besides its columns, as JSON in UTF-8.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_snapshot_shown(request bytea, place bytea, problem bytea, state text, rows_done bigint, rows_estimated bigint, busy_ms bigint) RETURNS bytea LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn snapshot_shown(
    request: Option<&[u8]>,
    place: Option<&[u8]>,
    problem: Option<&[u8]>,
    state: Option<&str>,
    rows_done: Option<i64>,
    rows_estimated: Option<i64>,
    busy_ms: Option<i64>,
) -> Vec<u8> {
    let wanted: Wanted = request
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    let place: Option<Place> = place.and_then(|json| serde_json::from_slice(json).ok());
    let problem: Value = problem
        .and_then(|json| serde_json::from_slice(json).ok())
        .unwrap_or_default();
    let done = rows_done.unwrap_or_default();
    let percent = match (state, rows_estimated) {
        (Some("done"), _) => Some(100.0),
        (_, Some(estimated @ 1..)) => Some((done as f64 * 100.0 / estimated as f64).min(99.99)),
        _ => None,
    };
    let left_ms = match (state, rows_estimated, busy_ms) {
        (Some("running"), Some(estimated), Some(busy_ms)) if done > 0 => {
            Some((busy_ms as f64 * (estimated - done).max(0) as f64 / done as f64) as i64)
        }
        _ => None,
    };
    json!({
        "filter": wanted.filter,
        "sinks": wanted.sinks,
        "rows_per_second": wanted.rows_per_second,
        "percent": percent,
        "time_left": left_ms.map(|ms| format!("{ms} milliseconds")),
        "last_key": place.map(|place| place.key),
        "error_code": problem["code"],
        "error_message": problem["message"],
    })
    .to_string()
    .into_bytes()
}
