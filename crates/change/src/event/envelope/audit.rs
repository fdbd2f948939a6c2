//! Who changed a row, and why.

use crate::value::datetime::EPOCH_US;
use crate::value::json::{put_integer, put_optional_string};
use crate::wal::context::Context;

/// Renders the `audit` object.
pub(in crate::event) fn put_audit(out: &mut Vec<u8>, context: &Context<'_>, statement_us: i64) {
    out.clear();
    let mut name = b"\"audit\":{\"actor\":".as_slice();
    for (text, next) in [
        (context.actor, b",\"reason\":".as_slice()),
        (context.reason, b",\"request_id\":"),
        (context.request_id, b",\"session_user\":"),
        (context.session_user, b",\"current_user\":"),
        (context.current_user, b",\"application_name\":"),
        (context.application_name, b",\"client_addr\":"),
        (context.client_addr, b",\"pid\":"),
    ] {
        out.extend_from_slice(name);
        put_optional_string(out, text);
        name = next;
    }
    out.extend_from_slice(name);
    put_integer(out, context.pid);
    out.extend_from_slice(b",\"transaction_ts_us\":");
    put_integer(out, context.transaction_us.saturating_add(EPOCH_US));
    out.extend_from_slice(b",\"statement_ts_us\":");
    put_integer(out, statement_us.saturating_add(EPOCH_US));
    out.extend_from_slice(b",\"context\":");
    out.extend_from_slice(context.context.unwrap_or("{}").as_bytes());
    out.push(b'}');
}

/// W3C trace context that the application put into its `cdc_context`.
pub(in crate::event) fn traceparent(context: &Context<'_>) -> Option<String> {
    let context = context
        .context
        .filter(|context| context.contains("\"traceparent\""))?;
    let parsed: serde_json::Value = serde_json::from_str(context).ok()?;
    parsed.get("traceparent")?.as_str().map(str::to_owned)
}
