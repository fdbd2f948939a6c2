//! `cdc_context`: who and why, for what follows in this transaction.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::arguments;
use crate::settings;
use crate::text::server_text;

#[derive(Deserialize)]
struct Given {
    actor: Option<String>,
    reason: Option<String>,
    request_id: Option<String>,
    context: Option<Value>,
}

/// Sets what is given, as SET LOCAL does; `context` is merged into the context so far, key by key. `cdc_context` in
/// `sql/functions.sql` calls it.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_context(request bytea) RETURNS void LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn set_context(request: &[u8]) {
    let given: Given = arguments::read(request);
    for (name, value) in [
        (c"cdc.actor", given.actor),
        (c"cdc.reason", given.reason),
        (c"cdc.request_id", given.request_id),
    ] {
        if let Some(value) = value {
            set_local(name, &value);
        }
    }
    if let Some(context) = given.context {
        let Value::Object(given) = context else {
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
        let mut merged: Map<_, _> = serde_json::from_str(&so_far).unwrap_or_default();
        merged.extend(given);
        set_local(c"cdc.context", &ascii(&Value::Object(merged).to_string()));
    }
}

/// JSON with every other character escaped: the same in every encoding that a database may have.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

fn set_local(name: &CStr, value: &str) {
    let value = server_text(value);
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
