//! A batch of rows in a transaction of its own: of each key the last state.

use crate::event::Op;
use crate::sink::postgres::write::newest_versions;

use crate::error::Result;
use crate::event::Headers;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::sink::batch::Applied;
use crate::sink::batch::Batch;
use crate::sink::postgres::connection::IMMEDIATE;
use crate::sink::postgres::failure::Fault;
use crate::sink::postgres::parked::store::ParkedKeys;
use crate::sink::postgres::write::change::RowChange;
use crate::sink::postgres::write::rows::Mode;
use crate::sink::postgres::write::rows::SetAside;
use crate::sink::postgres::write::rows::apply;
use crate::sink::postgres::write::rows::apply_apart;
use crate::sink::postgres::write::rows::is_parked;
use crate::sink::postgres::write::rows::park_key;
use crate::sink::postgres::write::rows::waits;
use crate::sink::postgres::write::stream::Stream;
use crate::sink::unreadable_snapshot;

use crate::rejected::failure::NotApplied;
use crate::sink::postgres::parked::park::Park;
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::replica::TargetConnection;
use crate::sink::postgres::replica::not_connected;
use crate::sink::postgres::write::whole_table;

/// How the transaction of a batch ended.
pub(crate) enum BatchEnd {
    Committed(Applied),
    /// The target refused it at its end only.
    RefusedAtCommit(Fault),
}

/// Makes the batch's row events ready, but those that are set aside or wait behind such a one.
async fn changes<'b>(
    replica: &mut Replica,
    batch: &'b Batch,
    parks: &mut Vec<Park<'b>>,
) -> Result<Vec<RowChange<'b>>> {
    let mut changes = Vec::with_capacity(batch.records.len());
    let mut aside = ParkedKeys::new();
    for record in &batch.records {
        if record.is_disbelieved {
            parks.push(Park::apart(record, Failure::unbelievable()));
            continue;
        }
        let headers = match Headers::read(record) {
            Ok(headers) => headers,
            Err(malformed) => {
                let key = record.key().unwrap_or_default();
                aside.insert((record.topic.clone(), key.into()));
                parks.push(Park::refused(record, key, malformed.into()));
                continue;
            }
        };
        if !headers.op.is_row() {
            if let Some(failure) = whole_table::refused_apart(replica, record, &headers).await? {
                parks.push(Park::apart(record, failure));
            }
            continue;
        }
        match replica
            .change(record, &headers, &mut Stream::default())
            .await
        {
            Ok(change) if is_parked(&change, &aside) => {
                park_key(&change, &mut aside);
                parks.push(Park::of(&change, None));
            }
            Ok(change) => changes.push(change),
            Err(NotApplied::Failed(error)) => return Err(error),
            Err(NotApplied::Refused(failure)) => {
                let parked = &replica.connection()?.parked;
                let waits = waits(record, &headers, parked) || waits(record, &headers, &aside);
                let failure = (!waits || failure.is_forged()).then_some(failure);
                parks.push(Park::aside(record, &headers, failure, &mut aside));
            }
        }
    }
    Ok(changes)
}

/// Opens the transaction, moves the offsets, applies the changes. The transaction stays open.
async fn apply_in_transaction<'b>(
    replica: &mut Replica,
    batch: &Batch,
    changes: &'b [RowChange<'b>],
    parks: &mut Vec<Park<'b>>,
) -> Result<()> {
    let state = &replica.state;
    let Some(TargetConnection {
        session,
        tables,
        parked,
        is_replica,
        ..
    }) = replica.connection.as_mut()
    else {
        return Err(not_connected());
    };
    state.begin_transaction(session, "").await?;
    state.advance(session, &batch.moves).await?;
    let old_keys: Vec<&[u8]> = changes.iter().filter_map(|change| change.old_key).collect();
    let parked_elsewhere = match old_keys.is_empty() {
        true => ParkedKeys::default(),
        // They may lie in partitions of other instances.
        false => {
            let parked_events = state.parked_events();
            parked_events.among(&session.client, &old_keys).await?
        }
    };
    let mut to_apply = Vec::with_capacity(changes.len());
    for change in changes {
        if is_parked(change, parked) || is_parked(change, &parked_elsewhere) {
            park_key(change, parked);
            parks.push(Park::of(change, None));
        } else {
            to_apply.push(change);
        }
    }
    let mut applied = apply(session, tables, &to_apply, Mode::Upsert).await;
    if applied.is_ok() && (replica.looks_before_commit || !*is_replica) {
        // At the end of the transaction nobody could tell which event it is.
        applied = session.check_constraints().await;
    }
    match applied {
        Ok(()) => return Ok(()),
        Err(Fault::Other(error)) => return Err(error),
        Err(Fault::Event(_) | Fault::Doubtful { .. } | Fault::Lack(_)) => {}
    }
    session.execute("ROLLBACK").await?;
    state.begin_transaction(session, IMMEDIATE).await?;
    state.advance(session, &batch.moves).await?;
    let SetAside { refused, behind } = apply_apart(session, tables, &to_apply, parked).await?;
    for (change, failure) in refused {
        parks.push(Park::of(change, Some(failure)));
    }
    for change in behind {
        parks.push(Park::of(change, None));
    }
    Ok(())
}

/// Applies a batch and commits; what the target refused it for at its end.
pub(crate) async fn apply_batch(
    replica: &mut Replica,
    batch: &Batch,
    dead_letters: &DeadLetters,
) -> Result<BatchEnd> {
    let mut parks = Vec::new();
    let changes = changes(replica, batch, &mut parks).await?;
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    newest_versions::make_ready(&mut connection.session, &connection.tables, &changes).await?;
    apply_in_transaction(replica, batch, &changes, &mut parks).await?;
    if !parks.is_empty() {
        replica.park(&parks, dead_letters).await?;
    }
    note_chunks(replica, batch, &parks).await?;
    let connection = replica.connection()?;
    if let Some(doubt) = connection.session.commit().await? {
        return Ok(BatchEnd::RefusedAtCommit(doubt.fault));
    }
    Ok(BatchEnd::Committed(Applied {
        dead_letters: parks
            .iter()
            .filter_map(|park| Some(park.failure.as_ref()?.reason.clone()))
            .collect(),
        parked_keys: connection.parked.len() as u64,
        unknown_rows: std::mem::take(&mut connection.session.unknown_rows),
    }))
}

/// Notes what the ends of a snapshot's chunks say, in the open transaction.
async fn note_chunks(replica: &mut Replica, batch: &Batch, parks: &[Park<'_>]) -> Result<()> {
    let state = &replica.state;
    let TargetConnection { session, .. } = replica.connection.as_ref().ok_or_else(not_connected)?;
    let ends = batch.records.iter();
    let is_apart = |record: &Record| {
        let mut parks = parks.iter();
        parks.any(|park| std::ptr::eq(park.record, record))
    };
    let ends = ends.filter(|record| record.op() == Some(Op::Snapshot) && !is_apart(record));
    let mut ends: Vec<&Record> = ends.collect();
    // One order for all instances, as of the moves.
    ends.sort_by(|a, b| a.topic.cmp(&b.topic));
    for record in ends {
        let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
        state
            .snapshots()
            .keep(&session.client, record, &body)
            .await?;
    }
    Ok(())
}
