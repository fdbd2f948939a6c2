//! `cdc_track` and `cdc_untrack`: the triggers on a table are the configuration, nothing else is kept.

pub(crate) mod request;

use std::sync::atomic::Ordering;

use change::code::Code;
use change::options::Options;
use change::trouble::Trouble;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::arguments;
use super::unsound_triggers::unsound;
use crate::ddl::partitions;
use crate::ddl::partitions::rows::{self, Moved};
use crate::ddl::schema_change::SchemaChange;
use crate::ddl::untracking::untrack;
use crate::report::no_worker;
use crate::report::{Raise, not_loaded, notice};
use crate::settings;
use crate::shared::{self, Shared, about_sender};
use crate::snapshot::chunk::{has_key, no_key as snapshot_needs_key};
use crate::snapshot::job::Wanted;
use crate::snapshot::request::ask;
use crate::tracked::computed_columns::warn_of_clear;
use crate::tracked::own_trigger::Tracked;
use crate::tracked::partitions::any_triggers;
use crate::tracked::partitions::lock_below;
use crate::tracked::partitions::tracked_themselves;
use crate::tracked::rights::is_monitor;
use crate::tracked::table::Table;
use crate::tracked::triggers::make_triggers;
use request::{Request, check_shipped, claim_topics};

/// How long a server that has just started may take until its sender holds the slot.
pub(crate) const SENDER_START_MS: i64 = 10_000;

/// Ships every committed change of `relation` from now on; a second call changes what is given. Returns the topic.
/// `cdc_track` in `sql/functions.sql` calls it.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_track(relation regclass, request bytea) RETURNS text LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn track_by_request(relation: pg_sys::Oid, request: &[u8]) -> String {
    track(relation, arguments::read(request))
}

fn track(relation: pg_sys::Oid, request: Request) -> String {
    let Some(shared) = shared::shared() else {
        not_loaded().raise()
    };
    // Who asks for what is there waits for nobody, and nobody for him.
    let same = Table::glance(relation, |table| {
        table.refuse_unsupported();
        let before = table.tracked().filter(|before| before.is_here())?;
        let plan = Intent::of(request.clone(), table, Some(&before));
        let is_same = plan.wanted == before.options && !misses_changes(table, &plan.wanted);
        is_same.then(|| plan.warn(table).wanted.topic)
    });
    require_sender(shared);
    let with_snapshot = request.snapshot == Some(true);
    if let Some(topic) = same {
        return already_tracked(&Table::look(relation), topic, with_snapshot);
    }
    let table = lock_for_triggers(relation);
    table.refuse_unsupported();
    let before = table.tracked();
    let Intent { wanted, key } = Intent::of(request, &table, before.as_ref()).warn(&table);
    claim_topics(&table, &wanted);
    let told = before.as_ref().filter(|before| before.is_here());
    if told.is_some_and(|before| before.options == wanted) {
        if misses_changes(&table, &wanted) {
            make_triggers(&table, &wanted);
            partitions::follow(&table);
            notice(format!(
                "triggers of table \"{}\" were disabled or gone, and capture again",
                table.name
            ));
        }
        return already_tracked(&table, wanted.topic, with_snapshot);
    }
    if told.is_some_and(|before| before.options.topic != wanted.topic) {
        // Who reads the old topic must know that nothing comes there any more: the table is another topic's now.
        SchemaChange::new("UNTRACK").capture(&table);
    }
    end_own_tracking_below(&table);
    make_triggers(&table, &wanted);
    partitions::follow(&table);
    SchemaChange {
        contents_changed: with_snapshot,
        ..SchemaChange::new(SchemaChange::TRACKED)
    }
    .capture(&table);
    if with_snapshot {
        ask(&table, &Wanted::default());
    }
    let shown_key = if key.is_empty() {
        "none".to_owned()
    } else {
        key.join(", ")
    };
    notice(format!(
        "table \"{}\" is tracked: every change goes to topic \"{}\" (key: {shown_key})",
        table.name, wanted.topic
    ));
    wanted.topic
}

/// Captures the rows that a table was made with, as inserted by the transaction that made it. `_cdc_new_tables` in
/// `sql/schemas.sql` calls it.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_insert_rows(relation regclass) RETURNS void LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn insert_rows(relation: pg_sys::Oid) {
    rows::capture(&Table::look(relation), relation, Moved::In);
}

/// What a table is to have from now on, looked at.
struct Intent {
    wanted: Options,
    /// Columns of the key that events have.
    key: Vec<String>,
}

impl Intent {
    fn of(request: Request, table: &Table, before: Option<&Tracked>) -> Intent {
        let with_snapshot = request.snapshot == Some(true);
        let wanted = request.options(table, before);
        let identity = table.identity(wanted.key.is_empty());
        let key = if wanted.key.is_empty() {
            identity
        } else {
            wanted.key.clone()
        };
        check_shipped(table, &wanted, &key);
        if with_snapshot && !has_key(table, &wanted) {
            // Before a warning that would read as if it were tracked.
            snapshot_needs_key(&table.name).raise();
        }
        Intent { wanted, key }
    }

    fn warn(self, table: &Table) -> Intent {
        if self.key.is_empty() {
            no_key(table).warn();
        }
        warn_of_clear(table, &self.wanted);
        self
    }
}

/// Nothing of the table's options is another.
fn already_tracked(table: &Table, topic: String, with_snapshot: bool) -> String {
    notice(format!(
        "table \"{}\" is already tracked: its changes go to topic \"{topic}\"",
        table.name
    ));
    if with_snapshot {
        ask(table, &Wanted::default());
    }
    topic
}

/// Whether triggers of a tracked table or of its partitions are disabled or gone, so that changes go by.
fn misses_changes(table: &Table, options: &Options) -> bool {
    unsound(Some(table.oid))
        .iter()
        .any(|part| part.misses(options))
}

/// Locks a table and its partitions as strongly as the change of the triggers will need, at once: two who made a stronger
/// lock of a weaker one would wait for each other, or for a writer who waits for them. Readers wait only where there are
/// triggers to be dropped.
fn lock_for_triggers(relation: pg_sys::Oid) -> Table {
    loop {
        let mode = if any_triggers(relation) {
            pg_sys::AccessExclusiveLock
        } else {
            pg_sys::ShareRowExclusiveLock
        };
        let table = Table::open(relation, mode);
        if mode == pg_sys::AccessExclusiveLock || !any_triggers(relation) {
            lock_below(relation, mode);
            return table;
        }
        // Somebody tracked it while this waited. SAFETY: the lock that was taken above, under which nothing was done.
        unsafe { pg_sys::UnlockRelationOid(relation, mode as pg_sys::LOCKMODE) };
    }
}

/// Stops shipping `relation`; false, with a NOTICE, if it was not tracked.
#[pg_extern(
    sql = "CREATE FUNCTION cdc_untrack(relation regclass) RETURNS boolean LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn cdc_untrack(relation: pg_sys::Oid) -> bool {
    let is_tracked = Table::glance(relation, |table| {
        table.refuse_clone();
        table.tracked().is_some()
    });
    let table = if is_tracked {
        lock_for_triggers(relation)
    } else {
        Table::look(relation)
    };
    if table.tracked().is_none() {
        notice(format!("table \"{}\" is not tracked", table.name));
        return false;
    }
    untrack(&table);
    partitions::follow(&table);
    true
}

/// A partition that was tracked by itself, before it was attached or its root tracked, is the root's from now on.
fn end_own_tracking_below(table: &Table) {
    for partition in tracked_themselves(table.oid) {
        if partition.oid != table.oid {
            untrack(&partition);
        }
    }
}

/// The sender must hold the WAL before a trigger writes into it, else changes would be lost silently.
fn require_sender(shared: &Shared) {
    if settings::text(&settings::BROKERS).is_empty() {
        Trouble::new(
            Code::NoBrokers,
            "cdc.brokers is not set",
            "ALTER SYSTEM SET cdc.brokers = 'host:9092', then SELECT pg_reload_conf().",
        )
        .detail("Without brokers no WAL is held, and changes would be lost.")
        .raise();
    }
    let ready = || shared.slot_ready.load(Ordering::Acquire) != 0;
    let failed = || matches!(shared.state(), shared::State::Halted | shared::State::Gap);
    shared.wait_until(SENDER_START_MS, || ready() || failed());
    if ready() {
        return;
    }
    if shared.sender_pid.load(Ordering::Acquire) == 0 {
        no_worker().raise();
    }
    let not_ready = Trouble::new(
        Code::SenderNotReady,
        format!("sender is not ready ({})", shared.state().name()),
        "See cdc_status().",
    );
    about_sender(not_ready, shared, is_monitor()).raise();
}

fn no_key(table: &Table) -> Trouble {
    Trouble::new(
        Code::NoKey,
        format!("table \"{}\" has no key", table.name),
        "Add a primary key, or name columns with key =>.",
    )
    .detail("All its changes go to one partition, and a replica must search for each changed row.")
}
