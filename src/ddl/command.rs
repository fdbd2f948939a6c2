//! What a DDL command is.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::AlterTableType as Alter;

use crate::text::utf8;

/// What rewrites a table and leaves every value as it is.
pub(crate) const MOVES: [Alter::Type; 4] = [
    Alter::AT_SetLogged,
    Alter::AT_SetUnLogged,
    Alter::AT_SetTableSpace,
    Alter::AT_SetAccessMethod,
];

/// What is told even where an event about the definition says the same as before.
pub(crate) const DEFINES: [Alter::Type; 14] = [
    Alter::AT_AddColumn,
    Alter::AT_DropColumn,
    Alter::AT_AlterColumnType,
    Alter::AT_ColumnDefault,
    Alter::AT_SetNotNull,
    Alter::AT_DropNotNull,
    Alter::AT_AddIndex,
    Alter::AT_AddConstraint,
    Alter::AT_AddIndexConstraint,
    Alter::AT_DropConstraint,
    Alter::AT_ReplicaIdentity,
    Alter::AT_AddIdentity,
    Alter::AT_DropIdentity,
    Alter::AT_DropExpression,
];

/// The commands of an ALTER TABLE.
///
/// # Safety
/// The statement is one that PostgreSQL runs.
pub(crate) unsafe fn commands_of(
    statement: &pg_sys::AlterTableStmt,
) -> Vec<&pg_sys::AlterTableCmd> {
    // SAFETY: as the caller promises, the commands are a list of AlterTableCmd.
    unsafe {
        let list = statement.cmds;
        let count = if list.is_null() {
            0
        } else {
            (*list).length as usize
        };
        (0..count)
            .map(|index| {
                &*(*(*list).elements.add(index))
                    .ptr_value
                    .cast::<pg_sys::AlterTableCmd>()
            })
            .collect()
    }
}

/// The text of the running statement, if the client sent it alone and it is of this kind: a text of several statements
/// would tell more than the event is about, and one inside a function is not there at all.
pub(crate) fn statement_of(kind: pg_sys::NodeTag) -> Option<String> {
    // SAFETY: the text of the client's query, null or zero-ended, as long as the query runs; parsed once before.
    unsafe {
        let text = pg_sys::debug_query_string;
        if text.is_null() {
            return None;
        }
        let statements = pg_sys::raw_parser(text, pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if statements.is_null() || (*statements).length != 1 {
            return None;
        }
        let raw: *mut pg_sys::RawStmt = (*(*statements).elements).ptr_value.cast();
        ((*(*raw).stmt).type_ == kind).then(|| {
            let text = utf8(CStr::from_ptr(text).to_bytes());
            text.trim().trim_end_matches(';').to_owned()
        })
    }
}
