//! Changes of definitions that pg_cdc makes by itself, in the course of somebody's command. Nobody issued them: other
//! people's event triggers are not told of them, and nobody's hook for commands either.

use pgrx::pg_sys;

use crate::text::server_text;

/// While it lives, what is done is not noted for the event triggers at the end of the running command.
struct Unnoted;

impl Unnoted {
    fn begin() -> Unnoted {
        // SAFETY: sets a flag of the running command, if there is one; taken back on every way out.
        unsafe { pg_sys::EventTriggerInhibitCommandCollection() };
        Unnoted
    }
}

impl Drop for Unnoted {
    fn drop(&mut self) {
        // SAFETY: as above; it raises nothing.
        unsafe { pg_sys::EventTriggerUndoInhibitCommandCollection() };
    }
}

/// Runs one DDL statement of our own.
pub(crate) fn run(statement: &str) {
    let text = server_text(statement);
    let _unnoted = Unnoted::begin();
    // SAFETY: in a transaction. The text is parsed into nodes of the current memory context, and outlives the call. As a
    // part of another command it fires no event trigger. A snapshot that an ERROR leaves goes with the (sub)transaction.
    unsafe {
        let parsed = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        let raw: *mut pg_sys::RawStmt = (*(*parsed).elements).ptr_value.cast();
        let planned =
            pgrx::PgBox::<pg_sys::PlannedStmt>::alloc_node(pg_sys::NodeTag::T_PlannedStmt)
                .into_pg();
        (*planned).commandType = pg_sys::CmdType::CMD_UTILITY;
        (*planned).utilityStmt = (*raw).stmt;
        (*planned).stmt_location = (*raw).stmt_location;
        (*planned).stmt_len = (*raw).stmt_len;
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::standard_ProcessUtility(
            planned,
            text.as_ptr(),
            false,
            pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone),
            std::ptr::null_mut(),
        );
        pg_sys::PopActiveSnapshot();
        pg_sys::CommandCounterIncrement();
    }
}

/// Drops a trigger, and the clones of it.
pub(crate) fn drop_trigger(trigger: pg_sys::Oid) {
    let object = pg_sys::ObjectAddress {
        classId: pg_sys::TriggerRelationId,
        objectId: trigger,
        objectSubId: 0,
    };
    // SAFETY: in a transaction; the object is there, for its table is locked. What is dropped as internal is not told to
    // event triggers.
    unsafe {
        pg_sys::performDeletion(
            &object,
            pg_sys::DropBehavior::DROP_RESTRICT,
            pg_sys::PERFORM_DELETION_INTERNAL as i32,
        );
        pg_sys::CommandCounterIncrement();
    }
}
