//! At the end of every command: what it made of tracked tables, by whatever road. The catalogs as they are now are compared
//! with the catalogs as they were when this was done last in the transaction, for the relations that the relation cache was
//! told about. So nobody has to know which statement changes which table: ALTER TABLE of a parent, CASCADE, a dropped type.
//!
//! "As they were" is a snapshot with an older command id, so a savepoint that is rolled back takes its changes out of both.

use std::cell::Cell;
use std::collections::BTreeMap;

use change::code::Code;
use change::options::{Operation, Options};
use change::trouble::Trouble;
use pgrx::pg_sys;

use super::partitions::rows::is_empty;
use super::renames::{changed_types, options};
use super::schema_change::SchemaChange;
use super::{partitions, touched};
use crate::ddl::command::statement_of;
use crate::ffi;
use crate::report::Raise;
use crate::tracked::definition::{Catalogs, Column, Definition};
use crate::tracked::own_trigger::{
    IS_ROW_TRIGGER, IS_TRUNCATE_TRIGGER, Own, ROW_TRIGGER, TRUNCATE_TRIGGER,
};
use crate::tracked::partitions::below;
use crate::tracked::partitions::root_of;
use crate::tracked::statement;
use crate::tracked::table::Table;

thread_local! {
    /// The transaction in which tables were looked at last, and its command id then.
    static LOOKED_AT: Cell<(u32, pg_sys::CommandId)> = const { Cell::new((0, 0)) };
}

/// What is known of the command that has just ended.
pub(crate) struct Command {
    pub kind: pg_sys::NodeTag,
    /// It may have given rows other values where it rewrote a table.
    pub computes: bool,
}

impl Command {
    /// Its text, where it is one alone.
    fn ddl(&self) -> Option<String> {
        statement_of(self.kind)
    }
}

/// A relation that was touched.
struct Touched {
    oid: pg_sys::Oid,
    /// None: made since.
    before: Option<Definition>,
    now: Definition,
    /// The table that it was a part of.
    parent_before: Option<pg_sys::Oid>,
}

/// A command begins: in a new transaction, what was told before is no longer of interest.
pub(crate) fn command_begins() {
    let transaction = ffi::local_transaction_id();
    if LOOKED_AT.get().0 != transaction {
        LOOKED_AT.set((transaction, 0));
        touched::forget();
    }
}

/// What came of it.
pub(crate) struct Told {
    /// Tables of which an event tells.
    pub tables: Vec<pg_sys::Oid>,
    /// Tracked tables were touched and are what they were.
    pub others: bool,
}

/// Tells of every tracked table that is another one now.
pub(crate) fn tell(command: &Command) -> Told {
    let transaction = ffi::local_transaction_id();
    let (looked_in, looked_at) = LOOKED_AT.get();
    let since = if looked_in == transaction {
        looked_at
    } else {
        0
    };
    let relations = touched::take().unwrap_or_else(everything);
    let relations = relations.into_iter().filter(|oid| may_be_tracked(*oid));
    let relations: Vec<pg_sys::Oid> = relations.collect();
    let found = if relations.is_empty() {
        Vec::new()
    } else {
        what_became_of(relations, since)
    };
    let tables = tell_of(&found, command);
    // SAFETY: inside a transaction.
    LOOKED_AT.set((transaction, unsafe { pg_sys::GetCurrentCommandId(false) }));
    let others = found
        .iter()
        .any(|one| one.now.has_row_trigger() && !tables.contains(&one.oid));
    Told { tables, others }
}

fn what_became_of(relations: Vec<pg_sys::Oid>, since: pg_sys::CommandId) -> Vec<Touched> {
    Catalogs::before_and_now(since, |before, now| {
        let found = relations.into_iter().filter_map(|oid| {
            let definition = now.definition(oid, false)?;
            let before_it = before.definition(oid, definition.is_of_interest());
            let was_partition = before_it.as_ref().is_some_and(|it| it.is_partition);
            Some(Touched {
                oid,
                parent_before: was_partition.then(|| before.parent(oid)).flatten(),
                before: before_it,
                now: definition,
            })
        });
        found.collect()
    })
}

/// Whether a relation has triggers, or had some (PostgreSQL looks at this once more in VACUUM only), or is a row type. Most
/// commands are about others, and shall not pay for a look at their definitions.
fn may_be_tracked(oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside the running transaction; the row is read before it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
        if tuple.is_null() {
            return false;
        }
        let class: *const pg_sys::FormData_pg_class = pg_sys::GETSTRUCT(tuple).cast();
        let found = (*class).relhastriggers || (*class).relkind as u8 == b'c';
        pg_sys::ReleaseSysCache(tuple);
        found
    }
}

/// Whatever may be of interest, where too much was touched to be remembered.
fn everything() -> Vec<pg_sys::Oid> {
    statement::oids(
        "what is tracked",
        &format!(
            "SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE {IS_ROW_TRIGGER} OR {IS_TRUNCATE_TRIGGER}
             UNION SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'c' OR relispartition ORDER BY 1"
        ),
        &[],
    )
}

fn tell_of(found: &[Touched], command: &Command) -> Vec<pg_sys::Oid> {
    let mut told = Vec::new();
    let mut types = Vec::new();
    let mut disabled = Vec::new();
    let rewritten: Vec<pg_sys::Oid> = found
        .iter()
        .filter(|one| {
            one.before
                .as_ref()
                .is_some_and(|before| before.file != one.now.file)
        })
        .map(|one| one.oid)
        .collect();
    for one in found {
        let was_partition = one
            .before
            .as_ref()
            .is_some_and(|before| before.is_partition);
        let came = one.now.is_partition && !was_partition;
        if came {
            partitions::attached(one.oid, command.ddl(), one.before.is_some());
        } else if let Some(parent) = one.parent_before.filter(|_| !one.now.is_partition) {
            // SAFETY: inside a transaction; the command has locked the table that the partition belonged to.
            if let Some(root) = Table::if_there(unsafe { root_of(parent) }) {
                partitions::detached(&root, one.oid, command.ddl());
            }
        }
        let Some(before) = &one.before else {
            continue;
        };
        if one.now.kind == b'c' {
            if is_renamed(before, &one.now) || before.differs(&one.now) {
                types.push(one.now.row_type);
            }
        } else if one.now.has_row_trigger() {
            // What another transaction changed is not locked here, and may be gone in a moment.
            let is_ours = is_renamed(before, &one.now)
                || before.differs(&one.now)
                || before.triggers != one.now.triggers
                || before.persistence != one.now.persistence
                || rewritten.contains(&one.oid)
                || (one.now.kind == b'p' && !rewritten.is_empty());
            if !is_ours {
                continue;
            }
            let table = Table::at(one.oid);
            // SAFETY: inside a transaction.
            let root = Table::at(unsafe { root_of(one.oid) });
            // In the name of a copy, or of a trigger that somebody else made, nothing is said.
            let Some(options) = root.options() else {
                continue;
            };
            if before.persistence != b'u' && one.now.persistence == b'u' {
                refuse_unlogged(&table, &root);
            }
            // What just came has had its triggers since the catalogs were read.
            if !came && stopped(before, &one.now, &options) {
                disabled.push((one.oid, root.oid));
            }
            if root.oid == one.oid && tell_of_table(&table, before, &one.now, &rewritten, command) {
                told.push(one.oid);
            }
        }
    }
    warn_of(&disabled);
    if !types.is_empty() {
        let change = SchemaChange {
            ddl: command.ddl(),
            ..SchemaChange::new("ALTER")
        };
        changed_types::capture(types, false, &change, &told);
    }
    told
}

fn is_renamed(before: &Definition, now: &Definition) -> bool {
    (&before.name, before.schema) != (&now.name, now.schema)
}

/// Captures the event, if there is something to say.
fn tell_of_table(
    table: &Table,
    before: &Definition,
    now: &Definition,
    rewritten: &[pg_sys::Oid],
    command: &Command,
) -> bool {
    let renamed = is_renamed(before, now);
    let differs = before.differs(now);
    if renamed || differs {
        options::follow(table, before, now);
    }
    let contents_changed = contents_changed(table, before, now, rewritten, command);
    if !renamed && !differs && !contents_changed {
        return false;
    }
    let renames: BTreeMap<String, String> = before
        .renamed(now)
        .into_iter()
        .map(|(_, old, new)| (old, new))
        .collect();
    SchemaChange {
        ddl: command.ddl(),
        contents_changed,
        renames,
        ..SchemaChange::new(if renamed { "RENAME" } else { "ALTER" })
    }
    .capture(table);
    true
}

/// Whether rows have other values than before in what is shipped, though no row trigger fired.
fn contents_changed(
    table: &Table,
    before: &Definition,
    now: &Definition,
    rewritten: &[pg_sys::Oid],
    command: &Command,
) -> bool {
    let ships = |name: &str| table.options().is_some_and(|options| options.ships(name));
    let is_rewritten = !rewritten.is_empty()
        && std::iter::once(table.oid)
            .chain(below(table.oid))
            .any(|part| rewritten.contains(&part));
    let changed = (command.computes && is_rewritten)
        || before
            .added(now)
            .any(|column| column.fills_itself && ships(&column.name))
        || before
            .retyped(now)
            .any(|(old, new)| !reads_the_same(old, new) && ships(&new.name));
    changed && !is_empty(table.oid)
}

/// Whether values that were not written anew have the same text in the new type.
fn reads_the_same(old: &Column, new: &Column) -> bool {
    let category = |type_id| {
        let (mut category, mut preferred) = (0, false);
        // SAFETY: catalog look-ups inside the running transaction; a type that is gone has no category.
        unsafe {
            if pg_sys::get_typisdefined(type_id) {
                pg_sys::get_type_category_preferred(type_id, &mut category, &mut preferred);
            }
        }
        category as u8
    };
    // SAFETY: as above; what is no domain is its own base.
    old.type_id == new.type_id
        || unsafe { pg_sys::getBaseType(new.type_id) } == old.type_id
        || (category(old.type_id) == b'S' && category(new.type_id) == b'S')
}

/// Whether one of our triggers fires no longer for everybody since, or is gone.
fn stopped(before: &Definition, now: &Definition, options: &Options) -> bool {
    let ships_truncate = options.operations.contains(Operation::Truncate);
    before.triggers.iter().any(|(own, state)| {
        let state_now = now.triggers.iter().find(|(other, _)| other == own);
        match state_now {
            None => *own == Own::Truncate && ships_truncate,
            Some((_, now)) => now != state && *now != pg_sys::TRIGGER_FIRES_ALWAYS,
        }
    })
}

/// One warning for a table and its partitions.
fn warn_of(tables: &[(pg_sys::Oid, pg_sys::Oid)]) {
    for (oid, root) in tables {
        if root == oid || !tables.iter().any(|(other, _)| other == root) {
            not_captured(&Table::at(*oid), &Table::at(*root)).warn();
        }
    }
}

/// CDC0101: a crash empties an unlogged table without an event.
fn refuse_unlogged(table: &Table, root: &Table) {
    Trouble::new(
        Code::NotTrackable,
        format!("cannot make tracked table \"{}\" unlogged", table.name),
        format!("Call cdc_untrack({}) first.", root.argument()),
    )
    .detail("A crash empties an unlogged table without a trace.")
    .raise()
}

/// CDC0203: our triggers do not fire for everybody any more, on a table or on one of its partitions.
fn not_captured(table: &Table, root: &Table) -> Trouble {
    Trouble::new(
        Code::TableNotCaptured,
        format!("changes of \"{}\" are not captured", table.name),
        format!(
            "SELECT cdc_track({name}) to capture again, then cdc_snapshot({name}) to repair what was missed.",
            name = root.argument()
        ),
    )
    .detail(format!(
        "Its trigger {ROW_TRIGGER} or {TRUNCATE_TRIGGER} is disabled or gone, or does not fire for rows that a subscription applies."
    ))
}
