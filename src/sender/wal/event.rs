//! What a record of the WAL says of a transaction with captured rows.

use std::ffi::CStr;

use change::wal::assembly::{Assembly, WalEvent, WalMessage};
use change::wal::message;
use pgrx::pg_sys;

use super::reader::Record;

/// xl_logical_message (replication/message.h): database oid, transactional, prefix and message size, then both.
const MESSAGE_HEADER_BYTES: usize = 24;

/// The server whose WAL is read: this one.
pub(in crate::sender) struct ThisServer;

impl change::wal::assembly::Server for ThisServer {
    fn now_us(&self) -> i64 {
        // SAFETY: reads the clock.
        unsafe { pg_sys::GetCurrentTimestamp() }
    }

    fn next_xid8(&self) -> u64 {
        // SAFETY: a plain read under its own lock, on the main thread.
        unsafe { pg_sys::ReadNextFullTransactionId() }.value
    }
}

/// What a record says; nothing where it is of no transaction that `assembly` has open.
pub(in crate::sender) fn event_of<'r>(
    record: &'r Record<'_>,
    assembly: &Assembly,
) -> Option<WalEvent<'r>> {
    match u32::from(record.resource_manager) {
        manager if manager == pg_sys::RmgrIds::RM_LOGICALMSG_ID => {
            let (database_oid, is_transactional, bytes) = our_message(record.data)?;
            Some(WalEvent::Message(WalMessage {
                lsn: record.lsn,
                xid: record.xid,
                database_oid,
                is_transactional,
                bytes,
            }))
        }
        manager if manager == pg_sys::RmgrIds::RM_XACT_ID && !assembly.is_empty() => {
            end_of_transaction(record, assembly)
        }
        manager if manager == pg_sys::RmgrIds::RM_XLOG_ID => {
            let info = u32::from(record.info) & !pg_sys::XLR_INFO_MASK;
            matches!(
                info,
                pg_sys::XLOG_CHECKPOINT_SHUTDOWN | pg_sys::XLOG_END_OF_RECOVERY
            )
            .then_some(WalEvent::NothingRuns)
        }
        _ => None,
    }
}

fn end_of_transaction<'r>(record: &'r Record<'_>, assembly: &Assembly) -> Option<WalEvent<'r>> {
    let operation = u32::from(record.info) & pg_sys::XLOG_XACT_OPMASK;
    let data = record.data.as_ptr().cast_mut();
    match operation {
        pg_sys::XLOG_XACT_COMMIT if !assembly.is_open(record.xid) => None,
        pg_sys::XLOG_XACT_COMMIT | pg_sys::XLOG_XACT_COMMIT_PREPARED => {
            let mut parsed = pg_sys::xl_xact_parsed_commit::default();
            // SAFETY: the record's data is a commit record of this kind; `parsed` points into it.
            let subtransactions = unsafe {
                pg_sys::ParseCommitRecord(record.info, data.cast(), &mut parsed);
                transaction_ids(parsed.subxacts, parsed.nsubxacts)
            };
            let is_prepared = operation == pg_sys::XLOG_XACT_COMMIT_PREPARED;
            Some(WalEvent::Committed {
                top_xid: top_xid(record, is_prepared, parsed.twophase_xid),
                subtransactions,
                commit_us: parsed.xact_time,
                lsn: record.lsn,
                end_lsn: record.end_lsn,
            })
        }
        pg_sys::XLOG_XACT_ABORT | pg_sys::XLOG_XACT_ABORT_PREPARED => {
            let mut parsed = pg_sys::xl_xact_parsed_abort::default();
            // SAFETY: the record's data is an abort record of this kind; `parsed` points into it.
            let subtransactions = unsafe {
                pg_sys::ParseAbortRecord(record.info, data.cast(), &mut parsed);
                transaction_ids(parsed.subxacts, parsed.nsubxacts)
            };
            let is_prepared = operation == pg_sys::XLOG_XACT_ABORT_PREPARED;
            Some(WalEvent::Aborted {
                xid: top_xid(record, is_prepared, parsed.twophase_xid),
                subtransactions,
            })
        }
        pg_sys::XLOG_XACT_PREPARE if assembly.is_open(record.xid) => {
            let mut parsed = pg_sys::xl_xact_parsed_prepare::default();
            // SAFETY: the record's data is a prepare record; the name in it is zero-ended and copied.
            let gid = unsafe {
                pg_sys::ParsePrepareRecord(record.info, data.cast(), &mut parsed);
                CStr::from_ptr(parsed.twophase_gid.as_ptr())
            };
            Some(WalEvent::Prepared {
                top_xid: record.xid,
                gid: gid.to_string_lossy().into_owned(),
            })
        }
        _ => None,
    }
}

/// A prepared transaction is ended by another one, whose record names it.
fn top_xid(record: &Record<'_>, is_prepared: bool, twophase_xid: pg_sys::TransactionId) -> u32 {
    match is_prepared {
        true => twophase_xid.into(),
        false => record.xid,
    }
}

/// Database, whether transactional, and content of a logical message, if it has our prefix.
pub(in crate::sender) fn our_message(data: &[u8]) -> Option<(u32, bool, &[u8])> {
    let header = data.get(..MESSAGE_HEADER_BYTES)?;
    let size_at =
        |start: usize| usize::from_ne_bytes(std::array::from_fn(|index| header[start + index]));
    let (prefix_bytes, message_bytes) = (size_at(8), size_at(16));
    let prefix = data.get(MESSAGE_HEADER_BYTES..)?.get(..prefix_bytes)?;
    if prefix.strip_suffix(b"\0")? != message::MESSAGE_PREFIX.as_bytes() {
        return None;
    }
    let message = data
        .get(MESSAGE_HEADER_BYTES + prefix_bytes..)?
        .get(..message_bytes)?;
    let database_oid = u32::from_ne_bytes(std::array::from_fn(|index| header[index]));
    Some((database_oid, header[4] != 0, message))
}

/// The ids in a parsed record.
///
/// # Safety
/// `ids` points to `count` of them, aligned or not.
unsafe fn transaction_ids(ids: *mut pg_sys::TransactionId, count: i32) -> Vec<u32> {
    if ids.is_null() || count <= 0 {
        return Vec::new();
    }
    // SAFETY: the parsed record says how many there are; they may be unaligned in it.
    (0..count as usize)
        .map(|index| unsafe { ids.add(index).read_unaligned() }.into())
        .collect()
}
