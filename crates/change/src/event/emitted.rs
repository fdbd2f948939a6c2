//! Events of the application's own.

use super::commit::Numbers;
use super::envelope::RowContext;
use super::headers::{HeaderName, Headers};
use super::op::Op;
use super::record::{Destination, Emit, Event, Stage};
use crate::wal::context::Context;
use crate::wal::emission::Emission;
use crate::wire::WireError;

/// An event of the application's own: its payload alone, who and why as headers.
pub(super) fn emitted<E: From<WireError>>(
    numbers: &mut Numbers,
    headers: &mut Headers,
    here: &RowContext<'_, '_>,
    emission: &Emission<'_>,
    context: &Context<'_>,
    emit: &mut Emit<'_, E>,
) -> Result<(), E> {
    numbers.count();
    headers.clear();
    headers.add(HeaderName::ID, |out| {
        numbers.put_emitted_id(out, here.row.state.sequence);
    });
    headers.add(HeaderName::VERSION, |out| numbers.put_version(out, 0));
    headers.add_text(HeaderName::OP, Op::Emit.header());
    headers.add(HeaderName::TRANSACTION, |out| numbers.put_order(out));
    for (name, text) in [
        (HeaderName::ACTOR, context.actor),
        (HeaderName::REASON, context.reason),
        (HeaderName::REQUEST_ID, context.request_id),
        (HeaderName::TRACEPARENT, here.texts.traceparent.as_deref()),
    ] {
        if let Some(text) = text {
            headers.add_text(name, text);
        }
    }
    for (name, value) in &emission.headers {
        headers.add_given(name, value);
    }
    emit(&Event {
        sequence: numbers.sequence(),
        topic: here.relation.topic,
        destination: Destination::Topic,
        key: emission.key.map(str::as_bytes),
        value: emission.payload.map(str::as_bytes),
        headers,
        can_shrink: false,
        stage: Stage::Sent,
    })
    .map(drop)
}
