//! Options name columns: they follow their columns when these are renamed, and know when one is gone.

use change::code::Code;
use change::options::Options;
use change::trouble::Trouble;
use pgrx::pg_sys;

use crate::capture::filter::names;
use crate::capture::filter::text::FormerNames;
use crate::ddl::partitions;
use crate::report::{Raise, notice};
use crate::tracked::computed_columns::warn_of_clear;
use crate::tracked::definition::Definition;
use crate::tracked::partitions::below;
use crate::tracked::table::Table;
use crate::tracked::triggers::make_triggers;

/// Gives the table's triggers the names of today, in the transaction of the command that changed them: no row is captured
/// in between. What is not captured here, a copy or a trigger that
/// somebody else made, is left as it is.
pub(crate) fn follow(table: &Table, before: &Definition, now: &Definition) {
    let Some(options) = table.options() else {
        return;
    };
    let renamed = before.renamed(now);
    // Where the same command gave the name to a new column, what was said of the old one goes for that.
    let dropped: Vec<String> = before
        .dropped(now)
        .into_iter()
        .map(|(_, name)| name)
        .filter(|name| !before.added(now).any(|column| column.name == *name))
        .collect();
    let mut wanted = options.clone();
    drop_names(table, &mut wanted, &dropped);
    rename(&mut wanted, &renamed);
    if !wanted.filter.is_empty() {
        let former = FormerNames {
            table: (before.name != now.name).then_some(before.name.as_str()),
            columns: &renamed,
        };
        if former.table.is_some() || !renamed.is_empty() {
            follow_filter(table, &mut wanted, &former);
        }
    }
    if wanted != options {
        refuse_pending(table);
        make_triggers(table, &wanted);
        partitions::follow(table);
    }
    if before.added(now).any(|column| column.generated) {
        warn_of_clear(table, &wanted);
    }
}

/// All at once, for two columns may have changed their names.
fn rename(options: &mut Options, renamed: &[(i16, String, String)]) {
    let new_name = |name: &String| {
        let found = renamed.iter().find(|(_, old, _)| old == name);
        found.map_or_else(|| name.clone(), |(_, _, new)| new.clone())
    };
    for names in [&mut options.key, &mut options.include, &mut options.exclude] {
        *names = names.iter().map(new_name).collect();
    }
    options.mask = std::mem::take(&mut options.mask)
        .into_iter()
        .map(|(name, mask)| (new_name(&name), mask))
        .collect();
}

/// What is not shipped, or not as it is, goes with its column; what readers rely on must be chosen anew before.
fn drop_names(table: &Table, options: &mut Options, dropped: &[String]) {
    if let Some(column) = options.key.iter().find(|name| dropped.contains(name)) {
        needed(table, column, "key").raise();
    }
    let included = options.include.len();
    options.include.retain(|name| !dropped.contains(name));
    if included > 0 && options.include.is_empty() {
        // An empty list would ship every column.
        needed(table, &dropped.join(", "), "include").raise();
    }
    let stays = |name: &String, option: &str| {
        let goes = dropped.contains(name);
        if goes {
            notice(format!(
                "{option} of column \"{name}\" of table \"{}\" went with the column",
                table.name
            ));
        }
        !goes
    };
    options.exclude.retain(|name| stays(name, "exclude"));
    options
        .mask
        .retain(|name, mask| stays(name, &format!("mask \"{mask}\"")));
}

fn follow_filter(table: &Table, options: &mut Options, former: &FormerNames<'_>) {
    let text = names::coded(table, || {
        // SAFETY: the relation is open while it is read, and the command that has just ended has locked it.
        table.read(|relation| unsafe {
            let relation = std::ptr::from_ref(relation).cast_mut();
            names::follow(relation, &options.filter, former)
        })
    });
    if let Some(text) = text {
        options.filter = text;
    }
}

/// CDC0121: PostgreSQL makes no trigger anew on a table whose triggers have yet to fire.
pub(crate) fn refuse_pending(table: &Table) {
    let mut parts = below(table.oid);
    parts.push(table.oid);
    // SAFETY: inside a transaction; reads the backend's own list of events.
    let is_pending = |part| unsafe { pg_sys::AfterTriggerPendingOnRel(part) };
    if parts.into_iter().any(is_pending) {
        Trouble::new(
            Code::TriggersPending,
            format!(
                "options of tracked table \"{}\" cannot follow their columns while deferred triggers are pending",
                table.name
            ),
            "SET CONSTRAINTS ALL IMMEDIATE first, or rename in a transaction of its own.",
        )
        .raise();
    }
}

/// CDC0119.
fn needed(table: &Table, column: &str, option: &str) -> Trouble {
    Trouble::new(
        Code::ColumnNeeded,
        format!(
            "cannot drop column \"{column}\" of tracked table \"{}\": its option {option} needs it",
            table.name
        ),
        format!(
            "Call cdc_track({}, {option} => …) with other columns first, or '{{}}' for none.",
            table.argument()
        ),
    )
}
