//! The refused events of a history, in its database.

use change::event::headers::HeaderName;
use std::collections::HashMap;

use crate::error::Result;
use crate::kafka::record::Record;
use crate::rejected::page::At;
use crate::rejected::page::PagePart;
use crate::rejected::parked_event::{Action, Decider, Decision, Holds, Parked};
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::parked::store::ParkedDocuments;
use crate::sink::mongo_history::tables::schemas::expressions_at;

/// The refused events whose id begins with `id`, the oldest first; with `reason` those of that reason. Without their values.
pub(crate) async fn refused(
    events: &ParkedDocuments,
    id: &str,
    reason: Option<&str>,
    part: Option<&PagePart>,
) -> Result<Vec<Parked>> {
    let (after, limit) = match part {
        Some(PagePart::Some(after, limit)) => (after.as_ref(), *limit),
        _ => (None, usize::MAX),
    };
    // First the decisions: an event that is settled in between is in neither.
    let mut open: HashMap<String, Decision> = HashMap::new();
    for action in events.actions.open().await? {
        open.insert(action.event_id, action.decision);
    }
    let mut refused = Vec::new();
    for head in events.refused().await? {
        let is_meant = head.event_id.starts_with(id)
            && reason.is_none_or(|reason| head.failure.reason == reason);
        let is_before = after.is_some_and(|after| At::of(&head.record) <= *after);
        if !is_meant || is_before {
            continue;
        }
        if refused.len() >= limit {
            break;
        }
        let (holds, behind) = match &head.key {
            Some(key) => (
                Holds::Key,
                events.count_behind(&head.record.topic, key).await?,
            ),
            None => (Holds::Nothing, 0),
        };
        let key = head.key.as_deref().or(head.record.key());
        refused.push(Parked {
            key: key.unwrap_or_default().to_vec(),
            decision: open.remove(&head.event_id),
            record: head.record,
            event_id: head.event_id,
            failure: Some(head.failure),
            holds,
            behind,
        });
    }
    Ok(refused)
}

/// The value of an event; empty for one that is gone.
pub(crate) async fn body(events: &ParkedDocuments, event_id: &str) -> Result<Vec<u8>> {
    Ok(events.value(event_id).await?.unwrap_or_default())
}

/// The types of the columns of an event, as far as its source has told them.
pub(crate) async fn types(
    events: &ParkedDocuments,
    record: &Record,
) -> Result<Option<ColumnTypes>> {
    match (record.header(HeaderName::TABLE.as_str()), record.version()) {
        (Some(table), Some(version)) => expressions_at(events.database(), table, version)
            .await
            .map_err(|error| classify("reading a schema", &error)),
        _ => Ok(None),
    }
}

/// What was decided about an event, the oldest first.
pub(crate) async fn actions(events: &ParkedDocuments, event_id: &str) -> Result<Vec<Action>> {
    events.actions.of_event(event_id).await
}

/// Notes a decision; the active instance looks for it.
pub(crate) async fn decide(
    events: &ParkedDocuments,
    event_id: &str,
    decision: &Decision,
    decider: Decider<'_>,
) -> Result<()> {
    let original = match decision {
        Decision::Edit(_) => events.kept_value(event_id).await?,
        _ => None,
    };
    let entity = events.entity(event_id).await?;
    events
        .actions
        .note(event_id, decision, decider, original, entity)
        .await
}
