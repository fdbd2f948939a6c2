//! `cdc_emit`: an event of the application's own, in the same transaction, in order with the row events.

use std::cell::RefCell;
use std::ffi::CStr;

use change::code::Code;
use change::trouble::Trouble;
use change::version::put_emitted_id;
use change::wal::emission::Emission;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Map, Value};

use super::topic_rights;
use super::track::request::{refuse_illegal, refuse_taken_topic};
use crate::capture::buffer::captured::Captured;
use crate::capture::state::with_capture;
use crate::ffi;
use crate::report::{Raise, not_loaded};
use crate::text::{server_text, utf8};
use crate::{settings, shared};

#[unsafe(no_mangle)]
pub(crate) extern "C" fn pg_finfo_cdc_emit() -> &'static pg_sys::Pg_finfo_record {
    &ffi::VERSION_1
}

/// What a key may have, and headers together, in bytes.
const MAX_KEY_BYTES: usize = 64 * 1024;
const MAX_HEADERS_BYTES: usize = 64 * 1024;
/// Room for what an event has besides what it was given.
const OWN_BYTES: usize = 16 * 1024;

thread_local! {
    /// The topic into which this backend has emitted last, and the role that was entitled to it.
    static ENTITLED: RefCell<(String, pg_sys::Oid)> = const { RefCell::new((String::new(), pg_sys::InvalidOid)) };
}

/// `cdc_emit(topic text, key text, payload jsonb, headers jsonb) RETURNS text`: the event's id. Bound in
/// `sql/functions.sql`. Takes PostgreSQL's own datums, in whatever encoding the database has.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn cdc_emit(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL passes as many arguments as the function was declared with, of those types.
    let (topic, key, payload, headers) = unsafe {
        ffi::with_room_for_errors(|| {
            (
                text(fcinfo, 0),
                text(fcinfo, 1),
                json(fcinfo, 2),
                json(fcinfo, 3),
            )
        })
    };
    if shared::shared().is_none() {
        not_loaded().raise();
    }
    let Some(topic) = topic else {
        pgrx::error!("topic must not be null");
    };
    // An escaped text is six times as long at most: what is longer is not read at all.
    if let Some(headers) = headers
        .as_ref()
        .filter(|it| it.len() > 8 * MAX_HEADERS_BYTES)
    {
        too_large("headers", headers.len(), MAX_HEADERS_BYTES).raise();
    }
    let headers = headers
        .map(|headers| read_headers(&headers))
        .unwrap_or_default();
    let emission = Emission {
        key: key.as_deref(),
        payload: payload.as_deref(),
        headers: headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect(),
    };
    refuse_too_large(&emission);
    refuse_others_topic(&topic);
    let id = emit(&topic, &emission);
    // SAFETY: a zero-ended text, copied.
    pg_sys::Datum::from(unsafe { pg_sys::cstring_to_text(server_text(&id).as_ptr()) })
}

fn emit(topic: &str, emission: &Emission<'_>) -> String {
    // SAFETY: inside a transaction; the command id is marked as used, so that what comes later has a higher one.
    let command = unsafe { pg_sys::GetCurrentCommandId(true) };
    let (nonce, sequence) = with_capture(|capture| {
        let plan = capture.plans.of_topic(topic, || {
            refuse_illegal(topic);
            refuse_taken_topic(pg_sys::InvalidOid, topic);
            topic_rights::admit(&[topic]);
        });
        // SAFETY: such an event has no tuples, and so no descriptor.
        unsafe {
            let event = Captured::Emitted(emission);
            capture
                .buffer
                .capture(plan, std::ptr::null_mut(), command, &event);
        }
        capture.buffer.newest()
    });
    let mut id = Vec::new();
    put_emitted_id(&mut id, &nonce, sequence);
    String::from_utf8_lossy(&id).into_owned()
}

/// CDC0102, looked at again whenever topic or role are others than at the call before.
fn refuse_others_topic(topic: &str) {
    // SAFETY: a plain read.
    let user = unsafe { pg_sys::GetUserId() };
    if ENTITLED.with_borrow(|(entitled, role)| *role == user && entitled == topic) {
        return;
    }
    refuse_illegal(topic);
    topic_rights::refuse_others_topic(topic);
    ENTITLED.set((topic.to_owned(), user));
}

/// CDC0127: what no topic takes is refused here, for nothing of it can be left out.
fn refuse_too_large(emission: &Emission<'_>) {
    let bytes = |text: Option<&str>| text.map_or(0, str::len);
    let headers = emission.headers.iter();
    let headers_bytes: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
    let most_bytes = settings::TOPIC_MAX_EVENT_SIZE.get().max(0) as usize * 1024;
    let payload_bytes = most_bytes.saturating_sub(MAX_KEY_BYTES + MAX_HEADERS_BYTES + OWN_BYTES);
    for (what, has, may) in [
        ("key", bytes(emission.key), MAX_KEY_BYTES),
        ("headers", headers_bytes, MAX_HEADERS_BYTES),
        ("payload", bytes(emission.payload), payload_bytes),
    ] {
        if has > may {
            too_large(what, has, may).raise();
        }
    }
}

fn too_large(what: &str, has_bytes: usize, may_bytes: usize) -> Trouble {
    Trouble::new(
        Code::EmittedTooLarge,
        format!("the {what} of an event may have {may_bytes} bytes, not {has_bytes}"),
        "Emit a reference to what is large.",
    )
}

/// Names and values of a JSON object; values that are no texts as their JSON.
fn read_headers(headers: &str) -> Vec<(String, String)> {
    let Ok(object) = serde_json::from_str::<Map<String, Value>>(headers) else {
        refused_headers("headers must be a JSON object.").raise()
    };
    let pairs = object.into_iter().map(|(name, value)| {
        if name.starts_with("cdc.") || name.starts_with("__debezium.") {
            refused_headers(&format!("Header \"{name}\" is pg_cdc's own.")).raise();
        }
        let value = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        (name, value)
    });
    pairs.collect()
}

/// CDC0110.
fn refused_headers(detail: &str) -> Trouble {
    Trouble::new(
        Code::OptionsRefused,
        "options contradict each other or are unknown",
        "Pass headers as an object of texts, such as '{\"trace\": \"7\"}'.",
    )
    .detail(detail)
}

/// A text argument, in UTF-8.
unsafe fn text(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> Option<String> {
    // SAFETY: as the caller promises; a fetched copy lies in the memory of the call.
    unsafe {
        let datum = pgrx::pg_getarg_datum(fcinfo, number)?;
        let varlena = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        let bytes = std::slice::from_raw_parts(
            pgrx::vardata_any(varlena).cast::<u8>(),
            pgrx::varsize_any_exhdr(varlena),
        );
        Some(utf8(bytes))
    }
}

/// The text of a jsonb argument, in UTF-8.
unsafe fn json(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> Option<String> {
    // SAFETY: as the caller promises; the output function's text lies in the memory of the call.
    unsafe {
        let datum = pgrx::pg_getarg_datum(fcinfo, number)?;
        let text = pg_sys::OidOutputFunctionCall(pg_sys::Oid::from(pg_sys::F_JSONB_OUT), datum);
        Some(utf8(CStr::from_ptr(text).to_bytes()))
    }
}
