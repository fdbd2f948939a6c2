//! Orders about one topic: its events are given up, or it goes on after it was put aside.

use std::sync::atomic::Ordering;

use change::code::Code;
use change::position::lsn_text;
use change::trouble::Trouble;
use pgrx::pg_sys;
use serde_json::{Value, json};
use shipper::files::orders::{Aside, By, Skip};

use super::order::{change, is_obeyed, wait_until_obeyed};
use crate::api::tables::tables;
use crate::api::topic_rights;
use crate::api::wait::timed_out;
use crate::report::Raise;
use crate::sender::orders;
use crate::sender::wal::reader::end_of_wal;
use crate::shared::Shared;
use crate::snapshot::job::Wanted;
use crate::snapshot::request::ask;
use crate::tracked::table::Table;

/// How long giving up events may take.
const SKIPPED_MS: i64 = 60_000;

/// Gives up the events of a topic that are not sent.
pub(super) fn skip_topic(shared: &Shared, by: By, topic: String, up_to: Option<String>) -> Value {
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
        timed_out(shared, up_to).raise();
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
pub(super) fn unskip_topic(shared: &Shared, by: &By, topic: &str) -> Value {
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
    Trouble::new(
        Code::TopicNotHeldBack,
        format!("topic \"{topic}\" is not held back"),
        "SELECT * FROM cdc_aside shows topics that are put aside, cdc_check() events that are given up.",
    )
    .detail(detail)
}

/// Lets a topic go on that was put aside. What was not sent of it is not sent later; a snapshot brings the rows as they are.
pub(super) fn resume_topic(shared: &Shared, by: &By, topic: &str) -> Value {
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
    Trouble::new(
        Code::InTransactionBlock,
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
