//! Carries out what people decided about parked events, between two batches: of each key in order, until one is refused again.
//!
//! Nothing is written as one, so the steps have an order in which each can be the last before a crash: the document of an
//! event is there (inserting it once more changes nothing), then the event is no longer parked, then the decision is closed.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::time::{Duration, Instant};

use mongodb::bson::RawDocumentBuf;
use tokio::time::sleep;

use crate::error::Result;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::{Failure, NotApplied};
use crate::rejected::parked_event::Decision;
use crate::sink::batch::BATCH_BYTES;
use crate::sink::mongo_history::documents::edited::edited;
use crate::sink::mongo_history::history::{History, not_connected};
use crate::sink::mongo_history::parked::actions::Open;
use crate::sink::mongo_history::parked::keys::Key;
use crate::sink::mongo_history::parked::parking::take_out;
use crate::sink::mongo_history::parked::store::{Head, ParkedDocuments, Waiting};
use crate::sink::mongo_history::write::pending::{Documents, Pending};

/// How often decisions are looked for while something is parked.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Looking takes such a part of the time at most.
const LOOK_SHARE: u32 = 10;
/// Events of a key that are tried at once.
const PAGE: usize = 200;

/// What was decided, by event.
type Decided<'o> = HashMap<&'o str, Vec<&'o Open>>;
/// How far the partitions of this instance are applied.
type NextOffsets = HashMap<TopicPartition, i64>;

/// What a look has found.
struct OrderSearch<'o> {
    decided: Decided<'o>,
    next_offsets: NextOffsets,
}

/// Looks for decisions and carries them out as far as one go reaches; how many keys are parked then.
pub(crate) async fn carry_out_decisions(
    history: &mut History,
    dead_letters: &DeadLetters,
) -> Result<u64> {
    let began = Instant::now();
    let mut pause = LOOK_PAUSE;
    if !history.parked.is_empty() && !history.assigned.is_empty() {
        pause = match look(history, dead_letters).await? {
            true => Duration::ZERO,
            false => LOOK_PAUSE.max(began.elapsed() * LOOK_SHARE),
        };
    }
    history.next_look = Instant::now() + pause;
    Ok(history.parked.len())
}

/// Waits until there is a decision that was not there at the last look.
pub(crate) async fn wait_for_decision(history: &mut History) {
    loop {
        sleep(LOOK_PAUSE).await;
        let Some(connection) = &history.connection else {
            // It never came to park anything.
            return pending().await;
        };
        // A server that is away has no decisions either.
        let Ok(open) = connection.parked_events.actions.open_ids().await else {
            continue;
        };
        if !open.is_subset(&history.known) {
            history.known = open;
            return;
        }
    }
}

/// One look; whether something came of it.
async fn look(history: &mut History, dead_letters: &DeadLetters) -> Result<bool> {
    let assigned: Vec<TopicPartition> = history.assigned.iter().cloned().collect();
    let connection = history.connection.as_ref().ok_or_else(not_connected)?;
    // In this order: an event that was decided about and is not refused any more is settled.
    let open = connection.parked_events.actions.open().await?;
    history.known = open.iter().map(|open| open.id).collect();
    let heads = connection.parked_events.refused().await?;
    let refused: HashSet<&str> = heads.iter().map(|head| head.event_id.as_str()).collect();
    let (decided, settled): (Vec<&Open>, Vec<&Open>) = open
        .iter()
        .partition(|open| refused.contains(open.event_id.as_str()));
    connection
        .parked_events
        .actions
        .close(&settled, "done")
        .await?;
    let mut look = OrderSearch {
        decided: HashMap::new(),
        next_offsets: NextOffsets::new(),
    };
    for open in decided {
        let of_event = look.decided.entry(&open.event_id).or_default();
        of_event.push(open);
    }
    history
        .parked
        .set_alone(heads.iter().any(|head| head.key.is_none()));
    let (keys, alone) = due(history, &heads, &look.decided);
    if keys.is_empty() && alone.is_empty() {
        return Ok(false);
    }
    let stored = connection.offsets.read(&assigned).await?;
    let next = assigned.into_iter().zip(stored);
    look.next_offsets = next
        .filter_map(|(at, stored)| Some((at, stored?.next_offset)))
        .collect();
    let mut went_on = false;
    for key in keys {
        went_on |= carry_out_key(history, &key, &look, dead_letters).await?;
    }
    for event_id in alone {
        let connection = history.connection.as_ref().ok_or_else(not_connected)?;
        let event = connection.parked_events.event(event_id).await?;
        let events: Vec<Waiting> = event.into_iter().collect();
        went_on |= settle(history, events, &look, dead_letters).await?.0 > 0;
    }
    Ok(went_on)
}

/// The keys that something may become of, and the events that are about no row.
fn due<'h>(
    history: &History,
    heads: &'h [Head],
    decided: &Decided<'_>,
) -> (Vec<Key>, Vec<&'h str>) {
    let held = ParkedDocuments::held_by(heads);
    let mut keys = history.parked.freed(|key| held.contains(key));
    let mut alone = Vec::new();
    for head in heads {
        match &head.key {
            _ if !decided.contains_key(head.event_id.as_str()) => {}
            Some(key) => keys.push((head.record.topic.clone(), key.clone())),
            None => alone.push(head.event_id.as_str()),
        }
    }
    (keys, alone)
}

/// Carries out what was decided about the first events of a key; whether something came of it.
async fn carry_out_key(
    history: &mut History,
    key: &Key,
    look: &OrderSearch<'_>,
    dead_letters: &DeadLetters,
) -> Result<bool> {
    let connection = history.connection.as_ref().ok_or_else(not_connected)?;
    let first = connection
        .parked_events
        .first_of_key(key, PAGE, BATCH_BYTES);
    let (events, are_all) = first.await?;
    let count = events.len();
    let (settled, was_refused) = settle(history, events, look, dead_letters).await?;
    let is_free = are_all && settled == count;
    if is_free {
        history.parked.remove(key);
    }
    if settled > 0 || was_refused {
        tracing::info!(
            sink = history.name,
            topic = &*key.0,
            settled,
            was_refused,
            is_free,
            "parked events were tried again"
        );
    }
    Ok(settled > 0 || was_refused || is_free)
}

/// Settles events of one key from the first on; how many, and whether the one behind them was refused.
async fn settle(
    history: &mut History,
    events: Vec<Waiting>,
    look: &OrderSearch<'_>,
    dead_letters: &DeadLetters,
) -> Result<(usize, bool)> {
    let due = events.iter().take_while(|event| look.is_due(event)).count();
    let mut tried = Vec::with_capacity(due);
    let mut records = Vec::with_capacity(due);
    for (place, event) in events[..due].iter().enumerate() {
        records.push(match look.decision(event) {
            Some(Open {
                decision: Decision::Skip,
                ..
            }) => continue,
            Some(
                open @ Open {
                    decision: Decision::Edit(body),
                    ..
                },
            ) => {
                let record = event.record.with_value(body);
                let edited = edited(open, &event.record, &record, history.connection()?.names);
                (record, Some(edited))
            }
            Some(_) | None => (event.record.clone(), None),
        });
        tried.push(place);
    }
    let refused = try_in_order(history, &records).await?;
    let settled = refused.as_ref().map_or(due, |(place, _)| tried[*place]);
    let parked_events = &history
        .connection
        .as_ref()
        .ok_or_else(not_connected)?
        .parked_events;
    parked_events.forget(&events[..settled]).await?;
    for event in &events[..settled] {
        let of_event = look.decided_about(event);
        parked_events.actions.close(of_event, "done").await?;
    }
    let Some((_, failure)) = refused else {
        return Ok((settled, false));
    };
    let event = &events[settled];
    if !event.is_refused {
        dead_letters
            .send(&history.name, &[(&event.record, &failure)])
            .await?;
    }
    parked_events.refuse(event, &failure).await?;
    let of_event = look.decided_about(event);
    parked_events.actions.close(of_event, "refused").await?;
    Ok((settled, true))
}

/// Writes the documents of events of one key up to the first that is refused: its place, and why.
async fn try_in_order(
    history: &mut History,
    records: &[(Record, Option<RawDocumentBuf>)],
) -> Result<Option<(usize, Failure)>> {
    let mut documents = Documents::new();
    let mut refused = None;
    for (place, (record, edited)) in records.iter().enumerate() {
        match history.made(record).await {
            Ok(None) => {}
            Ok(Some((collection, mut document))) => {
                if let Some(edited) = edited {
                    document.append("edited", edited.clone());
                }
                let pending = Pending { place, document };
                documents.entry(collection).or_default().push(pending);
            }
            Err(NotApplied::Refused(failure)) => {
                refused = Some((place, failure));
                break;
            }
            Err(NotApplied::Failed(error)) => return Err(error),
        }
    }
    let mut inserted = history.insert_all(documents).await?;
    if let Some((place, failure)) = inserted.refused.pop_first() {
        let behind = records.iter().map(|(record, _)| record).enumerate();
        let behind: Vec<_> = behind.skip(place + 1).collect();
        take_out(history, &behind, &mut inserted).await?;
        refused = Some((place, failure));
    }
    Ok(refused)
}

impl OrderSearch<'_> {
    /// Whether an event's turn has come: the batch that parked it is done, and it is not refused, or somebody has decided.
    fn is_due(&self, event: &Waiting) -> bool {
        let next = self.next_offsets.get(&TopicPartition::of(&event.record));
        let is_passed = next.is_some_and(|next| event.record.offset < *next);
        is_passed && (!event.is_refused || !self.decided_about(event).is_empty())
    }

    /// The newest decision about an event.
    fn decision(&self, event: &Waiting) -> Option<&Open> {
        self.decided_about(event).last().copied()
    }

    fn decided_about(&self, event: &Waiting) -> &[&Open] {
        let decided = self.decided.get(event.event_id.as_str());
        decided.map_or(&[], Vec::as_slice)
    }
}
