//! What `cdc_track` and `cdc_untrack` need to know of a table: may it be tracked, by whom, under which key.

use std::ffi::CStr;

use change::code::Code;
use change::options::Options;
use change::trouble::Trouble;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::own_trigger::{Own, Standing, Tracked};
use super::rights::{as_user, is_admin};
use super::statement;
use crate::catalog::{
    key_attributes, name_of, qualified_name, tuple_attribute, with_identity_index,
};
use crate::ffi;
use crate::report::Raise;
use crate::text::utf8;

/// A table, locked until the transaction ends. It is open only while something of it is read: DDL refuses a table that
/// its own session has open.
pub(crate) struct Table {
    pub oid: pg_sys::Oid,
    pub schema: String,
    pub name: String,
}

/// A column as the catalog has it.
pub(crate) struct ColumnDefinition {
    pub name: String,
    pub type_name: String,
    pub type_expression: String,
    pub not_null: bool,
    pub generated: bool,
}

impl Table {
    /// Locks the table until the transaction ends; the caller must own it or be an administrator. Nobody else's call gets
    /// as far as to wait for the lock, and have others wait behind it.
    pub(crate) fn open(oid: pg_sys::Oid, mode: u32) -> Table {
        Table::at(oid).refuse_others();
        // SAFETY: in a transaction; a relation that is gone is PostgreSQL's own ERROR. The lock stays until its end.
        unsafe {
            let relation = pg_sys::relation_open(oid, mode as pg_sys::LOCKMODE);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        // The owner, and the name, may be others since.
        let table = Table::at(oid);
        table.refuse_others();
        table
    }

    /// Locks the table for something that hinders nobody.
    pub(crate) fn look(oid: pg_sys::Oid) -> Table {
        Table::open(oid, pg_sys::AccessShareLock)
    }

    /// Locks a table that a command of the caller's touches, for something that hinders nobody.
    pub(crate) fn look_at(oid: pg_sys::Oid) -> Table {
        // SAFETY: in a transaction; released with it.
        unsafe { pg_sys::LockRelationOid(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        Table::at(oid)
    }

    /// Looks at the table for a moment, and leaves no lock that a stronger one would have to be made of: two who both did
    /// that would wait for each other.
    pub(crate) fn glance<R>(oid: pg_sys::Oid, body: impl FnOnce(&Table) -> R) -> R {
        let table = Table::look(oid);
        let result = body(&table);
        // SAFETY: the lock that was taken above.
        unsafe { pg_sys::UnlockRelationOid(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        result
    }

    /// As [`Table::glance`], whoever asks; none if the table is gone.
    pub(crate) fn glance_at<R>(oid: pg_sys::Oid, body: impl FnOnce(&Table) -> R) -> Option<R> {
        let result = body(&Table::if_there(oid)?);
        // SAFETY: the lock that was taken above.
        unsafe { pg_sys::UnlockRelationOid(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        Some(result)
    }

    /// The table, locked so that it stays; none if it is gone.
    pub(crate) fn if_there(oid: pg_sys::Oid) -> Option<Table> {
        // SAFETY: in a transaction; the lock stays until its end.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let relation = pg_sys::try_relation_open(oid, lock);
            if relation.is_null() {
                return None;
            }
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        Some(Table::at(oid))
    }

    /// The table that a running command has locked.
    pub(crate) fn at(oid: pg_sys::Oid) -> Table {
        let (schema, name) = qualified_name(oid);
        Table { oid, schema, name }
    }

    /// Reads something of the open relation.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&pg_sys::RelationData) -> R) -> R {
        // SAFETY: the lock is held, so the relation is there; after an ERROR the transaction's own clean-up closes it.
        unsafe {
            let relation = pg_sys::relation_open(self.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            let result = read(&*relation);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            result
        }
    }

    /// CDC0101 and CDC0112: what cannot be tracked.
    pub(crate) fn refuse_unsupported(&self) {
        // SAFETY: the relation is open while it is read.
        let (kind, persistence, is_partition) = self.read(|relation| unsafe {
            (
                (*relation.rd_rel).relkind,
                (*relation.rd_rel).relpersistence,
                (*relation.rd_rel).relispartition,
            )
        });
        let refused = |code, detail: &str, hint: &str| {
            Trouble::new(
                code,
                format!("cannot track relation \"{}\"", self.name),
                hint,
            )
            .detail(detail)
            .raise()
        };
        let tables = "Track an ordinary, permanent table.";
        // What initdb made.
        if self.oid.to_u32() < pg_sys::FirstNormalObjectId
            || matches!(
                self.schema.as_str(),
                "pg_catalog" | "information_schema" | "pg_toast"
            )
        {
            refused(Code::NotTrackable, "It is a system table.", tables);
        }
        // SAFETY: catalog look-ups inside the running transaction.
        let is_ours = unsafe {
            let extension = pg_sys::get_extension_oid(c"pg_cdc".as_ptr(), true);
            extension != pg_sys::InvalidOid
                && pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, self.oid) == extension
        };
        if is_ours {
            refused(Code::NotTrackable, "It is pg_cdc's own.", tables);
        }
        match kind as u8 {
            b'r' | b'p' => {}
            b'v' => refused(
                Code::NotTrackable,
                "It is a view.",
                "Track the tables that it reads.",
            ),
            b'm' => refused(
                Code::NotTrackable,
                "It is a materialized view.",
                "Track the tables that it reads.",
            ),
            b'f' => refused(Code::NotTrackable, "It is a foreign table.", tables),
            b'S' => refused(Code::NotTrackable, "It is a sequence.", tables),
            _ => refused(Code::NotTrackable, "It is not a table.", tables),
        }
        match persistence as u8 {
            b't' => refused(Code::NotTrackable, "It is temporary.", tables),
            b'u' => refused(
                Code::NotTrackable,
                "It is unlogged: a crash empties it without a trace.",
                "ALTER TABLE … SET LOGGED first.",
            ),
            _ => {}
        }
        if is_partition && self.tracked().is_none() {
            self.refuse_partition("track", "Track");
        }
    }

    /// CDC0112
    fn refuse_partition(&self, what: &str, call: &str) -> ! {
        Trouble::new(
            Code::IsPartition,
            format!("cannot {what} relation \"{}\"", self.name),
            format!("{call} the partitioned table that it belongs to."),
        )
        .detail("It is a partition.")
        .raise()
    }

    /// CDC0112: a partition is tracked with its root, and not without it.
    pub(crate) fn refuse_clone(&self) {
        // SAFETY: the relation is open while it is read.
        let is_clone = self.read(|relation| unsafe {
            Own::Row
                .of(relation)
                .is_some_and(|trigger| (*trigger).tgisclone)
        });
        if is_clone {
            self.refuse_partition("untrack", "Untrack");
        }
    }

    /// Whether the caller has the rights of the table's owner.
    pub(crate) fn is_owned(oid: pg_sys::Oid) -> bool {
        // SAFETY: catalog look-ups inside the running transaction.
        unsafe {
            let user = pg_sys::GetUserId();
            #[cfg(feature = "pg15")]
            let owner = pg_sys::pg_class_ownercheck(oid, user);
            #[cfg(not(feature = "pg15"))]
            let owner = pg_sys::object_ownercheck(pg_sys::RelationRelationId, oid, user);
            owner
        }
    }

    /// CDC0102: the caller neither owns the table nor is a member of cdc_admin.
    fn refuse_others(&self) {
        if !Table::is_owned(self.oid) && !is_admin() {
            Trouble::new(
                Code::NotEntitled,
                format!("must be owner of table {}", self.name),
                "Ask the owner of the table, or let an administrator GRANT cdc_admin to you.",
            )
            .raise();
        }
    }

    /// The qualified, quoted name.
    pub(crate) fn sql_name(&self) -> String {
        pgrx::spi::quote_qualified_identifier(&self.schema, &self.name)
    }

    /// The table as the argument of a function, for hints that can be run as they stand.
    pub(crate) fn argument(&self) -> String {
        pgrx::spi::quote_literal(self.sql_name())
    }

    /// Live columns, in their order.
    pub(crate) fn columns(&self) -> Vec<ColumnDefinition> {
        // SAFETY: the relation is open while it is read; texts are copied out of the memory that the catalog gives. Names
        // of types are qualified the same way for everybody.
        self.read(|relation| unsafe {
            ffi::with_pinned_search_path(|| {
                let descriptor = relation.rd_att;
                (0..(*descriptor).natts as usize)
                    .map(|attribute| tuple_attribute(descriptor, attribute))
                    .filter(|form| !form.attisdropped)
                    .map(|form| {
                        let text = |pointer: *mut std::ffi::c_char| {
                            utf8(CStr::from_ptr(pointer).to_bytes())
                        };
                        let type_modified =
                            pg_sys::format_type_with_typemod(form.atttypid, form.atttypmod);
                        let type_plain = pg_sys::format_type_be(form.atttypid);
                        ColumnDefinition {
                            name: name_of(form),
                            type_name: text(type_plain),
                            type_expression: text(type_modified),
                            not_null: form.attnotnull,
                            generated: form.attgenerated != 0,
                        }
                    })
                    .collect()
            })
        })
    }

    /// Reads something of the index of the primary key, else of the replica identity; none if there is neither.
    pub(crate) fn with_identity_index<R>(
        &self,
        read: impl FnOnce(&pg_sys::RelationData, &pg_sys::RelationData) -> R,
    ) -> Option<R> {
        self.read(|relation| with_identity_index(relation, |index| read(relation, index)))
    }

    /// Columns of the primary key, else of the replica identity index. A deferrable one is none; where nothing else is
    /// the key (`must_serve`) it is refused with CDC0105.
    pub(crate) fn identity(&self, must_serve: bool) -> Vec<String> {
        // SAFETY: relation and index are open while they are read.
        let found = self.with_identity_index(|relation, index| unsafe {
            let form = &*index.rd_index;
            let columns: Vec<String> = key_attributes(index)
                .into_iter()
                .map(|attribute| name_of(tuple_attribute(relation.rd_att, attribute)))
                .collect();
            (columns, form.indimmediate)
        });
        match found {
            Some((columns, true)) => columns,
            _ if !must_serve => Vec::new(),
            Some((columns, false)) => self.refuse_deferrable(&columns),
            None => self.refuse_deferrable_primary_key(),
        }
    }

    /// PostgreSQL does not count a deferrable primary key as one; a table that has only that must not pass as keyless.
    fn refuse_deferrable_primary_key(&self) -> Vec<String> {
        let numbers = statement::pinned(|| {
            Spi::get_one_with_args::<Vec<i16>>(
                "SELECT conkey FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'p' AND condeferrable",
                &[self.oid.into()],
            )
        });
        let numbers = match numbers {
            Ok(numbers) => numbers,
            Err(pgrx::spi::Error::InvalidPosition) => None,
            Err(error) => pgrx::error!("pg_cdc could not read pg_constraint: {error}"),
        };
        if let Some(numbers) = numbers {
            // SAFETY: the relation is open while it is read; columns of a constraint are its columns.
            let columns: Vec<String> = self.read(|relation| unsafe {
                numbers
                    .iter()
                    .map(|number| name_of(tuple_attribute(relation.rd_att, *number as usize - 1)))
                    .collect()
            });
            self.refuse_deferrable(&columns);
        }
        Vec::new()
    }

    fn refuse_deferrable(&self, columns: &[String]) -> ! {
        Trouble::new(
            Code::KeyDeferrable,
            format!("key \"{}\" is deferrable", columns.join(", ")),
            "Make the key NOT DEFERRABLE, or choose other columns with key =>.",
        )
        .detail(format!("Table \"{}\": while a deferrable key is shifted two rows share it, and a consumer would lose one of them.", self.name))
        .raise()
    }

    /// Our row trigger of the table, whatever it is worth; none of a partition that has only a clone of its root's.
    pub(crate) fn tracked(&self) -> Option<Tracked> {
        self.read(Tracked::of)
    }

    /// The options of a table that `cdc_track` has tracked here. Of a copy, or of a trigger that somebody else made,
    /// nothing is captured, and nothing is said in its name.
    pub(crate) fn options(&self) -> Option<Options> {
        let tracked = self.tracked()?;
        (tracked.standing == Standing::Here).then_some(tracked.options)
    }

    /// Function and arguments of our TRUNCATE trigger, if the table has one.
    pub(crate) fn truncate_trigger_definition(&self) -> Option<(String, Vec<String>)> {
        let arguments = self.tracked()?.arguments;
        // SAFETY: the relation is open while it is read; texts are copied out of the memory that the catalog gives.
        self.read(|relation| unsafe {
            let trigger = &*Own::Truncate.of(relation)?;
            let name = |text: *mut std::ffi::c_char| {
                (!text.is_null())
                    .then(|| pgrx::spi::quote_identifier(utf8(CStr::from_ptr(text).to_bytes())))
            };
            let schema = name(pg_sys::get_namespace_name(pg_sys::get_func_namespace(
                trigger.tgfoid,
            )))?;
            let function = name(pg_sys::get_func_name(trigger.tgfoid))?;
            Some((format!("{schema}.{function}"), arguments))
        })
    }

    /// Runs `body` with the data that our row trigger would get, the table being open; none if it has no such trigger.
    pub(crate) fn with_trigger<R>(
        &self,
        body: impl FnOnce(&pg_sys::TriggerData) -> R,
    ) -> Option<R> {
        self.read(|relation| {
            let data = pg_sys::TriggerData {
                type_: pg_sys::NodeTag::T_TriggerData,
                tg_relation: std::ptr::from_ref(relation).cast_mut(),
                tg_trigger: Own::Row.of(relation)?,
                ..Default::default()
            };
            Some(body(&data))
        })
    }

    /// Runs `body` with the rights of the table's owner, as maintenance of PostgreSQL's own does: what the owner's types
    /// and operators call gets no more. An error restores the user with the transaction.
    pub(crate) fn as_owner<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: the relation is open while it is read.
        let owner = self.read(|relation| unsafe { (*relation.rd_rel).relowner });
        as_user(owner, pg_sys::SECURITY_RESTRICTED_OPERATION, body)
    }
}
