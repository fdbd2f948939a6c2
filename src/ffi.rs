//! What pgrx does not bind, or binds differently from version to version.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// Says that a function has version 1 of the calling convention (fmgr.h, PG_FUNCTION_INFO_V1).
pub(crate) static VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };

unsafe extern "C-unwind" {
    /// tcop/tcopprot.h: the SIGTERM handler of ordinary backends.
    pub(crate) fn die(signal: c_int);
    /// postmaster/interrupt.h: unguarded, as a signal handler must be.
    pub(crate) fn SignalHandlerForConfigReload(signal: c_int);
    /// access/xlogreader.h
    fn XLogReadRecord(
        state: *mut pg_sys::XLogReaderState,
        message: *mut *mut c_char,
    ) -> *mut pg_sys::XLogRecord;
    /// postmaster/bgwriter.h
    fn RequestCheckpoint(flags: c_int);
    /// utils/bytea.h
    pub(crate) static mut bytea_output: c_int;
    /// utils/pg_locale.h
    pub(crate) static mut locale_monetary: *mut c_char;
    /// nodes/nodeFuncs.h
    #[cfg(feature = "pg15")]
    fn raw_expression_tree_walker(
        node: *mut pg_sys::Node,
        walker: unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut std::ffi::c_void) -> bool,
        context: *mut std::ffi::c_void,
    ) -> bool;
    /// replication/message.h
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
    ) -> pg_sys::XLogRecPtr;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> pg_sys::XLogRecPtr;
}

thread_local! {
    /// That of [`with_room_for_errors`].
    static ROOM: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
}

/// Calls functions of PostgreSQL on large values in memory that has room for telling an error. Where memory runs out, pgrx
/// copies the error into the memory that the call was made in, tries that again if there is no room, and so fills PostgreSQL's
/// stack of errors, which is a PANIC (`pg_guard_ffi_boundary` in pgrx-pg-sys, ffi.rs).
///
/// # Safety
/// On the main thread. What `body` returns does not lie in PostgreSQL's memory, and `body` does not come here again.
pub(crate) unsafe fn with_room_for_errors<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: as the caller promises; the context lives as long as the process, and a reset leaves its first block.
    unsafe {
        if ROOM.get().is_null() {
            ROOM.set(pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"pg_cdc values".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            ));
        }
        // The call before may have ended in an error.
        pg_sys::MemoryContextReset(ROOM.get());
        let before = pg_sys::MemoryContextSwitchTo(ROOM.get());
        let result = body();
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextReset(ROOM.get());
        result
    }
}

/// Lets a background worker end at SIGTERM wherever it looks for interrupts, as a backend does, and take note of SIGHUP.
///
/// # Safety
/// On the main thread of a background worker, once.
pub(crate) unsafe fn take_signals() {
    // SAFETY: as the caller promises; the handlers are PostgreSQL's own.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        {
            pg_sys::pqsignal(libc::SIGTERM, Some(die));
            pg_sys::pqsignal(libc::SIGHUP, Some(SignalHandlerForConfigReload));
        }
        #[cfg(feature = "pg18")]
        {
            pg_sys::pqsignal_be(libc::SIGTERM, Some(die));
            pg_sys::pqsignal_be(libc::SIGHUP, Some(SignalHandlerForConfigReload));
        }
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Runs `body` with another value of a setting.
///
/// # Safety
/// On the main thread, inside a transaction, which restores the setting if `body` ends in an ERROR; `value` is a zero-ended
/// text.
pub(crate) unsafe fn with_setting<R>(
    name: &CStr,
    value: *const c_char,
    body: impl FnOnce() -> R,
) -> R {
    // SAFETY: as the caller promises; PostgreSQL copies both texts.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            name.as_ptr(),
            value,
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        let result = body();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}

/// Runs `body` with names meaning what they mean in pg_catalog, whatever the session's search_path says.
///
/// # Safety
/// As for [`with_setting`].
pub(crate) unsafe fn with_pinned_search_path<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: as the caller promises.
    unsafe { with_setting(c"search_path", c"pg_catalog, pg_temp".as_ptr(), body) }
}

/// Evaluates an expression (ExecEvalExpr, executor/executor.h).
///
/// # Safety
/// State and context belong together, and the context's slot holds the row.
pub(crate) unsafe fn evaluate(
    state: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
    is_null: &mut bool,
) -> pg_sys::Datum {
    // SAFETY: as the caller promises; an ERROR inside becomes a panic at the boundary.
    unsafe {
        match (*state).evalfunc {
            Some(evaluate) => pg_guard_ffi_boundary(|| evaluate(state, context, is_null)),
            None => pg_sys::Datum::from(0),
        }
    }
}

/// Calls `walker` for every child of a node until one says true (expression_tree_walker, nodes/nodeFuncs.h).
///
/// # Safety
/// `node` is an expression; `walker` takes null and every kind of node.
pub(crate) unsafe fn walk_expression(
    node: *mut pg_sys::Node,
    walker: unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut std::ffi::c_void) -> bool,
    context: *mut std::ffi::c_void,
) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::expression_tree_walker(node, Some(walker), context);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::expression_tree_walker_impl(node, Some(walker), context);
    }
}

/// As [`walk_expression`], for a tree that the grammar made.
///
/// # Safety
/// As for [`walk_expression`].
pub(crate) unsafe fn walk_raw_expression(
    node: *mut pg_sys::Node,
    walker: unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut std::ffi::c_void) -> bool,
    context: *mut std::ffi::c_void,
) -> bool {
    // SAFETY: as the caller promises; an ERROR inside becomes a panic at the boundary.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_guard_ffi_boundary(|| raw_expression_tree_walker(node, walker, context));
        #[cfg(not(feature = "pg15"))]
        return pg_sys::raw_expression_tree_walker_impl(node, Some(walker), context);
    }
}

/// Reads a table from end to end under a snapshot, row by row into `slot` (table_beginscan and what follows in
/// access/tableam.h, inline functions there).
///
/// # Safety
/// On the main thread, inside a transaction; the relation is open and has storage, the snapshot is registered, the slot is
/// one of the relation's.
pub(crate) unsafe fn scan_table(
    relation: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    mut row: impl FnMut(*mut pg_sys::TupleTableSlot),
) {
    use pg_sys::ScanOptions as Scan;
    let flags = Scan::SO_TYPE_SEQSCAN
        | Scan::SO_ALLOW_STRAT
        | Scan::SO_ALLOW_SYNC
        | Scan::SO_ALLOW_PAGEMODE;
    // SAFETY: as the caller promises; an ERROR inside becomes a panic at the boundary, and the transaction's end releases
    // the scan.
    unsafe {
        let access = &*(*relation).rd_tableam;
        let (Some(begin), Some(next), Some(end)) =
            (access.scan_begin, access.scan_getnextslot, access.scan_end)
        else {
            return;
        };
        let none = std::ptr::null_mut();
        let scan = pg_guard_ffi_boundary(|| {
            begin(relation, snapshot, 0, none, std::ptr::null_mut(), flags)
        });
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        (*slot).tts_tableOid = (*relation).rd_id;
        while pg_guard_ffi_boundary(|| next(scan, forward, slot)) {
            row(slot);
        }
        pg_guard_ffi_boundary(|| end(scan));
    }
}

/// Writes a transactional logical message into the WAL; it is flushed with the commit record.
///
/// # Safety
/// On the main thread, inside a transaction. `prefix` ends in a zero byte.
pub(crate) unsafe fn log_transactional_message(prefix: &std::ffi::CStr, message: &[u8]) {
    // SAFETY: the caller is in a transaction; both pointers outlive the call, which copies what they point to.
    unsafe {
        pg_guard_ffi_boundary(|| {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            LogLogicalMessage(
                prefix.as_ptr(),
                message.as_ptr().cast(),
                message.len(),
                true,
            );
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            LogLogicalMessage(
                prefix.as_ptr(),
                message.as_ptr().cast(),
                message.len(),
                true,
                false,
            );
        });
    }
}

/// Reads records until one is `wanted` by its resource manager, or `limit` of them are read, or there is none to be had:
/// then null. One guard for all of them: a load that is not ours has millions.
///
/// # Safety
/// `state` is an allocated reader, `message` a place for its message.
pub(crate) unsafe fn read_wal(
    state: *mut pg_sys::XLogReaderState,
    message: &mut *mut c_char,
    limit: u32,
    wanted: fn(u8) -> bool,
) -> *mut pg_sys::XLogRecord {
    // SAFETY: as the caller promises; an ERROR leaves the closure, which owns nothing, and goes on as a panic.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let mut record = XLogReadRecord(state, message);
            let mut left = limit;
            while !record.is_null() && left > 0 && !wanted((*record).xl_rmid) {
                record = XLogReadRecord(state, message);
                left -= 1;
            }
            record
        })
    }
}

/// Asks for a checkpoint, and does not wait for it.
pub(crate) fn request_checkpoint() {
    // SAFETY: without CHECKPOINT_WAIT nothing is waited for and no ERROR is raised (checkpointer.c).
    unsafe { pg_guard_ffi_boundary(|| RequestCheckpoint(pg_sys::CHECKPOINT_FORCE as c_int)) };
}

/// The local id of the transaction that this backend is in; 0 for none.
pub(crate) fn local_transaction_id() -> u32 {
    // SAFETY: MyProc is set for the life of a backend, and only the backend itself writes its local transaction id.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (*pg_sys::MyProc).lxid;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return (*pg_sys::MyProc).vxid.lxid;
    }
}

/// Creates a persistent physical slot with this name and holds it.
///
/// # Safety
/// On the main thread of a process that holds no slot.
pub(crate) unsafe fn create_physical_slot(name: &std::ffi::CStr) {
    let persistent = pg_sys::ReplicationSlotPersistency::RS_PERSISTENT;
    // SAFETY: as the caller promises; the name is copied.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        pg_sys::ReplicationSlotCreate(name.as_ptr(), false, persistent, false);
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        pg_sys::ReplicationSlotCreate(name.as_ptr(), false, persistent, false, false, false);
    }
}

/// Takes hold of an existing slot; an ERROR if another process has it.
///
/// # Safety
/// On the main thread of a process that holds no slot.
pub(crate) unsafe fn acquire_slot(name: &std::ffi::CStr) {
    // SAFETY: as the caller promises.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true);
        // An invalidated slot is looked at, not refused: only WAL that cannot be read is a gap.
        #[cfg(feature = "pg18")]
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true, false);
    }
}

/// Runs `body` while holding one of PostgreSQL's spinlocks (storage/s_lock.h). `body` must be a few plain stores.
///
/// # Safety
/// `lock` points to an initialised spinlock in shared memory.
pub(crate) unsafe fn with_spinlock(lock: *mut pg_sys::slock_t, body: impl FnOnce()) {
    use std::sync::atomic::Ordering;
    #[cfg(target_arch = "x86_64")]
    type Lock = std::sync::atomic::AtomicU8;
    #[cfg(not(target_arch = "x86_64"))]
    type Lock = std::sync::atomic::AtomicI32;
    // SAFETY: slock_t is a byte on x86-64 and an int elsewhere, set to non-zero while held, exactly as TAS does it.
    let lock = unsafe { Lock::from_ptr(lock.cast()) };
    while lock.swap(1, Ordering::Acquire) != 0 {
        std::hint::spin_loop();
    }
    body();
    lock.store(0, Ordering::Release);
}
