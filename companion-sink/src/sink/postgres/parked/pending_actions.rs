//! Carries out what people decided about parked events, between two batches: of each key in order, until one is refused again.

use std::time::Instant;

use crate::error::Result;
use crate::event::Headers;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::rejected::failure::NotApplied;
use crate::rejected::parked_event::{Decision, Parked};
use crate::sink::postgres::connection::IMMEDIATE;
use crate::sink::postgres::failure::Fault;
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::replica::TargetConnection;
use crate::sink::postgres::replica::not_connected;
use crate::sink::postgres::write::newest_versions;
use crate::sink::postgres::write::refusal;
use crate::sink::postgres::write::rows::{Mode, apply};
use crate::sink::postgres::write::stream::Stream;

/// Carries out all decisions that are there, where instances share partitions those about its own; how many keys are parked
/// then.
pub(crate) async fn carry_out(replica: &mut Replica, dead_letters: &DeadLetters) -> Result<u64> {
    let is_shared = replica.is_shared();
    let client = &replica.connection()?.session.client.clone();
    if is_shared && !replica.connection()?.parked.is_empty() {
        replica.state.parked_events().retry_unique(client).await?;
    }
    let decided = replica.state.decisions().decided_keys(client).await?;
    if !decided.is_empty() {
        // The target may have been corrected since its tables were looked at.
        replica.connection()?.forget_tables();
    }
    for (at, key) in decided {
        if is_shared && !replica.connection()?.sharing.owned.contains(&at) {
            continue;
        }
        let topic = &*at.topic;
        let session = &mut replica
            .connection
            .as_mut()
            .ok_or_else(not_connected)?
            .session;
        replica.state.begin_transaction(session, IMMEDIATE).await?;
        let is_free = carry_out_key(replica, topic, &key, dead_letters).await?;
        if is_free {
            let parked_events = replica.state.parked_events();
            parked_events.retry_renamed(client, topic, &key).await?;
        }
        replica.connection()?.session.execute("COMMIT").await?;
        if is_free {
            let parked = &mut replica.connection()?.parked;
            parked.remove(&(at.topic.clone(), key.into_boxed_slice()));
        }
        tracing::info!(
            sink = replica.name,
            topic,
            is_free,
            "parked events were tried again"
        );
    }
    let parked_keys = replica.connection()?.parked.len();
    replica.retry_at = match is_shared && parked_keys > 0 {
        true => replica.state.parked_events().until_retry(client).await?,
        false => None,
    }
    .map(|pause| Instant::now() + pause);
    Ok(parked_keys as u64)
}

/// Applies the events of a key in the open transaction; whether none is left.
async fn carry_out_key(
    replica: &mut Replica,
    topic: &str,
    key: &[u8],
    dead_letters: &DeadLetters,
) -> Result<bool> {
    let client = replica.connection()?.session.client.clone();
    let events = replica
        .state
        .parked_events()
        .of_key(&client, topic, key)
        .await?;
    for event in &events {
        let Parked {
            record,
            failure,
            decision,
            ..
        } = event;
        let edited = match decision {
            Some(Decision::Edit(body)) => Some(record.with_value(body)),
            _ => None,
        };
        let refused = match (failure, decision) {
            (Some(_), None) => return Ok(false),
            (_, Some(Decision::Skip)) => None,
            _ => apply_alone(replica, edited.as_ref().unwrap_or(record)).await?,
        };
        let Some(refused) = refused else {
            replica
                .state
                .parked_events()
                .forget(&client, record)
                .await?;
            continue;
        };
        if failure.is_none() {
            dead_letters
                .send(&replica.name, &[(record, &refused)])
                .await?;
        }
        replica
            .state
            .parked_events()
            .refuse(&client, record, &refused)
            .await?;
        return Ok(false);
    }
    Ok(true)
}

/// Applies one row event in the open transaction; why it was refused.
async fn apply_alone(replica: &mut Replica, record: &Record) -> Result<Option<Failure>> {
    let headers = match Headers::read(record) {
        Ok(headers) => headers,
        Err(malformed) => return Ok(Some(malformed.into())),
    };
    let change = match replica
        .change(record, &headers, &mut Stream::default())
        .await
    {
        Ok(change) => change,
        Err(NotApplied::Refused(failure)) => return Ok(Some(failure)),
        Err(NotApplied::Failed(error)) => return Err(error),
    };
    let Some(TargetConnection {
        session, tables, ..
    }) = replica.connection.as_mut()
    else {
        return Err(not_connected());
    };
    newest_versions::make_ready(session, tables, std::slice::from_ref(&change)).await?;
    let begin = session.begin_part();
    session.execute(begin).await?;
    match apply(session, tables, &[&change], Mode::Upsert).await {
        Ok(()) => {
            session.keep_part();
            Ok(None)
        }
        Err(Fault::Other(error)) => Err(error),
        Err(fault) => {
            session.undo_part().await?;
            let table = tables.get(change.table);
            let told = refusal::told(&session.client, table, &change, fault).await?;
            Ok(Some(told.failure))
        }
    }
}
