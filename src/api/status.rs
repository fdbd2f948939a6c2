//! The row of `cdc_status()`, as JSON; `sql/status.sql` gives it its columns.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use change::position::lsn_text;
use pgrx::JsonB;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Value, json};
use shipper::files::orders::Orders;

use super::track;
use crate::report::{no_worker, not_loaded};
use crate::sender::wal::bound::limit_bytes;
use crate::settings;
use crate::shared::{self, Described, Shared};

/// Everything that `cdc_status()` shows.
#[pg_extern(name = "_cdc_status", stable, parallel_restricted)]
pub(crate) fn status_json() -> JsonB {
    let source_name = settings::text(&settings::SOURCE_NAME);
    let Some(shared) = shared::shared() else {
        let trouble = not_loaded();
        return JsonB(json!({
            "state": "not_preloaded", "version": env!("CARGO_PKG_VERSION"), "source_name": source_name,
            "error_code": trouble.code, "error_message": trouble.message, "error_hint": trouble.remedy,
        }));
    };
    let described = shared.described();
    let mut status = serde_json::Map::new();
    for part in [
        sender(shared, &source_name, &described),
        progress(shared, &described),
        counters(shared),
        problem(shared, described),
    ] {
        if let Value::Object(part) = part {
            status.extend(part);
        }
    }
    JsonB(Value::Object(status))
}

fn load(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

/// An empty text is none.
fn text(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        text.into()
    }
}

/// 0 is no LSN.
fn lsn(lsn: u64) -> Value {
    if lsn == 0 {
        Value::Null
    } else {
        lsn_text(lsn).into()
    }
}

/// Up to where the WAL is flushed; 0 in recovery.
fn flush_lsn() -> u64 {
    // SAFETY: plain reads of the server's state.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            0
        } else {
            pg_sys::GetFlushRecPtr(std::ptr::null_mut())
        }
    }
}

fn now_us() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Who the sender is, and what it does.
fn sender(shared: &Shared, source_name: &str, described: &Described) -> Value {
    let pid = shared.sender_pid.load(Ordering::Relaxed);
    json!({
        "state": shared.state().name(),
        "waiting_for": text(&described.waiting_for),
        "since": timestamp(shared.state_since.load(Ordering::Relaxed)),
        "version": env!("CARGO_PKG_VERSION"),
        "source_id": text(&described.source_id),
        "generation": shared.generation.load(Ordering::Relaxed),
        "timeline": shared.timeline.load(Ordering::Relaxed),
        "pid": if pid == 0 { Value::Null } else { pid.into() },
        "slot_name": format!("cdc_{source_name}").to_ascii_lowercase(),
        "source_name": source_name,
    })
}

/// How far it is, and how far behind.
fn progress(shared: &Shared, described: &Described) -> Value {
    let (flush_lsn, now_us) = (flush_lsn(), now_us());
    let restart_lsn = load(&shared.restart_lsn);
    let oldest = shared.oldest_transaction.load(Ordering::Relaxed);
    let lag = lag(shared, flush_lsn, now_us);
    json!({
        "sent_lsn": lsn(load(&shared.sent_lsn)),
        "read_lsn": lsn(load(&shared.read_lsn)),
        "flush_lsn": lsn(flush_lsn),
        "lag_bytes": lag.bytes,
        "lag_events": lag.events,
        "lag_seconds": lag.seconds,
        "wal_held_bytes": if restart_lsn == 0 { 0 } else { flush_lsn.saturating_sub(restart_lsn) },
        "wal_limit_bytes": limit_bytes(load(&shared.max_wal_behind)),
        "open_transactions": shared.open_transactions.load(Ordering::Relaxed),
        "oldest_transaction": if oldest == 0 { Value::Null } else { format!("{} microseconds", (now_us - oldest).max(0)).into() },
        "oldest_gid": text(&described.oldest_gid),
        "gap_from": lsn(load(&shared.gap_from)),
        "gap_to": lsn(load(&shared.gap_to)),
    })
}

/// What it has done, and what it has to do with.
fn counters(shared: &Shared) -> Value {
    let since_reset = |now, before| load(now).saturating_sub(load(before));
    json!({
        "events": since_reset(&shared.events, &shared.events_before),
        "bytes": since_reset(&shared.bytes, &shared.bytes_before),
        "transactions": since_reset(&shared.transactions, &shared.transactions_before),
        "events_per_second": load(&shared.events_per_second_milli) as f64 / 1000.0,
        "bytes_per_second": load(&shared.bytes_per_second_milli) as f64 / 1000.0,
        "topics": shared.topics.load(Ordering::Relaxed),
        "topics_aside": shared.topics_aside.load(Ordering::Relaxed),
        "brokers_up": shared.brokers_up.load(Ordering::Relaxed),
        "brokers_down": shared.brokers_down.load(Ordering::Relaxed),
        "throttle_ms": f64::from(shared.throttle_ms.load(Ordering::Relaxed)),
        "resent": load(&shared.resent),
        "rejected_messages": load(&shared.rejected_messages),
        "uncovered_rows": load(&shared.uncovered_rows),
        "topics_skipped": topics_skipped(shared),
        "skipped_events": load(&shared.skipped_events),
        "stats_reset": timestamp(shared.stats_reset.load(Ordering::Relaxed)),
    })
}

/// What keeps it from its work.
fn problem(shared: &Shared, described: Described) -> Value {
    let since_us = now_us() - shared.state_since.load(Ordering::Relaxed);
    let is_absent = shared.sender_pid.load(Ordering::Relaxed) == 0
        && flush_lsn() != 0
        && since_us > track::SENDER_START_MS * 1000;
    let trouble = if is_absent {
        // Nobody is there to say so.
        Some(no_worker())
    } else {
        described.trouble
    };
    let trouble = trouble.as_ref();
    json!({
        "error_code": trouble.map(|trouble| trouble.code),
        "error_message": trouble.map(|trouble| &trouble.message),
        "error_hint": trouble.map(|trouble| &trouble.remedy),
        "error_at": timestamp(shared.error_at.load(Ordering::Relaxed)),
    })
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

/// How many topics there are of which events are still given up, by `cdc_skip_topic`; none if the orders cannot be read.
fn topics_skipped(shared: &Shared) -> Option<usize> {
    let orders = Orders::read().ok()?;
    let skips = orders.active_skips(shared.passed_lsn());
    let topics: BTreeSet<&str> = skips.map(|skip| skip.topic.as_str()).collect();
    Some(topics.len())
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
            "error_code": aside.trouble.code, "error_message": aside.trouble.message, "error_hint": aside.trouble.remedy,
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
