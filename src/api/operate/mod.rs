//! What operators tell the sender: pause, resume, drain, accept a gap, give a topic's events up, adopt. `sql/operate.sql`
//! has the functions that people call.
//!
//! An order counts at once, whatever becomes of the caller's transaction: it is a file, not a row.

mod drain;
mod order;
mod topics;

use std::sync::atomic::Ordering;

use change::code::Code;
use change::position::{lsn_as_text, lsn_text};
use change::trouble::Trouble;
use order::{change, refuse_state, wait_until_obeyed};
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use shipper::files::orders::{Adoption, By, Gap, Hold};

use super::arguments;
use super::status::timestamp;
use super::tables::tables;
use crate::report::{Raise, not_loaded, notice};
use crate::shared::{self, Shared, State};
use crate::text::utf8;

/// One call of a function of `sql/operate.sql`.
#[derive(Deserialize)]
struct OrderRequest {
    reason: Option<String>,
    #[serde(flatten)]
    order: Order,
}

/// Who gives the order, and when: as the server knows it, whatever the call says.
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
        reason,
    }
}

/// The text without control characters.
fn one_line(text: &str) -> String {
    text.chars()
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
    UnskipTopic {
        topic: String,
    },
    ResumeTopic {
        topic: String,
    },
    Adopt {
        source_id: String,
    },
}

/// What a reason may have, in bytes: it goes into the log and into the state.
const MAX_REASON_BYTES: usize = 1024;

/// CDC0606: who reads the log must be able to rely on its lines.
fn refuse_reason(reason: &str) {
    let detail = if reason.len() > MAX_REASON_BYTES {
        format!(
            "It has {} bytes, {MAX_REASON_BYTES} are allowed.",
            reason.len()
        )
    } else if reason.chars().any(char::is_control) {
        "It has control characters, such as ends of lines.".to_owned()
    } else {
        return;
    };
    Trouble::new(
        Code::OrderUnusable,
        "the order has no usable reason",
        "Give a reason of one short line.",
    )
    .detail(detail)
    .raise();
}

/// Gives an order; what it returns depends on the order, `null` for most.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_order(request bytea) RETURNS bytea LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn give_order(request: &[u8]) -> Vec<u8> {
    let Some(shared) = shared::shared() else {
        not_loaded().raise()
    };
    let OrderRequest { reason, order } = arguments::read(request);
    if let Some(reason) = &reason {
        refuse_reason(reason);
    }
    let by = by(reason);
    let answer = match order {
        Order::Pause => pause(shared, by),
        Order::Resume => resume(shared),
        Order::Drain {
            timeout_ms,
            drop_slot,
        } => drain::drain(shared, by, timeout_ms, drop_slot),
        Order::AcceptGap { from, to } => accept_gap(shared, Gap { from, to, by }),
        Order::SkipTopic { topic, up_to } => topics::skip_topic(shared, by, topic, up_to),
        Order::UnskipTopic { topic } => topics::unskip_topic(shared, &by, &topic),
        Order::ResumeTopic { topic } => topics::resume_topic(shared, &by, &topic),
        Order::Adopt { source_id } => adopt(shared, by, &source_id),
    };
    answer.to_string().into_bytes()
}

fn pause(shared: &Shared, by: By) -> Value {
    let number = change(shared, |orders| orders.hold = Some(Hold::Pause { by }));
    wait_until_obeyed(shared, number);
    Value::Null
}

fn resume(shared: &Shared) -> Value {
    let trouble = shared.described().trouble;
    let has_panicked = shared.state() == State::Halted
        && trouble.is_some_and(|trouble| trouble.code == Code::SenderPanicked);
    let mut held = false;
    let number = change(shared, |orders| held = orders.hold.take().is_some());
    if !held && !has_panicked {
        refuse_state(
            shared,
            "Only a sender that is paused, drained, or halted after panics can resume.",
        )
        .raise();
    }
    wait_until_obeyed(shared, number);
    Value::Null
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
        Trouble::new(
            Code::NothingToAccept,
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

fn adopt(shared: &Shared, by: By, source_id: &str) -> Value {
    let described = shared.described();
    if described.source_id != source_id {
        Trouble::new(
            Code::SourceIdDiffers,
            "source id differs",
            "SELECT source_id FROM cdc_status() shows this server's.",
        )
        .raise();
    }
    let code = described.trouble.map(|trouble| trouble.code);
    if !matches!(code, Some(Code::PositionNotTrusted | Code::PositionForeign)) {
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
