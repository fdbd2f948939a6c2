//! The row of `cdc_status()`, as JSON; `sql/status.sql` gives it its columns.

use std::sync::atomic::Ordering;

use pgrx::JsonB;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Value, json};

use super::track;
use crate::sender::wal_bound::limit_bytes;
use crate::settings;
use crate::shared::{self, Described};
use change::position::lsn_text;

/// Everything that `cdc_status()` shows.
#[pg_extern(name = "_cdc_status", stable, parallel_restricted)]
pub fn status_json() -> JsonB {
    let source_name = settings::text(&settings::SOURCE_NAME);
    let Some(shared) = shared::shared() else {
        return JsonB(json!({
            "state": "not preloaded", "version": env!("CARGO_PKG_VERSION"), "source_name": source_name,
            "error_code": "CDC0001", "error": "pg_cdc is not loaded",
            "remedy": "Add pg_cdc to shared_preload_libraries in postgresql.conf and restart the server.",
        }));
    };
    let Described {
        source_id,
        waiting_for,
        mut error_code,
        mut error,
        mut remedy,
        oldest_gid,
    } = shared.described();
    let text = |text: String| {
        if text.is_empty() {
            Value::Null
        } else {
            Value::String(text)
        }
    };
    let lsn = |lsn: u64| {
        if lsn == 0 {
            Value::Null
        } else {
            Value::String(lsn_text(lsn))
        }
    };
    let load = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    // SAFETY: the flush position of a server that is not in recovery; the clock.
    let (flush_lsn, now_us) = unsafe {
        let flush_lsn = if pg_sys::RecoveryInProgress() {
            0
        } else {
            pg_sys::GetFlushRecPtr(std::ptr::null_mut())
        };
        (flush_lsn, pg_sys::GetCurrentTimestamp())
    };
    let done_lsn = shared.done_lsn.load(Ordering::Acquire);
    let restart_lsn = load(&shared.restart_lsn);
    let lag_since = shared.lag_since.load(Ordering::Relaxed);
    let oldest = shared.oldest_transaction.load(Ordering::Relaxed);
    let pid = shared.sender_pid.load(Ordering::Relaxed);
    let since = shared.state_since.load(Ordering::Relaxed);
    if pid == 0 && flush_lsn != 0 && now_us - since > track::SENDER_START_MS * 1000 {
        // Nobody is there to say so.
        let report = track::no_worker();
        error_code = report.code.to_owned();
        (error, remedy) = (report.message, report.hint);
    }
    let lag_bytes = if lag_since == 0 {
        0
    } else {
        flush_lsn.saturating_sub(done_lsn)
    };
    JsonB(json!({
        "state": shared.state().name(),
        "waiting_for": text(waiting_for),
        "since": timestamp(since),
        "version": env!("CARGO_PKG_VERSION"),
        "source_id": text(source_id),
        "generation": shared.generation.load(Ordering::Relaxed),
        "timeline": shared.timeline.load(Ordering::Relaxed),
        "pid": if pid == 0 { Value::Null } else { pid.into() },
        "slot_name": format!("cdc_{source_name}").to_ascii_lowercase(),
        "source_name": source_name,
        "sent_lsn": lsn(load(&shared.sent_lsn)),
        "read_lsn": lsn(load(&shared.read_lsn)),
        "flush_lsn": lsn(flush_lsn),
        "lag_bytes": lag_bytes,
        "lag_events": load(&shared.lag_events),
        "lag_seconds": if lag_since == 0 { 0.0 } else { (now_us - lag_since).max(0) as f64 / 1e6 },
        "wal_held_bytes": if restart_lsn == 0 { 0 } else { flush_lsn.saturating_sub(restart_lsn) },
        "wal_limit_bytes": limit_bytes(load(&shared.max_wal_behind)),
        "events": load(&shared.events).saturating_sub(load(&shared.events_before)),
        "bytes": load(&shared.bytes).saturating_sub(load(&shared.bytes_before)),
        "transactions": load(&shared.transactions).saturating_sub(load(&shared.transactions_before)),
        "events_per_second": load(&shared.events_per_second_milli) as f64 / 1000.0,
        "bytes_per_second": load(&shared.bytes_per_second_milli) as f64 / 1000.0,
        "open_transactions": shared.open_transactions.load(Ordering::Relaxed),
        "oldest_transaction": if oldest == 0 { Value::Null } else { format!("{} microseconds", (now_us - oldest).max(0)).into() },
        "oldest_gid": text(oldest_gid),
        "topics": shared.topics.load(Ordering::Relaxed),
        "brokers_up": shared.brokers_up.load(Ordering::Relaxed),
        "brokers_down": shared.brokers_down.load(Ordering::Relaxed),
        "throttle_ms": f64::from(shared.throttle_ms.load(Ordering::Relaxed)),
        "resent": load(&shared.resent),
        "rejected_chunks": load(&shared.rejected_chunks),
        "uncovered_rows": load(&shared.uncovered_rows),
        "gap_from": lsn(load(&shared.gap_from)),
        "gap_to": lsn(load(&shared.gap_to)),
        "error_code": text(error_code),
        "error": text(error),
        "remedy": text(remedy),
        "error_at": timestamp(shared.error_at.load(Ordering::Relaxed)),
        "stats_reset": timestamp(shared.stats_reset.load(Ordering::Relaxed)),
    }))
}

/// A time for SQL to read, `null` for none.
pub fn timestamp(us: i64) -> Value {
    if us == 0 {
        return Value::Null;
    }
    let mut text = Vec::new();
    change::datetime::put_timestamptz(&mut text, us);
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}
