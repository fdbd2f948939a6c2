//! What a relation is according to the catalogs, now or as it was before the commands of the running transaction that
//! nobody has told about yet. Nothing is locked and no relation is opened: what is not ours is only looked at.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::own_trigger::Own;
use crate::catalog::name_of;
use crate::text::utf8;

/// `pg_inherits_relid_seqno_index` (catalog/pg_inherits.h).
const INHERITS_RELID_SEQNO_INDEX: u32 = 2680;
/// `pg_inherits_parent_index` (catalog/pg_inherits.h).
const INHERITS_PARENT_INDEX: u32 = 2187;

/// The fixed part of a row of pg_inherits, as far as it is read.
#[repr(C)]
struct Inherits {
    child: pg_sys::Oid,
    parent: pg_sys::Oid,
    _number: i32,
    is_being_detached: bool,
}

/// A live column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub number: i16,
    pub name: String,
    pub type_id: pg_sys::Oid,
    pub type_modifier: i32,
    pub not_null: bool,
    pub generated: bool,
    /// Rows that were there before the column have a value in it.
    pub fills_itself: bool,
}

/// A relation as the catalogs have it.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub name: String,
    pub schema: pg_sys::Oid,
    pub row_type: pg_sys::Oid,
    pub kind: u8,
    pub persistence: u8,
    pub is_partition: bool,
    pub file: pg_sys::Oid,
    pub columns: Vec<Column>,
    /// Columns of the primary key, else of the replica identity index.
    pub identity: Vec<i16>,
    /// Our triggers, whatever they are worth, and when they fire.
    pub triggers: Vec<(Own, u8)>,
}

/// Which state of the catalogs is read; null is as PostgreSQL itself reads them now.
pub(crate) struct Catalogs {
    snapshot: pg_sys::Snapshot,
}

impl Catalogs {
    /// Runs `body` with the catalogs as they were at `command` of the running transaction, and as they are. What other
    /// transactions did is in both or in none.
    pub(crate) fn before_and_now<R>(
        command: pg_sys::CommandId,
        body: impl FnOnce(&Catalogs, &Catalogs) -> R,
    ) -> R {
        // SAFETY: inside a transaction; the copies are ours alone until they are popped. After an ERROR the transaction's
        // end pops them.
        unsafe {
            let latest = pg_sys::GetLatestSnapshot();
            let copy = |command| {
                pg_sys::PushCopiedSnapshot(latest);
                let snapshot = pg_sys::GetActiveSnapshot();
                (*snapshot).curcid = command;
                Catalogs { snapshot }
            };
            let before = copy(command);
            let now = copy(pg_sys::GetCurrentCommandId(false));
            let result = body(&before, &now);
            pg_sys::PopActiveSnapshot();
            pg_sys::PopActiveSnapshot();
            result
        }
    }

    /// Runs `body` with the catalogs as they are.
    pub(crate) fn today<R>(body: impl FnOnce(&Catalogs) -> R) -> R {
        let snapshot = std::ptr::null_mut();
        body(&Catalogs { snapshot })
    }

    /// Reads every row of a catalog that has `oid` in the first column of the index.
    unsafe fn rows<T>(
        &self,
        catalog: pg_sys::Oid,
        index: u32,
        column: u32,
        oid: pg_sys::Oid,
        mut read: impl FnMut(&T),
    ) {
        // SAFETY: the caller names the struct of the catalog's rows; a row is read while the scan stands on it.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let relation = pg_sys::table_open(catalog, lock);
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                column as pg_sys::AttrNumber,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::Oid::from(pg_sys::F_OIDEQ),
                pg_sys::Datum::from(oid),
            );
            let index = pg_sys::Oid::from(index);
            let scan =
                pg_sys::systable_beginscan(relation, index, true, self.snapshot, 1, &mut key);
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let header = (*tuple).t_data;
                let data = header.cast::<u8>().add((*header).t_hoff as usize);
                read(&*data.cast::<T>());
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, lock);
        }
    }

    /// What a table or row type is; none where there is no such relation, or one of another kind. The columns of a table that
    /// is not tracked are of no interest, unless `whole`.
    pub(crate) fn definition(&self, oid: pg_sys::Oid, whole: bool) -> Option<Definition> {
        let mut found = None;
        let mut identity_kind = 0;
        // SAFETY: pg_class has this struct.
        unsafe {
            self.rows(
                pg_sys::RelationRelationId,
                pg_sys::ClassOidIndexId,
                pg_sys::Anum_pg_class_oid,
                oid,
                |class: &pg_sys::FormData_pg_class| {
                    identity_kind = class.relreplident as u8;
                    found = Some(Definition {
                        name: utf8(CStr::from_ptr(class.relname.data.as_ptr()).to_bytes()),
                        schema: class.relnamespace,
                        row_type: class.reltype,
                        kind: class.relkind as u8,
                        persistence: class.relpersistence as u8,
                        is_partition: class.relispartition,
                        file: class.relfilenode,
                        columns: Vec::new(),
                        identity: Vec::new(),
                        triggers: Vec::new(),
                    });
                },
            );
        }
        let mut found = found.filter(|found| matches!(found.kind, b'r' | b'p' | b'f' | b'c'))?;
        found.triggers = self.triggers(oid);
        if whole || found.is_of_interest() {
            found.columns = self.columns(oid);
            found.identity = self.identity(oid, identity_kind == b'i');
        }
        Some(found)
    }

    fn columns(&self, oid: pg_sys::Oid) -> Vec<Column> {
        let mut columns = Vec::new();
        // SAFETY: pg_attribute has this struct.
        unsafe {
            self.rows(
                pg_sys::AttributeRelationId,
                pg_sys::AttributeRelidNumIndexId,
                pg_sys::Anum_pg_attribute_attrelid,
                oid,
                |form: &pg_sys::FormData_pg_attribute| {
                    if form.attnum > 0 && !form.attisdropped {
                        columns.push(Column {
                            number: form.attnum,
                            name: name_of(form),
                            type_id: form.atttypid,
                            type_modifier: form.atttypmod,
                            not_null: form.attnotnull,
                            generated: form.attgenerated != 0,
                            fills_itself: form.atthasdef
                                || form.atthasmissing
                                || form.attidentity != 0,
                        });
                    }
                },
            );
        }
        columns
    }

    /// As the relation cache finds it (RelationGetIndexList): a deferrable or unfinished index is none.
    fn identity(&self, oid: pg_sys::Oid, by_index: bool) -> Vec<i16> {
        let (mut primary, mut chosen) = (None, None);
        // SAFETY: pg_index has this struct, whose last member is as long as it says.
        unsafe {
            self.rows(
                pg_sys::IndexRelationId,
                pg_sys::IndexIndrelidIndexId,
                pg_sys::Anum_pg_index_indrelid,
                oid,
                |index: &pg_sys::FormData_pg_index| {
                    if !index.indislive || !index.indisvalid || !index.indimmediate {
                        return;
                    }
                    let numbers = || {
                        index
                            .indkey
                            .values
                            .as_slice(index.indnkeyatts as usize)
                            .to_vec()
                    };
                    if index.indisprimary {
                        primary = Some(numbers());
                    } else if by_index && index.indisreplident {
                        chosen = Some(numbers());
                    }
                },
            );
        }
        primary.or(chosen).unwrap_or_default()
    }

    /// Our triggers of a relation, whatever they are worth, and when they fire.
    pub(crate) fn triggers(&self, oid: pg_sys::Oid) -> Vec<(Own, u8)> {
        let mut triggers = Vec::new();
        self.each_trigger(oid, |own, trigger| {
            triggers.push((own, trigger.tgenabled as u8))
        });
        triggers
    }

    /// Whether a table has a row trigger of ours that is no clone.
    pub(crate) fn is_tracked_itself(&self, oid: pg_sys::Oid) -> bool {
        let mut found = false;
        self.each_trigger(oid, |own, trigger| {
            found |= own == Own::Row && trigger.tgparentid == pg_sys::InvalidOid;
        });
        found
    }

    fn each_trigger(
        &self,
        oid: pg_sys::Oid,
        mut read: impl FnMut(Own, &pg_sys::FormData_pg_trigger),
    ) {
        // SAFETY: pg_trigger has this struct.
        unsafe {
            self.rows(
                pg_sys::TriggerRelationId,
                pg_sys::TriggerRelidNameIndexId,
                pg_sys::Anum_pg_trigger_tgrelid,
                oid,
                |trigger: &pg_sys::FormData_pg_trigger| {
                    let name = CStr::from_ptr(trigger.tgname.data.as_ptr()).to_bytes();
                    let mut all = Own::ALL.into_iter();
                    if let Some(own) = all.find(|own| own.calls(name, trigger.tgfoid)) {
                        read(own, trigger);
                    }
                },
            );
        }
    }

    /// Every table that a partition is a part of, the root last; none for a table that is no partition. One that is being
    /// detached (CONCURRENTLY) is a part until that is done.
    pub(crate) fn ancestors(&self, partition: pg_sys::Oid) -> Vec<pg_sys::Oid> {
        let mut above = Vec::new();
        let mut next = partition;
        // SAFETY: a catalog look-up inside the running transaction.
        while unsafe { pg_sys::get_rel_relispartition(next) } {
            let Some(parent) = self.parent(next) else {
                break;
            };
            above.push(parent);
            next = parent;
        }
        above
    }

    /// Everything below a partitioned table, in the order in which PostgreSQL locks it; none below an ordinary one.
    pub(crate) fn parts_below(&self, table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
        let mut found = vec![table];
        let mut looked_at = 0;
        while let Some(parent) = found.get(looked_at).copied() {
            looked_at += 1;
            // SAFETY: a catalog look-up inside the running transaction.
            if unsafe { pg_sys::get_rel_relkind(parent) } as u8 == b'p' {
                found.extend(self.parts(parent));
            }
        }
        found.remove(0);
        found
    }

    /// Whether DETACH CONCURRENTLY of a partition has begun and not ended.
    pub(crate) fn is_being_detached(&self, partition: pg_sys::Oid) -> bool {
        let mut found = false;
        self.above(partition, |row| found = row.is_being_detached);
        found
    }

    /// The partitions of a partitioned table, in the order of their oids.
    fn parts(&self, table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
        let mut parts = Vec::new();
        // SAFETY: rows of pg_inherits begin with this struct.
        unsafe {
            self.rows(
                pg_sys::Oid::from(INHERITS_RELATION),
                INHERITS_PARENT_INDEX,
                2,
                table,
                |row: &Inherits| parts.push(row.child),
            );
        }
        parts.sort_unstable_by_key(|oid| oid.to_u32());
        parts
    }

    /// The table that a partition belongs to.
    pub(crate) fn parent(&self, partition: pg_sys::Oid) -> Option<pg_sys::Oid> {
        let mut parent = None;
        self.above(partition, |row| parent = Some(row.parent));
        parent
    }

    /// Reads what ties a partition to the table above it.
    fn above(&self, partition: pg_sys::Oid, read: impl FnMut(&Inherits)) {
        // SAFETY: rows of pg_inherits begin with this struct.
        unsafe {
            self.rows(
                pg_sys::Oid::from(INHERITS_RELATION),
                INHERITS_RELID_SEQNO_INDEX,
                1,
                partition,
                read,
            );
        }
    }
}

/// `pg_inherits` (catalog/pg_inherits.h).
const INHERITS_RELATION: u32 = 2611;

impl Definition {
    /// Whether a change of its columns has to be told of.
    pub(crate) fn is_of_interest(&self) -> bool {
        self.kind == b'c' || self.has_row_trigger()
    }

    pub(crate) fn has_row_trigger(&self) -> bool {
        self.triggers.iter().any(|(own, _)| *own == Own::Row)
    }

    fn column(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// Columns that have another name now: old and new name.
    pub(crate) fn renamed(&self, now: &Definition) -> Vec<(i16, String, String)> {
        self.columns
            .iter()
            .filter_map(|old| {
                let new = now.column(old.number)?;
                (new.name != old.name).then(|| (old.number, old.name.clone(), new.name.clone()))
            })
            .collect()
    }

    /// Columns that are gone.
    pub(crate) fn dropped(&self, now: &Definition) -> Vec<(i16, String)> {
        self.columns
            .iter()
            .filter(|old| now.column(old.number).is_none())
            .map(|old| (old.number, old.name.clone()))
            .collect()
    }

    /// Columns that are new.
    pub(crate) fn added<'n>(&self, now: &'n Definition) -> impl Iterator<Item = &'n Column> {
        let known: Vec<i16> = self.columns.iter().map(|column| column.number).collect();
        now.columns
            .iter()
            .filter(move |column| !known.contains(&column.number))
    }

    /// Columns whose type is another one: the old and the new column.
    pub(crate) fn retyped<'n>(
        &'n self,
        now: &'n Definition,
    ) -> impl Iterator<Item = (&'n Column, &'n Column)> {
        self.columns
            .iter()
            .filter_map(|old| Some((old, now.column(old.number)?)))
            .filter(|(old, new)| {
                (old.type_id, old.type_modifier) != (new.type_id, new.type_modifier)
            })
    }

    /// Whether an event about the definition would say something else now, the table's name left aside.
    pub(crate) fn differs(&self, now: &Definition) -> bool {
        let shape = |definition: &Definition| -> Vec<Column> {
            let columns = definition.columns.iter().cloned();
            columns
                .map(|column| Column {
                    fills_itself: false,
                    ..column
                })
                .collect()
        };
        self.identity != now.identity || shape(self) != shape(now)
    }
}
