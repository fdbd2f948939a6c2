//! The writer's side: row trigger -> plan of the table -> encoded row -> buffer -> chunk in the WAL, just before commit.

pub mod buffer;
pub mod commit;
pub mod context;
pub mod datum;
pub mod filter_names;
pub mod image;
pub mod mask;
pub mod nonce;
pub mod own_trigger;
pub mod relation_plan;
pub mod row_expression;
pub mod row_filter;
pub mod seal;
pub mod trigger;

use std::cell::RefCell;

use change::memory::may_fail;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::report::Report;
use buffer::Buffer;
use relation_plan::Plans;

/// Everything that capture keeps in a backend.
pub struct Capture {
    pub plans: Plans,
    pub buffer: Buffer,
}

thread_local! {
    static CAPTURE: RefCell<Capture> = RefCell::new(Capture { plans: Plans::default(), buffer: Buffer::default() });
}

/// Runs `body` with this backend's capture state. An error inside leaves the state as it is: whoever aborts the
/// (sub)transaction takes back what it had written.
pub fn with_capture<R>(body: impl FnOnce(&mut Capture) -> R) -> R {
    CAPTURE.with_borrow_mut(body)
}

/// The same for callbacks that must not fail: `None` while the state is in use.
pub fn try_with_capture<R>(body: impl FnOnce(&mut Capture) -> R) -> Option<R> {
    CAPTURE.with(|capture| {
        capture
            .try_borrow_mut()
            .ok()
            .map(|mut capture| body(&mut capture))
    })
}

/// Makes room for `bytes` more: an ERROR where memory is out, never an abort of the process.
#[inline]
pub fn reserve(out: &mut Vec<u8>, bytes: usize) {
    if out.capacity() - out.len() < bytes {
        grow(out, bytes);
    }
}

#[cold]
fn grow(out: &mut Vec<u8>, bytes: usize) {
    // Doubling, as Vec does by itself, so that a transaction of n bytes copies O(n).
    let wanted = bytes.max(out.capacity());
    if may_fail(|| out.try_reserve(wanted)).is_err()
        && may_fail(|| out.try_reserve_exact(bytes)).is_err()
    {
        Report::new(
            "CDC0201",
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            "out of memory while capturing",
            "Lower cdc.capture_buffer, or change fewer or smaller rows in one statement.",
        )
        .detail(format!("{bytes} more bytes could not be had."))
        .raise();
    }
}

/// Name of the database that this backend is connected to.
pub fn database_name() -> String {
    // SAFETY: MyDatabaseId is set for the life of a backend; the returned text is copied.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() {
            String::new()
        } else {
            utf8(std::ffi::CStr::from_ptr(name).to_bytes())
        }
    }
}

/// A text in the database's encoding, for PostgreSQL. ERROR where it has characters that the encoding lacks.
pub fn server_text(text: &str) -> std::ffi::CString {
    // SAFETY: converts into memory of the current context, or gives the same pointer back; copied at once.
    let converted = unsafe {
        let len = text.len() as i32;
        let converted =
            pg_sys::pg_any_to_server(text.as_ptr().cast(), len, pg_sys::pg_enc::PG_UTF8 as i32);
        if converted.is_null() || converted.cast_const().cast() == text.as_ptr() {
            text.as_bytes().to_vec()
        } else {
            std::ffi::CStr::from_ptr(converted).to_bytes().to_vec()
        }
    };
    // PostgreSQL's texts hold no zero byte: there is none to cut it off at.
    std::ffi::CString::new(converted).unwrap_or_default()
}

/// Text in the database's encoding as UTF-8.
pub fn utf8(bytes: &[u8]) -> String {
    // SAFETY: converts from the database's encoding into memory of the current context; copied at once.
    unsafe {
        let len = bytes.len() as i32;
        let converted =
            pg_sys::pg_server_to_any(bytes.as_ptr().cast(), len, pg_sys::pg_enc::PG_UTF8 as i32);
        if converted.is_null() || converted.cast_const().cast() == bytes.as_ptr() {
            owned(bytes)
        } else {
            owned(std::ffi::CStr::from_ptr(converted).to_bytes())
        }
    }
}

/// A copy, with what is not UTF-8 replaced. Values have up to 1 GB: an ERROR where memory is out.
fn owned(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        reserve(&mut text, valid.len() + REPLACEMENT.len());
        text.extend_from_slice(valid);
        if !chunk.invalid().is_empty() {
            text.extend_from_slice(REPLACEMENT);
        }
    }
    String::from_utf8(text).unwrap_or_default()
}

/// U+FFFD in UTF-8.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
