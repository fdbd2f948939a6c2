//! Asks for snapshots.

use std::cell::Cell;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;

use super::chunk::{has_key, no_key, refuse_untracked};
use super::job::{Jobs, MOST_OF_TABLE, Wanted};
use super::launcher;
use crate::report::{Raise, not_loaded};
use crate::shared;
use crate::tracked::rights::{as_superuser, asks_as_admin};
use crate::tracked::table::Table;

thread_local! {
    /// This transaction asked for a snapshot: its commit wakes the sender.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Asks for a snapshot of a table; its rows are read once the transaction has committed.
pub(crate) fn ask(table: &Table, wanted: &Wanted) -> i64 {
    refuse_more(table);
    add(table, wanted)
}

/// CDC0508: whoever asks in a loop is told so.
fn refuse_more(table: &Table) {
    let unfinished = as_superuser(|| Jobs::find().map_or(0, |jobs| jobs.unfinished(table.oid)));
    if unfinished < MOST_OF_TABLE || asks_as_admin() {
        return;
    }
    Trouble::new(
        Code::TooManySnapshots,
        format!(
            "table \"{}\" has {unfinished} unfinished snapshots",
            table.name
        ),
        "Wait until they are done, or cdc_snapshot_cancel() those that are not needed: see cdc_snapshots.",
    )
    .raise();
}

fn add(table: &Table, wanted: &Wanted) -> i64 {
    if shared::shared().is_none() {
        not_loaded().raise();
    }
    refuse_untracked(table);
    if !table
        .options()
        .is_some_and(|options| has_key(table, &options))
    {
        no_key(&table.name).raise();
    }
    let id = as_superuser(|| match Jobs::find() {
        Some(jobs) => jobs.add(table.oid, wanted),
        None => pgrx::error!("extension pg_cdc is not there"),
    });
    note();
    id
}

/// Asks for a snapshot of a whole table, unless one that has not begun will do. The caller has locked the table against
/// everybody.
pub(crate) fn ask_unless_pending(table: &Table) {
    let wanted = Wanted::default();
    let is_pending = as_superuser(|| {
        Jobs::find().is_some_and(|jobs| {
            let is_pending = jobs.has_pending(table.oid, &wanted);
            if !is_pending && jobs.unfinished(table.oid) >= MOST_OF_TABLE {
                jobs.cancel_oldest(table.oid);
            }
            is_pending
        })
    });
    if !is_pending {
        add(table, &wanted);
    }
}

/// After the job is written: the note that this database has work survives a crash, the flag wakes the sender.
pub(crate) fn note() {
    // SAFETY: set for the life of a backend.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    if let Err(error) = launcher::mark(database) {
        pgrx::error!("pg_cdc cannot note the snapshot in its folder: {error}");
    }
    ASKED.set(true);
}

/// The transaction ends; `committed` or prepared. Safe in a commit callback.
pub(crate) fn ended(committed: bool) {
    if ASKED.take()
        && committed
        && let Some(shared) = shared::shared()
    {
        // SAFETY: set for the life of a backend.
        shared
            .snapshots
            .want_worker(unsafe { pg_sys::MyDatabaseId }.to_u32());
        shared.wake_sender();
    }
}
