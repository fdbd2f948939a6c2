//! What `cdc_track` and `cdc_untrack` need to know of a table: may it be tracked, by whom, under which key.

use std::ffi::CStr;

use change::options::Options;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::statement;
use crate::capture::relation_plan::{name_of, qualified_name, tuple_attribute};
use crate::capture::utf8;
use crate::ffi;
use crate::report::Report;

pub const ROW_TRIGGER: &str = "_cdc";
pub const TRUNCATE_TRIGGER: &str = "_cdc_truncate";

/// A table, locked until the transaction ends. It is open only while something of it is read: DDL refuses a table that
/// its own session has open.
pub struct Table {
    pub oid: pg_sys::Oid,
    pub schema: String,
    pub name: String,
}

/// A column as the catalog has it.
pub struct ColumnDefinition {
    pub name: String,
    pub type_name: String,
    pub type_expression: String,
    pub not_null: bool,
    pub generated: bool,
    /// Rows that were there before the column have a value in it.
    pub fills_itself: bool,
}

impl Table {
    /// Opens and locks the table for a change of its triggers; the caller must own it or be an administrator.
    pub fn open(oid: pg_sys::Oid) -> Table {
        // SAFETY: in a transaction; a relation that is gone is PostgreSQL's own ERROR. The lock stays until its end.
        unsafe {
            let relation =
                pg_sys::relation_open(oid, pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        let table = Table::at(oid);
        table.refuse_others();
        table
    }

    /// Opens the table for something that hinders nobody; the caller must own it or be an administrator.
    pub fn look(oid: pg_sys::Oid) -> Table {
        // SAFETY: in a transaction; a relation that is gone is PostgreSQL's own ERROR. The lock stays until its end.
        unsafe {
            let relation = pg_sys::relation_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        let table = Table::at(oid);
        table.refuse_others();
        table
    }

    /// The table that a running command has locked.
    pub fn at(oid: pg_sys::Oid) -> Table {
        let (schema, name) = qualified_name(oid);
        Table { oid, schema, name }
    }

    /// Reads something of the open relation.
    pub fn read<R>(&self, read: impl FnOnce(&pg_sys::RelationData) -> R) -> R {
        // SAFETY: the lock is held, so the relation is there; after an ERROR the transaction's own clean-up closes it.
        unsafe {
            let relation = pg_sys::relation_open(self.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            let result = read(&*relation);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            result
        }
    }

    /// CDC0101 and CDC0112: what cannot be tracked.
    pub fn refuse_unsupported(&self) {
        // SAFETY: the relation is open while it is read.
        let (kind, persistence, is_partition) = self.read(|relation| unsafe {
            (
                (*relation.rd_rel).relkind,
                (*relation.rd_rel).relpersistence,
                (*relation.rd_rel).relispartition,
            )
        });
        let refused = |code, detail: &str, hint: &str| {
            Report::new(
                code,
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
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
            refused("CDC0101", "It is a system table.", tables);
        }
        match kind as u8 {
            b'r' | b'p' => {}
            b'v' => refused(
                "CDC0101",
                "It is a view.",
                "Track the tables that it reads.",
            ),
            b'm' => refused(
                "CDC0101",
                "It is a materialized view.",
                "Track the tables that it reads.",
            ),
            b'f' => refused("CDC0101", "It is a foreign table.", tables),
            b'S' => refused("CDC0101", "It is a sequence.", tables),
            _ => refused("CDC0101", "It is not a table.", tables),
        }
        match persistence as u8 {
            b't' => refused("CDC0101", "It is temporary.", tables),
            b'u' => refused(
                "CDC0101",
                "It is unlogged: a crash empties it without a trace.",
                "ALTER TABLE … SET LOGGED first.",
            ),
            _ => {}
        }
        if is_partition {
            refused(
                "CDC0112",
                "It is a partition.",
                "Track the partitioned table that it belongs to.",
            );
        }
    }

    /// CDC0102: the caller neither owns the table nor is a member of cdc_admin.
    fn refuse_others(&self) {
        // SAFETY: catalog look-ups inside the running transaction.
        let owner = unsafe {
            let user = pg_sys::GetUserId();
            #[cfg(feature = "pg15")]
            let owner = pg_sys::pg_class_ownercheck(self.oid, user);
            #[cfg(not(feature = "pg15"))]
            let owner = pg_sys::object_ownercheck(pg_sys::RelationRelationId, self.oid, user);
            owner
        };
        if !owner && !is_admin() {
            Report::new(
                "CDC0102",
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("must be owner of table {}", self.name),
                "Ask the owner of the table, or let an administrator GRANT cdc_admin to you.",
            )
            .raise();
        }
    }

    /// The qualified, quoted name.
    pub fn sql_name(&self) -> String {
        pgrx::spi::quote_qualified_identifier(&self.schema, &self.name)
    }

    /// Live columns, in their order.
    pub fn columns(&self) -> Vec<ColumnDefinition> {
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
                            fills_itself: form.atthasdef
                                || form.atthasmissing
                                || form.attidentity != 0,
                        }
                    })
                    .collect()
            })
        })
    }

    /// Columns of the primary key, else of the replica identity index. A deferrable one is none; where nothing else is
    /// the key (`must_serve`) it is refused with CDC0105.
    pub fn identity(&self, must_serve: bool) -> Vec<String> {
        // SAFETY: the relation is open while it is read; the index is closed again.
        let found = self.read(|relation| unsafe {
            pg_sys::list_free(pg_sys::RelationGetIndexList(
                std::ptr::from_ref(relation).cast_mut(),
            ));
            let index_oid = if relation.rd_pkindex != pg_sys::InvalidOid {
                relation.rd_pkindex
            } else {
                relation.rd_replidindex
            };
            if index_oid == pg_sys::InvalidOid {
                return None;
            }
            let index = pg_sys::index_open(index_oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let form = &*(*index).rd_index;
            let columns: Vec<String> = form
                .indkey
                .values
                .as_slice(form.indnkeyatts as usize)
                .iter()
                .filter(|number| **number > 0)
                .map(|number| name_of(tuple_attribute(relation.rd_att, *number as usize - 1)))
                .collect();
            let immediate = form.indimmediate;
            pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            Some((columns, immediate))
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
        if let Ok(Some(numbers)) = numbers {
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
        Report::new(
            "CDC0105",
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("key \"{}\" is deferrable", columns.join(", ")),
            "Make the key NOT DEFERRABLE, or choose other columns with key =>.",
        )
        .detail(format!("Table \"{}\": while a deferrable key is shifted two rows share it, and a consumer would lose one of them.", self.name))
        .raise()
    }

    /// The options in the arguments of our row trigger, if the table is tracked.
    pub fn options(&self) -> Option<Options> {
        // SAFETY: the relation is open while it is read, so its trigger descriptions stay.
        self.read(|relation| unsafe {
            let arguments = arguments_of(&*row_trigger(relation)?);
            Some(Options::parse(arguments.iter().map(String::as_str)))
        })
    }

    /// Function and arguments of our TRUNCATE trigger, if the table has one.
    pub fn truncate_trigger_definition(&self) -> Option<(String, Vec<String>)> {
        // SAFETY: the relation is open while it is read; texts are copied out of the memory that the catalog gives.
        self.read(|relation| unsafe {
            let trigger = &*trigger_named(relation, TRUNCATE_TRIGGER)?;
            let name = |text: *mut std::ffi::c_char| {
                (!text.is_null())
                    .then(|| pgrx::spi::quote_identifier(utf8(CStr::from_ptr(text).to_bytes())))
            };
            let schema = name(pg_sys::get_namespace_name(pg_sys::get_func_namespace(
                trigger.tgfoid,
            )))?;
            let function = name(pg_sys::get_func_name(trigger.tgfoid))?;
            Some((format!("{schema}.{function}"), arguments_of(trigger)))
        })
    }

    /// Whether our row trigger fires in every session_replication_role.
    pub fn captures_always(&self) -> bool {
        // SAFETY: the relation is open while it is read.
        self.read(|relation| unsafe {
            row_trigger(relation).is_some_and(|trigger| {
                (*trigger).tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS as std::ffi::c_char
            })
        })
    }

    /// Captures a change of the table's definition, as an event of this transaction.
    pub fn capture_schema_change(&self, change: &str) {
        self.with_trigger(|data| {
            // SAFETY: relation and trigger are open while they are read.
            unsafe {
                crate::capture::trigger::capture_table_event(
                    data,
                    &crate::capture::buffer::Captured::SchemaChanged(change),
                );
            }
        });
    }

    /// Runs `body` with the data that our row trigger would get, the table being open; none if it is not tracked.
    pub fn with_trigger<R>(&self, body: impl FnOnce(&pg_sys::TriggerData) -> R) -> Option<R> {
        self.read(|relation| {
            let data = pg_sys::TriggerData {
                type_: pg_sys::NodeTag::T_TriggerData,
                tg_relation: std::ptr::from_ref(relation).cast_mut(),
                tg_trigger: row_trigger(relation)?,
                ..Default::default()
            };
            Some(body(&data))
        })
    }

    /// Runs `body` with the rights of the table's owner, as maintenance of PostgreSQL's own does: what the owner's types
    /// and operators call gets no more. An error restores the user with the transaction.
    pub fn as_owner<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: the relation is open while it is read.
        let owner = self.read(|relation| unsafe { (*relation.rd_rel).relowner });
        as_user(owner, pg_sys::SECURITY_RESTRICTED_OPERATION, body)
    }
}

/// Our row trigger, as the relation cache has it now.
fn row_trigger(relation: &pg_sys::RelationData) -> Option<*mut pg_sys::Trigger> {
    trigger_named(relation, ROW_TRIGGER)
}

fn trigger_named(relation: &pg_sys::RelationData, name: &str) -> Option<*mut pg_sys::Trigger> {
    // SAFETY: the relation is open; its trigger descriptions are null or an array of the stated length.
    unsafe {
        let triggers = relation.trigdesc;
        if triggers.is_null() {
            return None;
        }
        (0..(*triggers).numtriggers as usize)
            .map(|index| (*triggers).triggers.add(index))
            .find(|trigger| CStr::from_ptr((**trigger).tgname).to_bytes() == name.as_bytes())
    }
}

fn arguments_of(trigger: &pg_sys::Trigger) -> Vec<String> {
    // SAFETY: a trigger has as many zero-ended arguments as it says.
    unsafe {
        (0..trigger.tgnargs as usize)
            .map(|index| utf8(CStr::from_ptr(*trigger.tgargs.add(index)).to_bytes()))
            .collect()
    }
}

/// Whether the caller is a member of cdc_admin (superusers are).
pub fn is_admin() -> bool {
    // SAFETY: catalog look-ups inside the running transaction; a missing role gives InvalidOid.
    unsafe {
        let role = pg_sys::get_role_oid(c"cdc_admin".as_ptr(), true);
        let user = pg_sys::GetUserId();
        pg_sys::superuser_arg(user)
            || (role != pg_sys::InvalidOid && pg_sys::has_privs_of_role(user, role))
    }
}

/// Runs `body` as the bootstrap superuser: the caller was checked before, and EXECUTE on the trigger functions is
/// nobody's. The caller's search_path does not count inside. An error restores both with the (sub)transaction.
pub fn as_superuser<R>(body: impl FnOnce() -> R) -> R {
    let superuser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
    statement::pinned(|| as_user(superuser, pg_sys::SECURITY_LOCAL_USERID_CHANGE, body))
}

fn as_user<R>(other: pg_sys::Oid, restrictions: u32, body: impl FnOnce() -> R) -> R {
    let mut user = pg_sys::InvalidOid;
    let mut security = 0;
    // SAFETY: the pair is restored below; PostgreSQL restores it itself when the (sub)transaction aborts.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        pg_sys::SetUserIdAndSecContext(other, security | restrictions as i32);
    }
    let result = body();
    // SAFETY: as above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, security) };
    result
}
