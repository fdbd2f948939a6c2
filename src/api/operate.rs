//! What operators tell the sender: pause, resume, drain, accept a gap, give a topic's events up, adopt. `sql/operate.sql`
//! has the functions that people call.
//!
//! An order counts at once, whatever becomes of the caller's transaction: it is a file, not a row.

use std::sync::atomic::Ordering;

use change::position::{lsn_as_text, lsn_text};
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::request;
use super::status::timestamp;
use super::tables::tables;
use super::wait::refuse_own_changes;
use crate::capture::utf8;
use crate::report::{Report, not_loaded, notice};
use crate::sender::orders::{Adoption, By, Gap, Hold, Orders, Skip};
use crate::sender::wal_reader::end_of_wal;
use crate::shared::{self, Shared, State};

/// How long an order may take until the sender has taken it up; it counts later just as well.
const TAKEN_UP_MS: i64 = 15_000;
const MAX_REASON_CHARACTERS: usize = 1000;
/// How long giving up events may take.
const SKIPPED_MS: i64 = 60_000;

/// One call of a function of `sql/operate.sql`.
#[derive(Deserialize)]
struct Request {
    reason: Option<String>,
    #[serde(flatten)]
    order: Order,
}

/// Who gives the order, and when: as the server knows it, whatever the call says. A reason is one line.
fn by(reason: Option<String>) -> By {
    // SAFETY: catalog look-ups inside the running transaction; the name is copied.
    let role = unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetSessionUserId(), false);
        utf8(std::ffi::CStr::from_ptr(name).to_bytes())
    };
    // SAFETY: reads the clock.
    let now = timestamp(unsafe { pg_sys::GetCurrentTimestamp() });
    By {
        role: one_line(&role),
        at: now.as_str().unwrap_or_default().to_owned(),
        reason: reason.map(|reason| one_line(&reason)),
    }
}

/// The text without control characters, and no longer than a line may be.
fn one_line(text: &str) -> String {
    text.chars()
        .take(MAX_REASON_CHARACTERS)
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect()
}

#[derive(Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
enum Order {
    Pause,
    Resume,
    Drain {
        timeout_ms: i64,
        drop_slot: bool,
    },
    AcceptGap {
        #[serde(with = "lsn_as_text")]
        from: u64,
        #[serde(with = "lsn_as_text")]
        to: u64,
    },
    SkipTopic {
        topic: String,
        up_to: Option<String>,
    },
    Adopt {
        source_id: String,
    },
}

/// Gives an order; what it returns depends on the order, `null` for most.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_order(request bytea) RETURNS bytea LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn give_order(request: &[u8]) -> Vec<u8> {
    let Some(shared) = shared::shared() else {
        not_loaded().raise()
    };
    let Request { reason, order } = request::read(request);
    let by = by(reason);
    let answer = match order {
        Order::Pause => pause(shared, by),
        Order::Resume => resume(shared),
        Order::Drain {
            timeout_ms,
            drop_slot,
        } => drain(shared, by, timeout_ms, drop_slot),
        Order::AcceptGap { from, to } => accept_gap(shared, Gap { from, to, by }),
        Order::SkipTopic { topic, up_to } => skip_topic(shared, by, topic, up_to),
        Order::Adopt { source_id } => adopt(shared, by, &source_id),
    };
    answer.to_string().into_bytes()
}

/// Writes the change of the orders down; returns its number.
fn change(shared: &Shared, change: impl FnOnce(&mut Orders)) -> u64 {
    match Orders::change(shared, change) {
        Ok(number) => number,
        Err(error) => Report::new(
            "CDC0405",
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            "the order cannot be written",
            "See that the server can write the folder pg_cdc in its data directory.",
        )
        .detail(error.to_string())
        .raise(),
    }
}

fn is_obeyed(shared: &Shared, number: u64) -> bool {
    shared.obeyed.load(Ordering::SeqCst) >= number
}

/// Waits a moment for the sender; says so where it does not come.
fn wait_until_obeyed(shared: &Shared, number: u64) {
    if !shared.wait_until(TAKEN_UP_MS, || is_obeyed(shared, number)) {
        notice(format!(
            "the order is noted; the sender, in state {}, has not taken it up yet",
            shared.state().name()
        ));
    }
}

fn pause(shared: &Shared, by: By) -> Value {
    let number = change(shared, |orders| orders.hold = Some(Hold::Pause { by }));
    wait_until_obeyed(shared, number);
    Value::Null
}

fn resume(shared: &Shared) -> Value {
    let mut held = false;
    let number = change(shared, |orders| held = orders.hold.take().is_some());
    if !held {
        refuse_state(shared, "Only a paused or drained sender can resume.").raise();
    }
    wait_until_obeyed(shared, number);
    Value::Null
}

/// CDC0604
fn refuse_state(shared: &Shared, detail: &str) -> Report {
    let described = shared.described();
    let hint = if described.remedy.is_empty() {
        "See cdc_status().".to_owned()
    } else {
        described.remedy
    };
    Report::new(
        "CDC0604",
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("not possible in state \"{}\"", shared.state().name()),
        hint,
    )
    .detail(detail)
}

fn drain(shared: &Shared, by: By, timeout_ms: i64, drop_slot: bool) -> Value {
    refuse_own_changes();
    let up_to = end_of_wal();
    let number = change(shared, |orders| {
        orders.hold = Some(Hold::Drain {
            up_to,
            drop_slot,
            done: false,
            by,
        });
    });
    let is_done = || is_obeyed(shared, number) && shared.state() == State::Drained;
    shared.wait_until(timeout_ms, || {
        is_done() || (is_obeyed(shared, number) && !shared.state().goes_on())
    });
    if !is_done() {
        let report = super::wait::timed_out(shared, up_to);
        // Not drained is not stopped: nobody must find the sender at rest later on, when the cause is gone.
        let mut is_done = false;
        change(shared, |orders| match &orders.hold {
            Some(Hold::Drain { done: true, .. }) => is_done = true,
            Some(Hold::Drain { .. }) if orders.number == number => orders.hold = None,
            _ => {}
        });
        if !is_done {
            report.raise();
        }
    }
    json!(lsn_text(up_to))
}

fn accept_gap(shared: &Shared, mut gap: Gap) -> Value {
    let (from, to) = (
        shared.gap_from.load(Ordering::Relaxed),
        shared.gap_to.load(Ordering::Relaxed),
    );
    // Without Kafka the sender takes the gap for as large as it may be; what covers it is as good.
    if to == 0 || gap.from > from || gap.to != to {
        let shown = if to == 0 {
            "There is no gap.".to_owned()
        } else {
            format!("The gap is from {} to {}.", lsn_text(from), lsn_text(to))
        };
        Report::new(
            "CDC0603",
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "nothing to accept",
            "SELECT gap_from, gap_to FROM cdc_status() shows the range.",
        )
        .detail(shown)
        .raise();
    }
    pgrx::log!(
        "pg_cdc: {} accepts that WAL from {} to {} is gone",
        gap.by.role,
        lsn_text(from),
        lsn_text(to)
    );
    gap.from = from;
    let number = change(shared, |orders| orders.gaps.push(gap));
    wait_until_obeyed(shared, number);
    notice(
        "changes in the gap are not sent: do what is listed, in every database with tracked tables"
            .to_owned(),
    );
    tables()
        .iter()
        .map(|table| json!({"relation": table["relation"], "has_key": !table["key"].is_null()}))
        .collect()
}

fn skip_topic(shared: &Shared, by: By, topic: String, up_to: Option<String>) -> Value {
    let sent_lsn = shared.sent_lsn.load(Ordering::Acquire);
    let up_to = match up_to.as_deref().map(change::position::parse_lsn) {
        None => end_of_wal(),
        Some(Some(lsn)) if lsn >= sent_lsn => lsn,
        Some(_) => Report::new(
            "CDC0603",
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "nothing to accept",
            "Leave up_to out, or take an LSN that is not sent yet.",
        )
        .detail(format!(
            "Everything up to {} is in Kafka.",
            lsn_text(sent_lsn)
        ))
        .raise(),
    };
    pgrx::log!(
        "pg_cdc: {} gives up the events of topic \"{topic}\" up to {}",
        by.role,
        lsn_text(up_to)
    );
    let before = shared.skipped_events.load(Ordering::Relaxed);
    let number = change(shared, |orders| {
        orders.skips.push(Skip { topic, up_to, by })
    });
    let is_done = || is_obeyed(shared, number) && shared.done_lsn.load(Ordering::Acquire) >= up_to;
    if !shared.wait_until(SKIPPED_MS, is_done) {
        super::wait::timed_out(shared, up_to).raise();
    }
    json!(shared.skipped_events.load(Ordering::Relaxed) - before)
}

fn adopt(shared: &Shared, by: By, source_id: &str) -> Value {
    let described = shared.described();
    if described.source_id != source_id {
        Report::new(
            "CDC0605",
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "source id differs",
            "SELECT source_id FROM cdc_status() shows this server's.",
        )
        .raise();
    }
    if !matches!(described.error_code.as_str(), "CDC0405" | "CDC0407") {
        refuse_state(
            shared,
            "Nothing keeps this server from being the source that it is.",
        )
        .raise();
    }
    pgrx::log!("pg_cdc: {} adopts source {source_id}", by.role);
    let number = change(shared, |orders| orders.adoption = Some(Adoption { by }));
    wait_until_obeyed(shared, number);
    Value::Null
}

/// Counters begin at zero.
#[pg_extern(
    sql = "CREATE FUNCTION cdc_stat_reset() RETURNS void LANGUAGE c PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn cdc_stat_reset() {
    match shared::shared() {
        Some(shared) => shared.reset_counters(),
        None => not_loaded().raise(),
    }
}
