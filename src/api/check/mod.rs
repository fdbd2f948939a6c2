//! `cdc_check`: everything that pg_cdc needs, one line each, with a hint.

mod line;
mod topics;

use std::sync::atomic::Ordering;

use change::code::Code;
use line::{Line, line, ok, problem};
use pgrx::iter::TableIterator;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::Value;
use shipper::files::orders::Orders;

use super::tables::tables;
use crate::catalog::qualified_name;
use crate::report::{Raise, no_worker, not_loaded};
use crate::settings;
use crate::shared::{self, Shared, State};

/// Says at CREATE EXTENSION that the library must be preloaded; restoring a dump must not fail for it.
#[pg_extern(name = "_cdc_warn_unless_loaded")]
fn warn_unless_loaded() {
    if shared::shared().is_none() {
        not_loaded().warn();
    }
}

/// One line for each thing looked at: level ok, warning or error.
#[allow(clippy::type_complexity)] // the macro reads the columns from the type
#[pg_extern(stable, parallel_restricted)]
pub(crate) fn cdc_check() -> TableIterator<
    'static,
    (
        name!(level, String),
        name!(code, Option<String>),
        name!(item, String),
        name!(message, String),
        name!(hint, Option<String>),
    ),
> {
    let mut lines = Vec::new();
    let Some(shared) = shared::shared() else {
        lines.push(problem("error", "shared_preload_libraries", &not_loaded()));
        return TableIterator::new(lines);
    };
    lines.push(ok(
        "shared_preload_libraries",
        "pg_cdc is loaded".to_owned(),
    ));

    lines.extend(kafka_settings());
    lines.extend(sender(shared));
    lines.push(wal_limit(shared));
    let tables = tables();
    if !tables.is_empty() {
        let captured = tables
            .iter()
            .filter(|table| table["warning"].is_null())
            .count();
        lines.push(ok(
            "tables of this database",
            format!("{captured} of {} are captured", tables.len()),
        ));
    }
    lines.extend(topics::lines(&tables, &shared.topic_counters));
    if let Ok(orders) = Orders::read() {
        lines.extend(topics::held_back(&orders, shared.passed_lsn()));
    }
    lines.extend(tables.iter().filter_map(warning_of));
    TableIterator::new(lines)
}

/// How Kafka is reached, and how safe new topics are.
fn kafka_settings() -> Vec<Line> {
    let brokers = settings::text(&settings::BROKERS);
    let brokers = if brokers.is_empty() {
        line(
            "error",
            Code::NoBrokers,
            "cdc.brokers",
            "not set",
            "ALTER SYSTEM SET cdc.brokers = 'host:9092', then SELECT pg_reload_conf()",
        )
    } else {
        ok("cdc.brokers", brokers)
    };
    let single_replica = (settings::TOPIC_REPLICATION_FACTOR.get() == 1).then(|| {
        let level = if settings::ALLOW_SINGLE_REPLICA.get() {
            "warning"
        } else {
            "error"
        };
        line(
            level,
            Code::WritesRefused,
            "cdc.topic_replication_factor",
            "1: a lost broker loses events that were acknowledged",
            "set cdc.topic_replication_factor = 3, or cdc.allow_single_replica = on to accept it",
        )
    });
    [brokers].into_iter().chain(single_replica).collect()
}

/// The process, and what it says of itself.
fn sender(shared: &Shared) -> Vec<Line> {
    let mut lines = Vec::new();
    let pid = shared.sender_pid.load(Ordering::Acquire);
    if pid == 0 {
        lines.push(problem("error", "max_worker_processes", &no_worker()));
    } else {
        lines.push(ok(
            "sender",
            format!("running as process {pid}, state {}", shared.state().name()),
        ));
    }

    let described = shared.described();
    if let Some(trouble) = &described.trouble {
        let item = match trouble.code {
            Code::NoFreeSlot => "max_replication_slots",
            Code::WalLevelMinimal => "wal_level",
            code if code.number() / 100 == 3 => "kafka",
            _ => "sender",
        };
        lines.push(problem("error", item, trouble));
    } else {
        let up = shared.brokers_up.load(Ordering::Relaxed);
        if shared.state() != State::Unconfigured && up > 0 {
            lines.push(ok("kafka", format!("{up} brokers connected")));
        }
    }
    if shared.slot_ready.load(Ordering::Acquire) != 0 {
        lines.push(ok("replication slot", "held by the sender".to_owned()));
    }
    lines
}

/// How much WAL the slot may hold.
fn wal_limit(shared: &Shared) -> Line {
    // SAFETY: plain reads of settings (megabytes).
    let (limit_mb, max_wal_mb) = unsafe {
        (
            i64::from(pg_sys::max_slot_wal_keep_size_mb),
            i64::from(pg_sys::max_wal_size_mb),
        )
    };
    let behind_mb = shared.max_wal_behind.load(Ordering::Relaxed) / 1024 / 1024;
    if limit_mb < 0 {
        let message = match behind_mb {
            0 => "no limit: while Kafka is down the WAL can fill the disk".to_owned(),
            _ => format!("no limit; cdc.max_wal_behind = {behind_mb} MB applies"),
        };
        line(
            "warning",
            Code::WalLimitUnsafe,
            "max_slot_wal_keep_size",
            &message,
            "set max_slot_wal_keep_size to what the disk can spare, at least twice max_wal_size",
        )
    } else if limit_mb < 2 * max_wal_mb {
        line(
            "warning",
            Code::WalLimitUnsafe,
            "max_slot_wal_keep_size",
            &format!(
                "{limit_mb} MB is less than twice max_wal_size ({max_wal_mb} MB): a crash can invalidate the slot"
            ),
            &format!(
                "set max_slot_wal_keep_size to at least {} MB",
                2 * max_wal_mb
            ),
        )
    } else {
        ok("max_slot_wal_keep_size", format!("{limit_mb} MB"))
    }
}

/// Why a table is not captured as it should be.
fn warning_of(table: &Value) -> Option<Line> {
    let code = serde_json::from_value::<Code>(table["code"].clone()).ok()?;
    let remedy = table["remedy"].as_str()?;
    let oid = table["relation"].as_u64().unwrap_or_default() as u32;
    let (schema, name) = qualified_name(pg_sys::Oid::from(oid));
    let item = format!("table {schema}.{name}");
    let state = table["state"].as_str().unwrap_or_default();
    Some(line("error", code, &item, state, remedy))
}
