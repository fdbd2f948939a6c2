//! Makes plans.
//!
//! The trigger's arguments are the configuration (`change::options`), if they are sealed (`tracked::seal`): looked at once
//! for each plan.

use std::ffi::CStr;

use change::code::Code;
use change::options::{Operation, Options};
use change::trouble::Trouble;
use change::wal::relation::Relation as RelationEntry;
use pgrx::pg_sys;

use super::attributes::{as_the_root_has_them, identity_attributes, live_attributes, read_root};
use super::columns::{Columns, NamedColumn};
use super::dropping::is_dropping;
use super::keys::Keys;
use super::table_plan::Plan;
use super::validity::Validity;
use crate::capture::filter::{names, row_filter};
use crate::catalog::{name_of, tuple_attribute};
use crate::report::Raise;
use crate::text::utf8;
use crate::tracked::own_trigger::{Own, Standing, Tracked};
use crate::tracked::partitions::root_of;
use crate::tracked::table::Table;
use crate::tracked::untrusted::{copied_table, unsealed_table};

/// The plan of a running trigger's relation.
///
/// # Safety
/// `trigger` is the data that PostgreSQL passed to the trigger function.
pub(super) unsafe fn build_plan(
    id: u64,
    validity: Validity,
    trigger: &pg_sys::TriggerData,
) -> Plan {
    // SAFETY: relation, descriptor and trigger belong to the running trigger and stay open.
    unsafe {
        let relation = trigger.tg_relation;
        let (root, tracked) = authority_of(trigger);
        let root_table = Table::at(root);
        let name = format!("{}.{}", root_table.schema, root_table.name);
        let options = match tracked {
            Some(tracked) if tracked.standing == Standing::Here => tracked.options,
            other => {
                validity.depend_on(&[root]);
                warn_of_silence(trigger, &root_table, other.map(|tracked| tracked.standing));
                return Plan::silent(id, validity, name);
            }
        };
        // Names, order of columns and identity are the root's, whatever order a partition was made with.
        let (attributes, identity) = if root == (*relation).rd_id {
            (live_attributes(relation), identity_attributes(relation))
        } else {
            validity.depend_on(&[root]);
            as_the_root_has_them(relation, root)
        };
        let columns = Columns::of(relation, &attributes, &options, &validity);
        let keys = Keys::of(&columns, &identity, &options);
        if !is_dropping() {
            refuse_missing(&root_table, &options, &names_of(relation));
        }
        let is_filtered = !options.filter.is_empty() && !is_dropping();
        Plan {
            id,
            name,
            blob: relation_entry(&root_table, &options, &columns, &keys),
            key_columns: keys.columns(),
            columns: columns.encoded,
            attributes: (*(*relation).rd_att).natts as usize,
            silent: false,
            identity_number: 0,
            local_only: options.local_only,
            skip_unchanged: options.skip_unchanged,
            filter: is_filtered.then(|| {
                names::coded(&root_table, || {
                    row_filter::prepare(relation, &options.filter)
                })
            }),
            computed: columns.computed,
            validity,
        }
    }
}

/// The table's entry in messages.
fn relation_entry(table: &Table, options: &Options, columns: &Columns, keys: &Keys) -> Vec<u8> {
    let entry = RelationEntry {
        oid: table.oid.to_u32(),
        schema: &table.schema,
        table: &table.name,
        topic: &options.topic,
        topics: Operation::ALL.map(|operation| options.topics.get(&operation).map(String::as_str)),
        columns: columns.named.iter().map(NamedColumn::entry).collect(),
        key: keys.key.clone(),
        identity: keys.other_identity.clone(),
        tombstones: keys.tombstones,
    };
    let mut blob = Vec::new();
    entry.put(&mut blob);
    blob
}

/// Names of the columns that an open relation has.
unsafe fn names_of(relation: pg_sys::Relation) -> Vec<String> {
    // SAFETY: the relation is open.
    unsafe {
        let live = live_attributes(relation).into_iter();
        live.map(|attribute| name_of(tuple_attribute((*relation).rd_att, attribute)))
            .collect()
    }
}

/// The table whose row trigger says what the running trigger captures, and that trigger, judged; none if the running one
/// is not ours. A partition's clone counts for nothing but the table that it belongs to.
unsafe fn authority_of(trigger: &pg_sys::TriggerData) -> (pg_sys::Oid, Option<Tracked>) {
    // SAFETY: relation and trigger of a running trigger are open; the root is opened while it is read.
    unsafe {
        let relation = &*trigger.tg_relation;
        let root = root_of(relation.rd_id);
        if !Own::Row.is(&*trigger.tg_trigger) {
            return (root, None);
        }
        if root == relation.rd_id {
            return (root, Tracked::of(relation));
        }
        let tracked = read_root(root, |root| Tracked::of(&*root));
        (root, tracked.filter(|_| (*trigger.tg_trigger).tgisclone))
    }
}

/// Says why nothing is captured: for a copy, or for a trigger that is not ours.
unsafe fn warn_of_silence(
    trigger: &pg_sys::TriggerData,
    table: &Table,
    standing: Option<Standing>,
) {
    match standing {
        Some(Standing::Copy) => copied_table(table).warn(),
        _ => {
            // SAFETY: names of triggers are zero-ended.
            let name = unsafe { CStr::from_ptr((*trigger.tg_trigger).tgname) };
            unsealed_table(table, &utf8(name.to_bytes())).warn();
        }
    }
}

/// CDC0118: an option names a column that is not there. Without it a value could leave in clear, or a record without its
/// key: rows are refused until somebody says what shall hold.
fn refuse_missing(table: &Table, options: &Options, columns: &[String]) {
    let masked: Vec<String> = options.mask.keys().cloned().collect();
    for (option, names) in [
        ("key", &options.key),
        ("include", &options.include),
        ("exclude", &options.exclude),
        ("mask", &masked),
    ] {
        if let Some(missing) = names.iter().find(|name| !columns.contains(name)) {
            Trouble::new(
                Code::OptionColumnMissing,
                format!("option {option} of tracked table \"{}\" names column \"{missing}\", which is not there", table.name),
                format!("Call cdc_track({}, {option} => …) with the columns of today.", table.argument()),
            )
            .raise();
        }
    }
}
