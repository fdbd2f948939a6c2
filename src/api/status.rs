//! The row of `cdc_status()`, as JSON; `sql/status.sql` gives it its columns.

use std::sync::atomic::Ordering;

use change::position::lsn_text;
use pgrx::JsonB;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Value, json};
use shipper::files::orders::Orders;

use super::track;
use crate::report::{no_worker, not_loaded};
use crate::sender::wal_bound::limit_bytes;
use crate::settings;
use crate::shared::{self, Described, Shared};

/// Everything that `cdc_status()` shows.
#[pg_extern(name = "_cdc_status", stable, parallel_restricted)]
pub(crate) fn status_json() -> JsonB {
    let source_name = settings::text(&settings::SOURCE_NAME);
    let Some(shared) = shared::shared() else {
        let trouble = not_loaded();
        return JsonB(json!({
            "state": "not preloaded", "version": env!("CARGO_PKG_VERSION"), "source_name": source_name,
            "error_code": trouble.code, "error": trouble.message, "remedy": trouble.remedy,
        }));
    };
    let Described {
        source_id,
        waiting_for,
        mut trouble,
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
    let restart_lsn = load(&shared.restart_lsn);
    let oldest = shared.oldest_transaction.load(Ordering::Relaxed);
    let pid = shared.sender_pid.load(Ordering::Relaxed);
    let since = shared.state_since.load(Ordering::Relaxed);
    if pid == 0 && flush_lsn != 0 && now_us - since > track::SENDER_START_MS * 1000 {
        // Nobody is there to say so.
        trouble = Some(no_worker());
    }
    let lag = lag(shared, flush_lsn, now_us);
    let mut status = json!({
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
        "lag_bytes": lag.bytes,
        "lag_events": lag.events,
        "lag_seconds": lag.seconds,
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
        "error_code": trouble.as_ref().map(|trouble| trouble.code),
        "error": trouble.as_ref().map(|trouble| &trouble.message),
        "remedy": trouble.as_ref().map(|trouble| &trouble.remedy),
        "error_at": timestamp(shared.error_at.load(Ordering::Relaxed)),
        "stats_reset": timestamp(shared.stats_reset.load(Ordering::Relaxed)),
    });
    status["topics_aside"] = shared.topics_aside.load(Ordering::Relaxed).into();
    status["skips"] = active_skips(shared).into();
    status["skipped_events"] = load(&shared.skipped_events).into();
    JsonB(status)
}

/// What Kafka has not got. What is not known is none: never 0.
struct Lag {
    bytes: Option<u64>,
    events: Option<u64>,
    seconds: Option<f64>,
}

fn lag(shared: &Shared, flush_lsn: u64, now_us: i64) -> Lag {
    let done_lsn = shared.done_lsn.load(Ordering::Acquire);
    let sent_lsn = shared.sent_lsn.load(Ordering::Acquire);
    let unsent_since = shared.unsent_since.load(Ordering::Relaxed);
    let seconds = |since_us: i64| (now_us - since_us).max(0) as f64 / 1e6;
    if !shared.is_reading.load(Ordering::Relaxed) {
        // Nobody reads the WAL: only those who committed know that there is something to send.
        let known_lsn = match sent_lsn {
            0 => shared.restart_lsn.load(Ordering::Relaxed),
            lsn => lsn,
        };
        return Lag {
            bytes: (known_lsn != 0).then(|| flush_lsn.saturating_sub(known_lsn)),
            events: None,
            seconds: (unsent_since != 0).then(|| seconds(unsent_since)),
        };
    }
    let in_flight_since = shared.lag_since.load(Ordering::Relaxed);
    let since_us = match in_flight_since {
        // Committed, and not read yet: it waits for a standby, say.
        0 if shared.wake_lsn.load(Ordering::SeqCst) > done_lsn => unsent_since,
        since_us => since_us,
    };
    Lag {
        bytes: Some(match since_us {
            0 => 0,
            _ => flush_lsn.saturating_sub(done_lsn),
        }),
        events: Some(shared.lag_events.load(Ordering::Relaxed)),
        seconds: Some(match since_us {
            0 => 0.0,
            since_us => seconds(since_us),
        }),
    }
}

/// Topics of which events are still given up, by `cdc_skip_topic`; none if the orders cannot be read.
fn active_skips(shared: &Shared) -> Option<usize> {
    let orders = Orders::read().ok()?;
    Some(orders.active_skips(shared.passed_lsn()).count())
}

/// The topics that are put aside, and skips that still count, for `cdc_aside`: an array of objects, in UTF-8.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_aside() RETURNS bytea LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn aside_json() -> Vec<u8> {
    let Some(shared) = shared::shared() else {
        return b"[]".to_vec();
    };
    let orders = match Orders::read() {
        Ok(orders) => orders,
        Err(error) => pgrx::error!("pg_cdc cannot read its orders: {error}"),
    };
    let rows = orders.asides.iter().map(|aside| {
        json!({
            "topic": aside.topic, "database": aside.database, "since": timestamp(aside.since_us),
            "from_lsn": lsn_text(aside.from), "events": shared.topic_counters.aside_events(&aside.topic),
            "error_code": aside.trouble.code, "error": aside.trouble.message, "remedy": aside.trouble.remedy,
        })
    });
    Value::Array(rows.collect()).to_string().into_bytes()
}

/// A time for SQL to read, `null` for none.
pub(crate) fn timestamp(us: i64) -> Value {
    if us == 0 {
        return Value::Null;
    }
    let mut text = Vec::new();
    change::value::datetime::put_timestamptz(&mut text, us);
    serde_json::from_slice(&text).unwrap_or(Value::Null)
}
