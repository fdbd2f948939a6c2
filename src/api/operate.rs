//! What operators tell the sender: pause, resume, drain, accept a gap, give a topic's events up, adopt. `sql/operate.sql`
//! has the functions that people call.
//!
//! An order counts at once, whatever becomes of the caller's transaction: it is a file, not a row.

use std::sync::atomic::Ordering;

use change::code::Code;
use change::position::{lsn_as_text, lsn_text};
use change::trouble::Trouble;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use shipper::files::orders::{Adoption, Aside, By, Gap, Hold, Orders, Skip};

use super::request;
use super::status::timestamp;
use super::tables::tables;
use super::topic_rights;
use super::wait::refuse_own_changes;
use crate::report::{Raise, not_loaded, notice};
use crate::sender::{orders, wal_reader::end_of_wal};
use crate::shared::{self, Shared, State};
use crate::snapshot::job::Wanted;
use crate::snapshot::request::ask;
use crate::text::utf8;
use crate::tracked::table::Table;

/// How long an order may take until the sender has taken it up; it counts later just as well.
const TAKEN_UP_MS: i64 = 15_000;
/// How long giving up events may take.
const SKIPPED_MS: i64 = 60_000;

/// One call of a function of `sql/operate.sql`.
#[derive(Deserialize)]
struct Request {
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
    let Request { reason, order } = request::read(request);
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
        } => drain(shared, by, timeout_ms, drop_slot),
        Order::AcceptGap { from, to } => accept_gap(shared, Gap { from, to, by }),
        Order::SkipTopic { topic, up_to } => skip_topic(shared, by, topic, up_to),
        Order::UnskipTopic { topic } => unskip_topic(shared, &by, &topic),
        Order::ResumeTopic { topic } => resume_topic(shared, &by, &topic),
        Order::Adopt { source_id } => adopt(shared, by, &source_id),
    };
    answer.to_string().into_bytes()
}

/// Writes the change of the orders down; returns its number.
fn change(shared: &Shared, change: impl FnOnce(&mut Orders)) -> u64 {
    match orders::change(shared, change) {
        Ok(number) => number,
        Err(error) => Trouble::new(
            Code::PositionNotTrusted,
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

/// CDC0604
fn refuse_state(shared: &Shared, detail: &str) -> Trouble {
    let described = shared.described();
    let remedy = described
        .trouble
        .map_or_else(|| "See cdc_status().".to_owned(), |trouble| trouble.remedy);
    Trouble::new(
        Code::WrongState,
        format!("not possible in state \"{}\"", shared.state().name()),
        remedy,
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
    let mut call = DrainCall {
        shared,
        up_to: Some(up_to),
    };
    let is_done = || is_obeyed(shared, number) && shared.state() == State::Drained;
    shared.wait_until(timeout_ms, || {
        is_done() || (is_obeyed(shared, number) && !shared.state().goes_on())
    });
    if is_done() {
        call.up_to = None;
    } else {
        let report = super::wait::timed_out(shared, up_to);
        if !call.take_back() {
            report.raise();
        }
    }
    json!(lsn_text(up_to))
}

/// A call that drains. Not drained is not stopped: should it fail, be cancelled or take too long, nobody must find the sender at
/// rest later on, when the cause is gone.
struct DrainCall<'a> {
    shared: &'a Shared,
    up_to: Option<u64>,
}

impl DrainCall<'_> {
    /// Takes the order back, unless it is another one by now; whether it was carried out after all.
    fn take_back(&mut self) -> bool {
        let Some(ours) = self.up_to.take() else {
            return true;
        };
        let mut is_done = false;
        let taken_back = orders::change(self.shared, |orders| match &orders.hold {
            Some(Hold::Drain { up_to, done, .. }) if *up_to == ours => match done {
                true => is_done = true,
                false => orders.hold = None,
            },
            _ => {}
        });
        if let Err(error) = taken_back {
            pgrx::log!("pg_cdc: the order to drain cannot be taken back: {error}");
        }
        is_done
    }
}

impl Drop for DrainCall<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
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

fn skip_topic(shared: &Shared, by: By, topic: String, up_to: Option<String>) -> Value {
    topic_rights::refuse_no_topic(&topic);
    topic_rights::refuse_order_about(&topic);
    let sent_lsn = shared.sent_lsn.load(Ordering::Acquire);
    let end_lsn = end_of_wal();
    // The next record begins where the WAL ends now, and may be a commit that nobody knows of.
    let last_lsn = end_lsn.saturating_sub(1);
    let up_to = match up_to.as_deref().map(change::position::parse_lsn) {
        None => last_lsn,
        // What nobody has written yet, nobody can know to be worth nothing.
        Some(Some(lsn)) if lsn > end_lsn => Trouble::new(
            Code::NothingToAccept,
            "nothing to accept",
            "Leave up_to out, or take an LSN that is not sent yet.",
        )
        .detail(format!("The WAL ends at {}.", lsn_text(end_lsn)))
        .raise(),
        Some(Some(lsn)) if lsn >= sent_lsn => lsn.min(last_lsn),
        Some(_) => Trouble::new(
            Code::NothingToAccept,
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
    let skip = Skip { topic, up_to, by };
    let number = change(shared, |orders| {
        orders.asides.retain(|aside| aside.topic != skip.topic);
        orders.skips.push(skip.clone());
    });
    let mut call = SkipCall {
        shared,
        skip: Some(skip),
    };
    let is_done = || is_obeyed(shared, number) && shared.done_lsn.load(Ordering::Acquire) >= up_to;
    if !shared.wait_until(SKIPPED_MS, is_done) {
        super::wait::timed_out(shared, up_to).raise();
    }
    // It is done, and stays for people to read.
    call.skip = None;
    json!(shared.skipped_events.load(Ordering::Relaxed) - before)
}

/// A call that gives events up. Should it fail, be cancelled or take too long, its order is taken back: whoever sees an error
/// has not ordered anything.
struct SkipCall<'a> {
    shared: &'a Shared,
    skip: Option<Skip>,
}

impl Drop for SkipCall<'_> {
    fn drop(&mut self) {
        let Some(skip) = self.skip.take() else {
            return;
        };
        let taken_back = orders::change(self.shared, |orders| {
            orders.skips.retain(|other| *other != skip);
        });
        match taken_back {
            Ok(_) => pgrx::log!(
                "pg_cdc: the events of topic \"{}\" are not given up: the call failed",
                skip.topic
            ),
            Err(error) => pgrx::log!(
                "pg_cdc: that events of topic \"{}\" are given up cannot be taken back: {error}",
                skip.topic
            ),
        }
    }
}

/// Takes back that events are given up, as far as they are not.
fn unskip_topic(shared: &Shared, by: &By, topic: &str) -> Value {
    topic_rights::refuse_no_topic(topic);
    topic_rights::refuse_order_about(topic);
    let passed_lsn = shared.passed_lsn();
    let mut found = 0;
    let number = change(shared, |orders| {
        orders.skips.retain(|skip| {
            let is_meant = skip.topic == topic && skip.up_to > passed_lsn;
            found += usize::from(is_meant);
            !is_meant
        });
    });
    if found == 0 {
        nothing_about(topic, "No events of it are given up.").raise();
    }
    pgrx::log!(
        "pg_cdc: {} takes back that events of topic \"{topic}\" are given up",
        by.role
    );
    wait_until_obeyed(shared, number);
    json!(found)
}

/// CDC0608.
fn nothing_about(topic: &str, detail: &str) -> Trouble {
    Trouble::new(Code::TopicNotHeldBack,
        format!("topic \"{topic}\" is not held back"),
        "SELECT * FROM cdc_aside shows topics that are put aside, cdc_check() events that are given up.",
    )
    .detail(detail)
}

/// Lets a topic go on that was put aside. What was not sent of it is not sent later; a snapshot brings the rows as they are.
fn resume_topic(shared: &Shared, by: &By, topic: &str) -> Value {
    // Its name may be what it was put aside for.
    topic_rights::refuse_order_about(topic);
    refuse_transaction_block();
    let mut found = None;
    let number = change(shared, |orders| {
        found = orders.aside(topic).cloned();
        orders.asides.retain(|aside| aside.topic != topic);
    });
    let Some(aside) = found else {
        nothing_about(topic, "It is not put aside.").raise()
    };
    pgrx::log!(
        "pg_cdc: {} lets topic \"{}\" go on, put aside at {}",
        by.role,
        topic.escape_debug(),
        lsn_text(aside.from)
    );
    let mut call = ResumeCall {
        shared,
        aside: Some(aside),
    };
    wait_until_obeyed(shared, number);
    let is_of_topic = |table: &&Value| {
        let further = table["topics"].as_object().into_iter().flatten();
        let mut further = further.map(|(_, topic)| topic);
        table["topic"] == topic || further.any(|other| other == topic)
    };
    let tables = tables();
    let repaired = tables.iter().filter(is_of_topic).map(|table| {
        let has_key = !table["key"].is_null();
        if has_key {
            let oid = table["relation"].as_u64().unwrap_or_default() as u32;
            let table = Table::look(pg_sys::Oid::from(oid));
            ask(&table, &Wanted::default());
        }
        json!({"relation": table["relation"], "has_key": has_key})
    });
    let repaired = repaired.collect();
    call.aside = None;
    repaired
}

/// CDC0610: the topic would go on at once, and the snapshots that repair it only if the transaction commits.
fn refuse_transaction_block() {
    // SAFETY: plain reads of the state of the running transaction.
    if unsafe { !pg_sys::IsTransactionBlock() && !pg_sys::IsSubTransaction() } {
        return;
    }
    Trouble::new(Code::InTransactionBlock,
        "cdc_resume_topic() cannot run inside a transaction block",
        "Call it alone, outside of BEGIN and of blocks with an exception handler.",
    )
    .detail("The topic goes on at once; the snapshots that repair its tables would be taken back with the transaction.")
    .raise();
}

/// A call that lets a topic go on. Should it fail or be cancelled, no snapshot repairs what was not sent: the topic is put aside as
/// before.
struct ResumeCall<'a> {
    shared: &'a Shared,
    aside: Option<Aside>,
}

impl Drop for ResumeCall<'_> {
    fn drop(&mut self) {
        let Some(aside) = self.aside.take() else {
            return;
        };
        let topic = aside.topic.escape_debug().to_string();
        let put_back = orders::change(self.shared, |orders| {
            if orders.aside(&aside.topic).is_none() {
                orders.asides.push(aside);
            }
        });
        match put_back {
            Ok(_) => pgrx::log!("pg_cdc: topic \"{topic}\" is put aside again: the call failed"),
            Err(error) => {
                pgrx::log!("pg_cdc: that topic \"{topic}\" goes on cannot be taken back: {error}")
            }
        }
    }
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
