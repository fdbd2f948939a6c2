//! `cdc_context`: who and why, for what follows in this transaction.

use std::ffi::{CStr, CString};

use pgrx::JsonB;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::settings;

/// Sets what is given, as SET LOCAL does; `context` is merged into the context so far, key by key.
#[pg_extern(parallel_unsafe)]
fn cdc_context(
    actor: default!(Option<&str>, "NULL"),
    reason: default!(Option<&str>, "NULL"),
    request_id: default!(Option<&str>, "NULL"),
    context: default!(Option<JsonB>, "NULL"),
) {
    for (name, value) in [
        (c"cdc.actor", actor),
        (c"cdc.reason", reason),
        (c"cdc.request_id", request_id),
    ] {
        if let Some(value) = value {
            set_local(name, value);
        }
    }
    if let Some(JsonB(given)) = context {
        let serde_json::Value::Object(given) = given else {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "context must be a JSON object",
                "cdc_context",
            )
            .set_hint("Pass an object, such as '{\"ticket\": 7}'.")
            .report(PgLogLevel::ERROR);
            return;
        };
        let so_far = settings::text(&settings::CONTEXT);
        let mut merged: serde_json::Map<_, _> = serde_json::from_str(&so_far).unwrap_or_default();
        merged.extend(given);
        set_local(
            c"cdc.context",
            &serde_json::Value::Object(merged).to_string(),
        );
    }
}

fn set_local(name: &CStr, value: &str) {
    // PostgreSQL's text holds no zero byte.
    let value = CString::new(value).unwrap_or_default();
    // SAFETY: both are zero-ended and copied; a refused value is an ERROR.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}
