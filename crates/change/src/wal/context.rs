//! Who changed rows, and why.

use crate::wire::{Cursor, WireError, put_bytes, put_optional};

/// Who changed it and why, as read once per transaction and again when changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context<'a> {
    /// Start of the transaction, microseconds since 2000-01-01.
    pub transaction_us: i64,
    pub pid: i32,
    pub session_user: Option<&'a str>,
    pub current_user: Option<&'a str>,
    pub application_name: Option<&'a str>,
    pub client_addr: Option<&'a str>,
    pub actor: Option<&'a str>,
    pub reason: Option<&'a str>,
    pub request_id: Option<&'a str>,
    /// Further settings and what `cdc_context` was given: one JSON object.
    pub context: Option<&'a str>,
    /// Name of the replication origin whose changes these are, for rows that a subscription applied.
    pub origin: Option<&'a str>,
}

/// Appends a context with its length.
pub fn put_context(out: &mut Vec<u8>, context: &Context<'_>) {
    let mut blob = Vec::with_capacity(128);
    blob.extend_from_slice(&context.transaction_us.to_le_bytes());
    blob.extend_from_slice(&context.pid.to_le_bytes());
    for text in [
        context.session_user,
        context.current_user,
        context.application_name,
        context.client_addr,
        context.actor,
        context.reason,
        context.request_id,
        context.context,
        context.origin,
    ] {
        put_optional(&mut blob, text);
    }
    put_bytes(out, &blob);
}

/// Gives a context that [`put_context`] wrote another start of the transaction.
pub fn set_transaction(context: &mut [u8], transaction_us: i64) {
    // Behind the length.
    if let Some(length_bytes) = context.iter().position(|byte| *byte < 0x80)
        && let Some(place) = context.get_mut(length_bytes + 1..length_bytes + 9)
    {
        place.copy_from_slice(&transaction_us.to_le_bytes());
    }
}

pub(super) fn read_context(blob: &[u8]) -> Result<Context<'_>, WireError> {
    let mut cursor = Cursor::new(blob);
    Ok(Context {
        transaction_us: cursor.i64()?,
        pid: cursor.u32()? as i32,
        session_user: cursor.optional()?,
        current_user: cursor.optional()?,
        application_name: cursor.optional()?,
        client_addr: cursor.optional()?,
        actor: cursor.optional()?,
        reason: cursor.optional()?,
        request_id: cursor.optional()?,
        context: cursor.optional()?,
        origin: cursor.optional()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_transactions_start_is_replaced() {
        for reason in ["moved", &"long ".repeat(100)] {
            let before = Context {
                transaction_us: 1,
                pid: 7,
                reason: Some(reason),
                ..Context::default()
            };
            let mut blob = Vec::new();
            put_context(&mut blob, &before);
            set_transaction(&mut blob, -2);
            let read = Cursor::new(&blob).bytes().map(read_context);
            let after = Context {
                transaction_us: -2,
                ..before
            };
            assert_eq!(read, Ok(Ok(after)));
        }
    }
}
