//! What becomes of events that cannot be written: they and the later ones of their keys are put aside before the offset moves.

use crate::event::Op;
use mongodb::bson::{RawDocumentBuf, doc};

use crate::error::Result;
use crate::event::Headers;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::{Failure, NotApplied};
use crate::sink::batch::Batch;
use crate::sink::mongo_history::documents::document::identity;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::history::{History, not_connected};
use crate::sink::mongo_history::parked::keys::{key_of, version_of};
use crate::sink::mongo_history::parked::store::Aside;
use crate::sink::mongo_history::tables::admission::Claim;
use crate::sink::mongo_history::write::pending::{Documents, Inserted, Pending};

/// Builds the documents of a batch; what is refused, and what is behind that, goes aside.
pub(crate) async fn documents<'b>(
    history: &mut History,
    batch: &'b Batch,
    asides: &mut Vec<Aside<'b>>,
) -> Result<Documents> {
    let mut documents = Documents::new();
    let_topics_go(history, batch).await?;
    for (place, record) in batch.records.iter().enumerate() {
        if history.is_beyond(record) || put_behind(history, place, record, asides) {
            continue;
        }
        match history.made(record).await {
            Ok(None) => {}
            Ok(Some((collection, document))) => {
                let pending = Pending { place, document };
                documents.entry(collection).or_default().push(pending);
            }
            Err(NotApplied::Refused(failure)) => {
                put_aside(history, place, record, failure, asides);
            }
            Err(NotApplied::Failed(error)) => return Err(error),
        }
    }
    Ok(documents)
}

/// Looks first at what gives a table up: the topic that has it from now on may stand before it in the batch.
async fn let_topics_go(history: &mut History, batch: &Batch) -> Result<()> {
    let definitions = batch.records.iter();
    for record in definitions.filter(|record| record.op() == Some(Op::Schema)) {
        let Ok(headers) = Headers::read(record) else {
            continue;
        };
        if let Ok(Some(told)) = Claim::by(record, &headers)
            && told.is_farewell
            && !record.is_disbelieved
        {
            let admission = &mut history.connection()?.admission;
            // What is refused is so once more in its turn.
            let _ = admission.refused(record, &headers, &told, &[]).await?;
        }
    }
    Ok(())
}

/// Puts aside what the server refused. Later events of the same keys that went in with it are taken out again, to wait.
pub(crate) async fn put_refused_aside<'b>(
    history: &mut History,
    batch: &'b Batch,
    inserted: &mut Inserted,
    asides: &mut Vec<Aside<'b>>,
) -> Result<()> {
    if inserted.refused.is_empty() {
        return Ok(());
    }
    let mut refused = std::mem::take(&mut inserted.refused);
    let mut behind = Vec::new();
    for (place, record) in batch.records.iter().enumerate() {
        if let Some(failure) = refused.remove(&place) {
            put_aside(history, place, record, failure, asides);
        } else if inserted.collections.contains_key(&place)
            && put_behind(history, place, record, asides)
        {
            behind.push((place, record));
        }
    }
    asides.sort_by_key(|aside| aside.place);
    take_out(history, &behind, inserted).await
}

/// Takes the documents of events out again.
pub(crate) async fn take_out(
    history: &mut History,
    events: &[(usize, &Record)],
    inserted: &mut Inserted,
) -> Result<()> {
    for (place, record) in events {
        inserted.left_out.retain(|(left_out, _)| left_out != place);
        if let Some(name) = inserted.collections.get(place) {
            let database = &history.connection()?.database;
            let deleted = database
                .collection::<RawDocumentBuf>(name)
                .delete_one(doc! { "_id": record.event_id() })
                .await;
            deleted.map_err(|error| classify("taking out what has to wait", &error))?;
        }
    }
    Ok(())
}

/// Keeps what is aside, and sends what was refused to the dead letters.
pub(crate) async fn park(
    history: &mut History,
    batch: &Batch,
    asides: &mut [Aside<'_>],
    dead_letters: &DeadLetters,
) -> Result<()> {
    if asides.is_empty() {
        return Ok(());
    }
    for aside in asides.iter_mut() {
        let headers = Headers::read(aside.record).ok();
        if let Some(headers) = headers.filter(|headers| headers.op.is_row()) {
            let identity = identity(aside.record, &headers);
            aside.entity = history
                .entity_of(&aside.record.topic, &headers, identity)
                .await?;
        }
    }
    let asides = &*asides;
    // Where another instance has gone on, people may have decided already.
    history.connection()?.offsets.check(&batch.moves).await?;
    let refused = asides
        .iter()
        .filter_map(|aside| Some((aside.record, aside.failure.as_ref()?)));
    let letters: Vec<_> = refused.collect();
    if !letters.is_empty() {
        dead_letters.send(&history.name, &letters).await?;
    }
    let connection = history.connection.as_ref().ok_or_else(not_connected)?;
    connection.parked_events.park(asides).await
}

fn put_aside<'b>(
    history: &mut History,
    place: usize,
    record: &'b Record,
    failure: Failure,
    asides: &mut Vec<Aside<'b>>,
) {
    // Nothing waits behind what cannot come from the topic's table.
    let key = key_of(record).filter(|_| !failure.is_forged());
    let key: Option<Box<[u8]>> = key.map(Box::from);
    history
        .parked
        .add(&record.topic, version_of(record), key.clone(), None);
    asides.push(Aside {
        place,
        record,
        key,
        waits_for: None,
        entity: None,
        failure: Some(failure),
    });
}

/// Puts an event aside that has to wait; whether it has to.
fn put_behind<'b>(
    history: &mut History,
    place: usize,
    record: &'b Record,
    asides: &mut Vec<Aside<'b>>,
) -> bool {
    let Some(held) = history.parked.holding_back(record) else {
        return false;
    };
    let key: Option<Box<[u8]>> = Some(held.key.into());
    let waits_for: Option<Box<[u8]>> = held.waits_for.map(Box::from);
    let version = version_of(record);
    history
        .parked
        .add(&record.topic, version, key.clone(), waits_for.clone());
    asides.push(Aside {
        place,
        record,
        key,
        waits_for,
        entity: None,
        failure: None,
    });
    true
}
