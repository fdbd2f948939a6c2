//! What batches and the ends of chunks tell the snapshots under way, and what the end of one writes.

use crate::sink::mongo_history::identity::rekeyed_rows;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Code, Result};
use crate::event::Headers;
use crate::event::Op;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::sink::batch::Batch;
use crate::sink::mongo_history::documents::document::identity;
use crate::sink::mongo_history::documents::history_body::HistoryBody;
use crate::sink::mongo_history::parked::store::Aside;
use crate::sink::mongo_history::snapshot::vanished_rows::End;
use crate::sink::mongo_history::tables::admission::Claim;
use crate::sink::unreadable_snapshot;

use crate::sink::mongo_history::history::{History, not_connected};
/// The entities of rows that a chunk left out, for they were changed before it.
async fn changed(
    history: &mut History,
    topic: &str,
    headers: &Headers<'_>,
    body: &SnapshotBody<'_>,
) -> Result<Vec<String>> {
    let mut entities = Vec::new();
    for key in body.changed() {
        let key = std::str::from_utf8(key).ok();
        entities.extend(history.entity_of(topic, headers, key).await?);
    }
    Ok(entities)
}

/// Notes for the snapshots under way which rows are there though the batch has brought no document of them, and what the
/// ends of chunks say.
pub(crate) async fn note(
    history: &mut History,
    batch: &Batch,
    left_out: Vec<(usize, String)>,
    asides: &[Aside<'_>],
) -> Result<()> {
    let mut there: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut partial = BTreeSet::new();
    for (place, entity) in left_out {
        let topic = &*batch.records[place].topic;
        there.entry(topic).or_default().insert(entity);
    }
    for Aside {
        record, failure, ..
    } in asides
    {
        // What is forged says nothing of the topic's table.
        if failure.as_ref().is_some_and(Failure::is_forged) {
            continue;
        }
        match Headers::read(record) {
            Ok(headers) if headers.op.is_row() => {
                match history
                    .entity_of(&record.topic, &headers, identity(record, &headers))
                    .await?
                {
                    Some(entity) => {
                        there.entry(&record.topic).or_default().insert(entity);
                    }
                    None => {
                        partial.insert(&*record.topic);
                    }
                }
            }
            Ok(headers) if headers.op != Op::Snapshot => {}
            // Nobody knows which row it is about.
            _ => {
                partial.insert(&*record.topic);
            }
        }
    }
    for record in &batch.records {
        if record.op() == Some(Op::Snapshot)
            && let (Ok(headers), Ok(body)) = (Headers::read(record), SnapshotBody::parse(record))
        {
            if body.is_partial() {
                partial.insert(&*record.topic);
            }
            there
                .entry(&record.topic)
                .or_default()
                .extend(changed(history, &record.topic, &headers, &body).await?);
        }
    }
    let snapshots = &mut history.connection()?.snapshots;
    for topic in partial {
        snapshots.set_partial(topic).await?;
    }
    for (topic, entities) in there {
        if snapshots.takes_notes(topic) {
            snapshots.note(topic, &entities).await?;
        }
    }
    Ok(())
}

/// Whether the beginning or end of a snapshot cannot come from its topic's table.
pub(crate) async fn is_refused_together(
    history: &mut History,
    record: &Record,
    headers: &Headers<'_>,
) -> Result<bool> {
    let several_topics = history.settings.several_topics.clone();
    let told = Claim::by(record, headers).ok().flatten();
    let Some(told) = told else { return Ok(true) };
    let admission = &mut history.connection()?.admission;
    let refused = admission
        .refused(record, headers, &told, &several_topics)
        .await?;
    if let Some(failure) = &refused {
        tracing::warn!(sink = history.name, topic = %record.topic, code = %failure.code, "passed over: {}", failure.message);
    }
    Ok(refused.is_some())
}

/// Writes what the end of a snapshot says.
pub(crate) async fn end_snapshot(
    history: &mut History,
    record: &Record,
    headers: &Headers<'_>,
    body: &SnapshotBody<'_>,
) -> Result<()> {
    let event = HistoryBody::parse(record, headers.op).map_err(unreadable_snapshot)?;
    let template = history.settings.collection.clone();
    let connection = history.connection()?;
    if body.is_partial() {
        connection.snapshots.set_partial(&record.topic).await?;
    }
    if let Some(snapshot) = connection.snapshots.whole(&record.topic, body.id()) {
        // What waits may say otherwise.
        let parked = history.parked.of_topic(&record.topic);
        let parked: Vec<Vec<u8>> = parked.map(<[u8]>::to_vec).collect();
        let mut there = BTreeSet::from_iter(changed(history, &record.topic, headers, body).await?);
        for key in parked {
            let key = std::str::from_utf8(&key).ok();
            there.extend(history.entity_of(&record.topic, headers, key).await?);
        }
        let connection = history.connection.as_mut().ok_or_else(not_connected)?;
        connection.snapshots.note(&record.topic, &there).await?;
        let told = rekeyed_rows::told_by_row(record, headers, &event, &[]);
        let lineage = connection.tables.learn(&told, &template).await?;
        let (table, name) = (lineage.id.clone(), lineage.collection.clone());
        let collection = match connection.collection(&name).await {
            Ok(collection) => collection,
            // Nothing of the table is there that could be gone.
            Err(error) if error.code == Code::CollectionRefused => {
                return connection.snapshots.end(&record.topic, body.id()).await;
            }
            Err(error) => return Err(error),
        };
        let end = End {
            collection: &collection,
            table: &table,
            snapshots: &connection.snapshots,
            snapshot: &snapshot,
            record,
            headers,
            body: &event,
            source_name: &history.source_name,
            names: connection.names,
            mending: history.mending.as_deref(),
        };
        let gone = end.write_inferred_deletes().await?;
        tracing::info!(
            sink = history.name,
            collection = name,
            gone,
            "a snapshot of the source ended"
        );
    }
    let snapshots = &mut history.connection()?.snapshots;
    snapshots.end(&record.topic, body.id()).await
}
