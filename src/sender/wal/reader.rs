//! Reads the WAL with PostgreSQL's own reader, up to what is flushed, and never waits: "nothing yet" is an answer.
//!
//! Every error below the flush pointer is an error, never "the end": a missing segment, a bad checksum, a page that
//! belongs elsewhere all mean that WAL that is needed cannot be read.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::AssertUnwindSafe;

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

use crate::ffi;

const PAGE_BYTES: u64 = pg_sys::XLOG_BLCKSZ as u64;
/// Size of the header of a WAL page, and of the first page of a segment (access/xlog_internal.h).
const SHORT_HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;

/// The reader's buffer for records that cross pages grows with the largest of them, up to 1 GB; above this it is given
/// back.
const KEPT_BUFFER_BYTES: u32 = 16 * 1024 * 1024;

/// Records that are passed over before the caller gets one.
const SKIPPED_AT_ONCE: u32 = 10_000;

/// Messages are ours or not; the others end transactions.
fn concerns_us(resource_manager: u8) -> bool {
    matches!(
        u32::from(resource_manager),
        pg_sys::RmgrIds::RM_LOGICALMSG_ID
            | pg_sys::RmgrIds::RM_XACT_ID
            | pg_sys::RmgrIds::RM_XLOG_ID
    )
}

/// A reader at some place of the WAL.
pub(crate) struct WalReader {
    state: *mut pg_sys::XLogReaderState,
    /// Told by the page callback; boxed, for the reader keeps its address.
    progress: Box<Progress>,
}

#[derive(Debug)]
struct Progress {
    /// The last page that was asked for is not flushed yet.
    not_flushed: bool,
    /// What lies behind is not given out, though it is flushed.
    limit_lsn: u64,
}

/// One record, valid until the next read.
pub(crate) struct Record<'a> {
    /// Where it begins and ends.
    pub lsn: u64,
    pub end_lsn: u64,
    pub resource_manager: u8,
    pub info: u8,
    pub xid: u32,
    pub data: &'a [u8],
}

/// WAL that should be there and cannot be read.
#[derive(Debug, Clone)]
pub(crate) struct WalError {
    /// Where reading stopped.
    pub lsn: u64,
    pub message: String,
    /// The file is not there (as opposed to damaged).
    pub missing: bool,
}

impl WalReader {
    /// A reader whose first record begins at `lsn`, or is the first one after the page header there.
    pub(crate) fn new(lsn: u64) -> WalReader {
        let mut progress = Box::new(Progress {
            not_flushed: false,
            limit_lsn: u64::MAX,
        });
        let mut routine = pg_sys::XLogReaderRoutine {
            page_read: Some(read_page),
            segment_open: Some(open_segment),
            segment_close: Some(close_segment),
        };
        // SAFETY: allocated in the worker's long-lived memory; the reader copies the routine and keeps the pointer to
        // `progress`, which lives as long as the reader.
        let state = unsafe {
            pg_sys::XLogReaderAllocate(
                pg_sys::wal_segment_size,
                std::ptr::null(),
                &mut routine,
                (&raw mut *progress).cast::<c_void>(),
            )
        };
        if state.is_null() {
            pgrx::error!("out of memory while allocating a WAL reader");
        }
        let mut reader = WalReader { state, progress };
        reader.seek(lsn);
        reader
    }

    /// Goes to another place.
    pub(crate) fn seek(&mut self, lsn: u64) {
        // SAFETY: the reader is allocated; the position is that of a record.
        unsafe { pg_sys::XLogBeginRead(self.state, record_start(lsn)) };
    }

    /// Treats what lies behind `lsn` as not flushed.
    pub(crate) fn limit(&mut self, lsn: u64) {
        self.progress.limit_lsn = lsn;
    }

    /// Where the next record begins.
    pub(crate) fn position(&self) -> u64 {
        // SAFETY: the reader is allocated.
        unsafe { (*self.state).EndRecPtr }
    }

    /// Gives back the memory of a large record: nothing of it is needed between two records.
    fn trim(&mut self) {
        // SAFETY: allocated by the reader in its own memory context, and enlarged by it where that is needed; it takes
        // five pages for granted (allocate_recordbuf in xlogreader.c).
        unsafe {
            let state = &mut *self.state;
            if state.readRecordBufSize > KEPT_BUFFER_BYTES {
                let bytes = 5 * pg_sys::XLOG_BLCKSZ;
                state.readRecordBuf =
                    pg_sys::repalloc(state.readRecordBuf.cast(), bytes as usize).cast();
                state.readRecordBufSize = bytes;
            }
        }
    }

    /// The next record that may concern the sender: a message, or the end of a transaction or of the server's run. After
    /// many others the last of them, so that the caller can look around; `None` if it is not flushed yet.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>, WalError> {
        self.progress.not_flushed = false;
        self.trim();
        let mut message: *mut c_char = std::ptr::null_mut();
        let state = self.state;
        // A missing segment is an ERROR of the page callback: caught here, for it is a state of the sender, not its end.
        let found = PgTryBuilder::new(AssertUnwindSafe(|| {
            // SAFETY: the reader is allocated.
            Ok(unsafe { ffi::read_wal(state, &mut message, SKIPPED_AT_ONCE, concerns_us) })
        }))
        .catch_others(|error| match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                Err(report.message().to_owned())
            }
            CaughtError::RustPanic { ereport, .. } => Err(ereport.message().to_owned()),
        })
        .execute();
        let header = found.map_err(|message| WalError {
            lsn: self.position(),
            message,
            missing: true,
        })?;
        // SAFETY: a record's memory is valid until the next call, which needs `&mut self`.
        unsafe {
            if header.is_null() {
                if self.progress.not_flushed {
                    return Ok(None);
                }
                let message = if message.is_null() {
                    "unreadable".to_owned()
                } else {
                    CStr::from_ptr(message).to_string_lossy().into_owned()
                };
                return Err(WalError {
                    lsn: self.position(),
                    message,
                    missing: false,
                });
            }
            let record = (*self.state).record;
            let header = &(*record).header;
            Ok(Some(Record {
                lsn: (*self.state).ReadRecPtr,
                end_lsn: (*self.state).EndRecPtr,
                resource_manager: header.xl_rmid,
                info: header.xl_info,
                xid: header.xl_xid.into(),
                data: if (*record).main_data_len == 0 {
                    &[]
                } else {
                    std::slice::from_raw_parts(
                        (*record).main_data.cast::<u8>(),
                        (*record).main_data_len as usize,
                    )
                },
            }))
        }
    }
}

impl Drop for WalReader {
    fn drop(&mut self) {
        // During unwinding from an ERROR the process is about to end.
        if !std::thread::panicking() {
            // SAFETY: allocated by `new`, freed once.
            unsafe { pg_sys::XLogReaderFree(self.state) };
        }
    }
}

/// The end of a record may be the start of a page, where the next record begins only after the page's header.
fn record_start(lsn: u64) -> u64 {
    // SAFETY: set at server start.
    let segment_bytes = unsafe { pg_sys::wal_segment_size } as u64;
    if lsn.is_multiple_of(segment_bytes) {
        lsn + LONG_HEADER_BYTES
    } else if lsn.is_multiple_of(PAGE_BYTES) {
        lsn + SHORT_HEADER_BYTES
    } else {
        lsn
    }
}

/// `XLogPageReadCB`: gives flushed bytes only; `-1` with `not_flushed` set means "later".
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn read_page(
    state: *mut pg_sys::XLogReaderState,
    page: pg_sys::XLogRecPtr,
    wanted: c_int,
    _record: pg_sys::XLogRecPtr,
    buffer: *mut c_char,
) -> c_int {
    // SAFETY: called by the reader with its own state and a buffer of one page. Follows read_local_xlog_page
    // (xlogutils.c) without its waiting.
    unsafe {
        let mut timeline: pg_sys::TimeLineID = 0;
        let progress: *mut Progress = (*state).private_data.cast();
        let flushed = pg_sys::GetFlushRecPtr(&mut timeline).min((*progress).limit_lsn);
        if page + wanted as u64 > flushed {
            (*progress).not_flushed = true;
            return -1;
        }
        pg_sys::XLogReadDetermineTimeline(state, page, wanted as u32, timeline);
        let bytes = PAGE_BYTES.min(flushed - page);
        let mut error = pg_sys::WALReadError::default();
        if !pg_sys::WALRead(
            state,
            buffer,
            page,
            bytes as usize,
            (*state).currTLI,
            &mut error,
        ) {
            pg_sys::WALReadRaiseError(&mut error);
        }
        bytes as c_int
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn open_segment(
    state: *mut pg_sys::XLogReaderState,
    segment: pg_sys::XLogSegNo,
    timeline: *mut pg_sys::TimeLineID,
) {
    // SAFETY: called by the reader with its own state.
    unsafe { pg_sys::wal_segment_open(state, segment, timeline) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn close_segment(state: *mut pg_sys::XLogReaderState) {
    // SAFETY: called by the reader with its own state.
    unsafe { pg_sys::wal_segment_close(state) }
}

/// The timeline that the server writes, and how far its WAL is flushed.
pub(crate) fn flushed() -> (u32, u64) {
    let mut timeline: pg_sys::TimeLineID = 0;
    // SAFETY: the sender runs only after recovery.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&mut timeline) };
    (timeline, lsn)
}

/// The end of the WAL at this moment, flushed: a place from which a reader can begin.
pub(crate) fn end_of_wal() -> u64 {
    // SAFETY: plain calls on the main thread of a process of a server that is not in recovery; the flush is for WAL that
    // exists.
    unsafe {
        let end = end_of_last_record(pg_sys::GetXLogInsertRecPtr());
        pg_sys::XLogFlush(end);
        end
    }
}

/// The insert position may stand behind the header of a page that has no record yet; the reader stops before it.
fn end_of_last_record(lsn: u64) -> u64 {
    // SAFETY: set at server start.
    let segment_bytes = unsafe { pg_sys::wal_segment_size } as u64;
    if lsn % segment_bytes == LONG_HEADER_BYTES {
        lsn - LONG_HEADER_BYTES
    } else if lsn % u64::from(pg_sys::XLOG_BLCKSZ) == SHORT_HEADER_BYTES {
        lsn - SHORT_HEADER_BYTES
    } else {
        lsn
    }
}

/// Whether the segment with `lsn` is there.
pub(crate) fn is_there(timeline: u32, lsn: u64) -> bool {
    // SAFETY: set at server start.
    let segment_bytes = unsafe { pg_sys::wal_segment_size } as u64;
    let (segment, per_file) = (lsn / segment_bytes, 0x1_0000_0000 / segment_bytes);
    let name = format!(
        "pg_wal/{timeline:08X}{:08X}{:08X}",
        segment / per_file,
        segment % per_file
    );
    std::fs::exists(name).unwrap_or(true)
}

/// Where a timeline began: the switch point in its history file, 0 for the first one.
pub(crate) fn timeline_start(timeline: u32) -> u64 {
    let path = format!("pg_wal/{timeline:08X}.history");
    let history = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        // The first timeline has none.
        if timeline > 1 {
            pgrx::log!("pg_cdc: {path} cannot be read: {error}");
        }
        String::new()
    });
    let last = history.lines().rfind(|line| {
        line.trim_start()
            .starts_with(|first: char| first.is_ascii_digit())
    });
    last.and_then(|line| line.split_whitespace().nth(1))
        .and_then(change::position::parse_lsn)
        .unwrap_or(0)
}
