//! Texts between the database's encoding and UTF-8.

use pgrx::pg_sys;

use crate::reserve::reserve;

/// A text in the database's encoding, for PostgreSQL. ERROR where it has characters that the encoding lacks.
pub(crate) fn server_text(text: &str) -> std::ffi::CString {
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
pub(crate) fn utf8(bytes: &[u8]) -> String {
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
