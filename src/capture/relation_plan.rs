//! The plan of a tracked table: everything about it that capture needs for a row, made once and kept until the
//! relation cache says that the table changed.
//!
//! The trigger's arguments are the configuration (`change::options`), if they are sealed (`super::seal`): looked at once for
//! each plan.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use change::code::Code;
use change::options::{Mask, Operation, Options};
use change::trouble::Trouble;
use change::wal::relation::{Column, Masked, Relation as RelationEntry};
use pgrx::pg_sys;

use super::datum::{Describing, Encode, encoding_of, masked_encoding_of};
use super::row_expression::RowExpression;
use super::{filter_names, row_filter};
use crate::capture::dropping::is_dropping;
use crate::catalog::key_attributes;
use crate::catalog::name_of;
use crate::catalog::tuple_attribute;
use crate::catalog::with_identity_index;
use crate::report::Raise;
use crate::shared;
use crate::text::utf8;
use crate::tracked::own_trigger::{Own, Standing, Tracked};
use crate::tracked::partitions::root_of;
use crate::tracked::table::Table;
use crate::tracked::untrusted::{copied_table, unsealed_table};

/// A live column.
pub(crate) struct PlanColumn {
    /// Index into the tuple's attributes.
    pub attribute: usize,
    pub encode: Encode,
}

/// A table as capture sees it.
pub(crate) struct Plan {
    /// Differs for every plan that this backend ever made.
    pub id: u64,
    /// `schema.table`, for messages.
    pub name: String,
    /// The relation's entry for chunks, with its length.
    pub blob: Vec<u8>,
    pub columns: Vec<PlanColumn>,
    /// Columns whose change is a change of the Kafka key or the identity (indexes into `columns`).
    pub key_columns: Vec<usize>,
    /// Attributes of a tuple, dropped ones included.
    pub attributes: usize,
    /// Rows of this table are not captured: it is a copy, or the trigger is not ours, and a warning said so.
    pub silent: bool,
    /// The server's identity when `silent` was decided (`shared::identity_number`).
    identity_number: u32,
    /// What a subscription applies is not captured.
    pub local_only: bool,
    /// An UPDATE that changes nothing of what is shipped makes no event.
    pub skip_unchanged: bool,
    filter: Option<RowExpression>,
    /// Attributes that a tuple does not hold: virtual generated columns (18), and what computes them.
    pub computed: Vec<(usize, RowExpression)>,
    valid: Rc<Cell<bool>>,
}

impl Plan {
    /// Whether the table's filter lets a row pass.
    ///
    /// # Safety
    /// The tuple is a row of the plan's relation.
    #[inline]
    pub(crate) unsafe fn passes(&self, tuple: pg_sys::HeapTuple) -> bool {
        match &self.filter {
            None => true,
            // SAFETY: as the caller promises.
            Some(filter) => unsafe { filter.holds(tuple) },
        }
    }
}

/// The plans of this backend.
#[derive(Default)]
pub(crate) struct Plans {
    /// By trigger: a table may have several that call our function.
    plans: HashMap<pg_sys::Oid, Box<Plan>, BuildHasherDefault<OidHasher>>,
    /// Of topics into which applications emit events.
    topics: HashMap<String, Box<Plan>>,
    next_id: u64,
}

/// Hashes an oid by one multiplication: this is looked up for every row, and oids are nobody's to choose.
#[derive(Default)]
struct OidHasher(u64);

impl Hasher for OidHasher {
    fn write_u32(&mut self, oid: u32) {
        self.0 = u64::from(oid).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

thread_local! {
    /// Whether the plans of a table are still right, by the table. Apart from the plans, so that an invalidation can
    /// arrive while they are in use (it does, in the middle of catalog access).
    static VALIDITY: RefCell<HashMap<pg_sys::Oid, Vec<Rc<Cell<bool>>>>> = RefCell::new(HashMap::new());
    /// Relations other than its own, and a plan that is made of them; invalid for whatever relation.
    static DEPENDENTS: RefCell<Vec<(pg_sys::Oid, Rc<Cell<bool>>)>> = const { RefCell::new(Vec::new()) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

impl Plans {
    /// The plan for the trigger that runs, and so for its relation.
    ///
    /// # Safety
    /// `trigger` is the data that PostgreSQL passed to a running trigger function.
    #[inline]
    pub(crate) unsafe fn plan(&mut self, trigger: &pg_sys::TriggerData) -> &Plan {
        // SAFETY: the relation of a running trigger is open.
        let oid = unsafe { (*trigger.tg_trigger).tgoid };
        let identity_number = shared::identity_number();
        if !self
            .plans
            .get(&oid)
            .is_some_and(|plan| plan.valid.get() && plan.identity_number == identity_number)
        {
            // SAFETY: as the caller promises.
            unsafe { self.build(oid, trigger) };
        }
        &self.plans[&oid]
    }

    /// The plan for events of the application's own; `check` may refuse a topic that is new here.
    pub(crate) fn of_topic(&mut self, topic: &str, check: impl FnOnce()) -> &Plan {
        if !self.topics.get(topic).is_some_and(|plan| plan.valid.get()) {
            listen();
            check();
            self.next_id += 1;
            let mut blob = Vec::new();
            let entry = RelationEntry {
                oid: 0,
                schema_hash: 0,
                schema: "",
                table: "",
                topic,
                topics: [None; 4],
                columns: Vec::new(),
                key: Vec::new(),
                identity: None,
                tombstones: false,
            };
            entry.put(&mut blob);
            // A table that is tracked later may take the topic: then it is looked at again.
            let valid = Rc::new(Cell::new(true));
            also_depends_on(&valid, &[pg_sys::InvalidOid]);
            let plan = Plan {
                id: self.next_id,
                name: String::new(),
                blob,
                columns: Vec::new(),
                key_columns: Vec::new(),
                attributes: 0,
                silent: false,
                identity_number: 0,
                local_only: false,
                skip_unchanged: false,
                filter: None,
                computed: Vec::new(),
                valid,
            };
            self.topics.insert(topic.to_owned(), Box::new(plan));
        }
        &self.topics[topic]
    }

    /// The plan that was last made for a trigger, whether it is still right or not.
    pub(crate) fn known(&self, trigger: pg_sys::Oid) -> Option<&Plan> {
        self.plans.get(&trigger).map(Box::as_ref)
    }

    #[cold]
    unsafe fn build(&mut self, oid: pg_sys::Oid, trigger: &pg_sys::TriggerData) {
        listen();
        let valid = Rc::new(Cell::new(true));
        // SAFETY: the relation of a running trigger is open.
        let relation = unsafe { (*trigger.tg_relation).rd_id };
        // Registered before the catalog is read: a change in between makes this plan invalid at once.
        VALIDITY.with_borrow_mut(|validity| {
            let plans = validity.entry(relation).or_default();
            plans.retain(|valid| valid.get());
            plans.push(Rc::clone(&valid));
        });
        self.next_id += 1;
        // Read before what depends on it: should it change in between, the plan is made anew.
        let identity_number = shared::identity_number();
        // SAFETY: as the caller promises.
        let plan = unsafe { build_plan(self.next_id, Rc::clone(&valid), trigger) };
        let plan = Plan {
            identity_number,
            ..plan
        };
        if is_dropping() {
            // Of what is left of the table, for the event that says so, and for nothing else.
            valid.set(false);
        }
        self.plans.insert(oid, Box::new(plan));
    }
}

/// Makes a plan depend on further relations: the composite types of its columns, the root of a partition. Changes of
/// those invalidate them alone.
fn also_depends_on(valid: &Rc<Cell<bool>>, relations: &[pg_sys::Oid]) {
    DEPENDENTS.with_borrow_mut(|plans| {
        plans.retain(|(_, valid)| valid.get());
        plans.extend(relations.iter().map(|oid| (*oid, Rc::clone(valid))));
    });
}

/// Registers for invalidations, once per backend (PostgreSQL cannot unregister).
fn listen() {
    if !LISTENING.replace(true) {
        // SAFETY: both callbacks live as long as the library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
            // Names of schemas and labels of enums are part of the plan, and renaming them does not touch the tables.
            for cache in [
                pg_sys::SysCacheIdentifier::NAMESPACEOID,
                pg_sys::SysCacheIdentifier::ENUMOID,
            ] {
                pg_sys::CacheRegisterSyscacheCallback(
                    cache as i32,
                    Some(name_changed),
                    pg_sys::Datum::from(0),
                );
            }
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
    VALIDITY.with_borrow(|validity| {
        if relid == pg_sys::InvalidOid {
            invalidate_all(validity);
        } else if let Some(plans) = validity.get(&relid) {
            plans.iter().for_each(|valid| valid.set(false));
        }
    });
    DEPENDENTS.with_borrow(|plans| {
        let dependent = plans
            .iter()
            .filter(|(oid, _)| *oid == relid || *oid == pg_sys::InvalidOid);
        dependent.for_each(|(_, valid)| valid.set(false));
    });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn name_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    VALIDITY.with_borrow(invalidate_all);
}

fn invalidate_all(validity: &HashMap<pg_sys::Oid, Vec<Rc<Cell<bool>>>>) {
    validity
        .values()
        .flatten()
        .for_each(|valid| valid.set(false));
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

/// The plan of a trigger that captures nothing.
fn silent_plan(id: u64, valid: Rc<Cell<bool>>, name: String) -> Plan {
    Plan {
        id,
        name,
        blob: Vec::new(),
        columns: Vec::new(),
        key_columns: Vec::new(),
        attributes: 0,
        silent: true,
        identity_number: 0,
        local_only: false,
        skip_unchanged: false,
        filter: None,
        computed: Vec::new(),
        valid,
    }
}

unsafe fn build_plan(id: u64, valid: Rc<Cell<bool>>, trigger: &pg_sys::TriggerData) -> Plan {
    // SAFETY: relation, descriptor and trigger belong to the running trigger and stay open.
    unsafe {
        let relation = trigger.tg_relation;
        let descriptor = (*relation).rd_att;
        let (root, tracked) = authority_of(trigger);
        let root_table = Table::at(root);
        let (schema, table) = (&root_table.schema, &root_table.name);
        let options = match tracked {
            Some(tracked) if tracked.standing == Standing::Here => tracked.options,
            other => {
                also_depends_on(&valid, &[root]);
                warn_of_silence(trigger, &root_table, other.map(|tracked| tracked.standing));
                return silent_plan(id, valid, format!("{schema}.{table}"));
            }
        };
        // Names, order of columns and identity are the root's, whatever order a partition was made with.
        let (attributes_in_order, identity) = if root == (*relation).rd_id {
            (live_attributes(relation), identity_attributes(relation))
        } else {
            also_depends_on(&valid, &[root]);
            as_the_root_has_them(relation, root)
        };
        let mut columns = Vec::new();
        let mut names = Vec::new();
        let mut computed = Vec::new();
        let mut describing = Describing::default();
        let mut hash = blake3::Hasher::new();
        for attribute in attributes_in_order {
            let form = tuple_attribute(descriptor, attribute);
            let name = name_of(form);
            if !options.ships(&name) {
                continue;
            }
            let mask = options.mask.get(&name).copied();
            let (kind, encode) = match mask {
                None => {
                    let found = encoding_of(form.atttypid, form.atttypmod, &mut describing);
                    let row_types = std::mem::take(&mut describing.row_types);
                    if !row_types.is_empty() {
                        also_depends_on(&valid, &row_types);
                    }
                    found
                }
                Some(mask) => masked_encoding_of(form.atttypid, mask),
            };
            let masked = mask.map(|mask| match mask {
                Mask::Hash => Masked::Hashed,
                Mask::Redact => Masked::Redacted,
                Mask::Truncate(_) => Masked::Truncated,
            });
            let mut described = Vec::new();
            kind.put(&mut described);
            hash.update(&(name.len() as u32).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(&form.atttypid.to_u32().to_le_bytes());
            hash.update(&form.atttypmod.to_le_bytes());
            hash.update(&described);
            if is_virtual(form) {
                computed.push((attribute, generated(relation, attribute)));
            }
            names.push((name, kind, masked));
            columns.push(PlanColumn { attribute, encode });
        }
        let digest = hash.finalize();
        let mut schema_hash = [0; 4];
        schema_hash.copy_from_slice(&digest.as_bytes()[..4]);

        let column_of = |attribute: usize| {
            columns
                .iter()
                .position(|column: &PlanColumn| column.attribute == attribute)
        };
        // In part, or masked so that two rows may look alike, it identifies nothing.
        let identity_columns: Vec<usize> = identity
            .iter()
            .map(|attribute| {
                column_of(*attribute)
                    .filter(|column| matches!(names[*column].2, None | Some(Masked::Hashed)))
            })
            .collect::<Option<_>>()
            .unwrap_or_default();
        let key: Vec<usize> = if options.key.is_empty() {
            identity_columns.clone()
        } else {
            options
                .key
                .iter()
                .filter_map(|wanted| names.iter().position(|(name, ..)| name == wanted))
                .collect()
        };
        let same: bool = key.len() == identity_columns.len()
            && key.iter().all(|column| identity_columns.contains(column));
        let other_identity =
            (!same && !identity_columns.is_empty()).then_some(identity_columns.as_slice());
        let mut key_columns = key.clone();
        key_columns.extend(
            other_identity
                .unwrap_or_default()
                .iter()
                .filter(|column| !key.contains(column)),
        );

        let mut blob = Vec::new();
        let entry = RelationEntry {
            oid: root.to_u32(),
            schema_hash: u32::from_be_bytes(schema_hash),
            schema,
            table,
            topic: &options.topic,
            topics: Operation::ALL
                .map(|operation| options.topics.get(&operation).map(String::as_str)),
            columns: names
                .iter()
                .map(|(name, kind, masked)| Column {
                    name,
                    kind: kind.clone(),
                    masked: *masked,
                })
                .collect(),
            key: key.clone(),
            identity: other_identity.map(<[usize]>::to_vec),
            tombstones: same && !key.is_empty(),
        };
        entry.put(&mut blob);

        if !is_dropping() {
            let live = live_attributes(relation);
            let live = live
                .iter()
                .map(|attribute| tuple_attribute(descriptor, *attribute));
            refuse_missing(
                &root_table,
                &options,
                &live.map(name_of).collect::<Vec<_>>(),
            );
        }
        Plan {
            id,
            name: format!("{schema}.{table}"),
            blob,
            columns,
            key_columns,
            attributes: (*descriptor).natts as usize,
            silent: false,
            identity_number: 0,
            local_only: options.local_only,
            skip_unchanged: options.skip_unchanged,
            filter: (!options.filter.is_empty() && !is_dropping()).then(|| {
                filter_names::coded(&root_table, || {
                    row_filter::prepare(relation, &options.filter)
                })
            }),
            computed,
            valid,
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
            Trouble::new(Code::OptionColumnMissing,
                format!("option {option} of tracked table \"{}\" names column \"{missing}\", which is not there", table.name),
                format!("Call cdc_track({}, {option} => …) with the columns of today.", table.argument()),
            )
            .raise();
        }
    }
}

/// What computes a generated column.
unsafe fn generated(relation: pg_sys::Relation, attribute: usize) -> RowExpression {
    // SAFETY: the relation is open and locked by the statement whose trigger runs; the column is a generated one. Its
    // expression calls built-in immutable functions only (check_virtual_generated_security in catalog/heap.c).
    unsafe {
        RowExpression::new(relation, || {
            #[cfg(feature = "pg18")]
            return pg_sys::build_generation_expression(relation, attribute as i32 + 1);
            #[cfg(not(feature = "pg18"))]
            return pg_sys::build_column_default(relation, attribute as i32 + 1);
        })
    }
}

/// Virtual generated columns (18) are computed when read: the tuple holds nothing of them.
fn is_virtual(form: &pg_sys::FormData_pg_attribute) -> bool {
    form.attgenerated == b'v' as std::ffi::c_char
}

/// Indexes of the attributes that a tuple of the relation has.
unsafe fn live_attributes(relation: pg_sys::Relation) -> Vec<usize> {
    // SAFETY: the relation is open.
    unsafe {
        let descriptor = (*relation).rd_att;
        (0..(*descriptor).natts as usize)
            .filter(|attribute| {
                let form = tuple_attribute(descriptor, *attribute);
                !form.attisdropped
            })
            .collect()
    }
}

/// Live attributes and identity of a partition, in the order of its root: indexes into the partition's attributes.
unsafe fn as_the_root_has_them(
    partition: pg_sys::Relation,
    root: pg_sys::Oid,
) -> (Vec<usize>, Vec<usize>) {
    // SAFETY: the partition is open; the root is opened while it is read, and closed by the transaction after an ERROR.
    unsafe {
        let own: Vec<(usize, String)> = live_attributes(partition)
            .into_iter()
            .map(|attribute| {
                (
                    attribute,
                    name_of(tuple_attribute((*partition).rd_att, attribute)),
                )
            })
            .collect();
        read_root(root, |relation| {
            let own_attributes = |of_root: Vec<usize>| -> Vec<usize> {
                let names = of_root
                    .into_iter()
                    .map(|attribute| name_of(tuple_attribute((*relation).rd_att, attribute)));
                names
                    .filter_map(|name| own.iter().find(|(_, own)| *own == name))
                    .map(|(attribute, _)| *attribute)
                    .collect()
            };
            (
                own_attributes(live_attributes(relation)),
                own_attributes(identity_attributes(relation)),
            )
        })
    }
}

/// Reads something of the table that a locked partition belongs to. That one is not locked: who changes what is read here
/// locks the partitions as well, and would wait for this transaction while it waited for him.
unsafe fn read_root<R>(root: pg_sys::Oid, read: impl FnOnce(pg_sys::Relation) -> R) -> R {
    // SAFETY: inside a transaction, as the caller promises; after an ERROR its end lets go of the relation.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(root);
        if relation.is_null() {
            pgrx::error!("could not open relation with OID {}", root.to_u32());
        }
        let result = read(relation);
        pg_sys::RelationClose(relation);
        result
    }
}

/// Attribute indexes of the primary key, else of the replica identity index; empty for none.
unsafe fn identity_attributes(relation: pg_sys::Relation) -> Vec<usize> {
    // SAFETY: the relation is open.
    with_identity_index(unsafe { &*relation }, key_attributes).unwrap_or_default()
}
