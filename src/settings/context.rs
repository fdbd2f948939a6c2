//! Who changed a row and why, as the application says it.

use std::cell::Cell;
use std::ffi::{c_char, c_void};

use pgrx::guc::{GucContext, GucFlags};

use super::text::{Text, check_hook, define_text};

pub(crate) static ACTOR: Text = Text::new(Some(c""));
pub(crate) static REASON: Text = Text::new(Some(c""));
pub(crate) static REQUEST_ID: Text = Text::new(Some(c""));
/// What `cdc_context(context => …)` set: a JSON object, empty for none. Local to the transaction, as SET LOCAL is.
pub(crate) static CONTEXT: Text = Text::new(Some(c""));
pub(crate) static CONTEXT_SETTINGS: Text = Text::new(Some(c""));

/// The longest actor, reason or request id, in bytes.
const MAX_CONTEXT_BYTES: usize = 1024;

thread_local! {
    /// Rises whenever a setting that belongs to who and why is assigned: capture reads them again only then.
    static CONTEXT_GENERATION: Cell<u64> = const { Cell::new(0) };
}

/// Changes with every assignment of a setting that says who or why.
#[inline]
pub(crate) fn context_generation() -> u64 {
    CONTEXT_GENERATION.get()
}

/// Defines these settings.
pub(super) fn define() {
    let none = GucFlags::default();
    define_text(
        c"cdc.actor",
        c"Who is behind a change, as the application knows it.",
        c"SET LOCAL cdc.actor = 'ann', or cdc_context('ann').",
        &ACTOR,
        GucContext::Userset,
        none,
        Some(check_context_text),
        Some(context_assigned),
    );
    define_text(
        c"cdc.reason",
        c"Why the change is made.",
        c"SET LOCAL cdc.reason = '…', or cdc_context(reason => '…').",
        &REASON,
        GucContext::Userset,
        none,
        Some(check_context_text),
        Some(context_assigned),
    );
    define_text(
        c"cdc.request_id",
        c"The application's id of the request behind a change.",
        c"SET LOCAL cdc.request_id = '…', or cdc_context(request_id => '…').",
        &REQUEST_ID,
        GucContext::Userset,
        none,
        Some(check_context_text),
        Some(context_assigned),
    );
    define_text(
        c"cdc.context",
        c"Further context of a change, a JSON object.",
        c"Set by cdc_context(context => '{…}').",
        &CONTEXT,
        GucContext::Userset,
        GucFlags::NO_SHOW_ALL,
        Some(check_context_json),
        Some(context_assigned),
    );
    define_text(
        c"cdc.context_settings",
        c"Names of further settings to record with each change.",
        c"A list: request.jwt.claims, app.tenant",
        &CONTEXT_SETTINGS,
        GucContext::Suset,
        none,
        None,
        Some(context_assigned),
    );
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn context_assigned(_value: *const c_char, _extra: *mut c_void) {
    CONTEXT_GENERATION.set(CONTEXT_GENERATION.get().wrapping_add(1));
}

check_hook!(check_context_text, |text| {
    if text.len() <= MAX_CONTEXT_BYTES {
        Ok(())
    } else {
        Err(format!("It must have at most {MAX_CONTEXT_BYTES} bytes."))
    }
});

check_hook!(check_context_json, |text| {
    type Object = serde_json::Map<String, serde_json::Value>;
    if text.is_empty() || serde_json::from_str::<Object>(text).is_ok() {
        Ok(())
    } else {
        Err("It must be a JSON object.".into())
    }
});
