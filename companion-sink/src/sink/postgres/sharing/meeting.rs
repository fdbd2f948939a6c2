//! Meets the other instances at an event about a whole table: who comes last does it.

use change::trouble::Trouble;

use crate::event::Op;
use std::time::{Duration, Instant};

use crate::config::OnError;
use crate::delivery::progress::{Reached, missing_copy, reached, version_of};
use crate::error::{Recovery, Result};
use crate::event::Headers;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::rejected::parked_event::Decision;
use crate::sink::Met;
use crate::sink::batch::Move;
use crate::sink::ordered::about_event;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::schema::bindings::Refusal;
use crate::sink::postgres::sharing::partition_locks::tell_others;
use crate::sink::postgres::write::whole_table::unreadable;

use crate::sink::postgres::parked::park::Park;
use crate::sink::postgres::replica::{Replica, not_connected};
use crate::sink::postgres::sharing::barrier::Row;
use crate::sink::postgres::write::whole_table;

/// Notes that the partitions of `moves` have reached `record`; does what it says if all `partitions` of its topic have.
pub(crate) async fn meet(
    replica: &mut Replica,
    record: &Record,
    moves: &[Move],
    partitions: i32,
    dead_letters: &DeadLetters,
) -> Result<Met> {
    let session = &mut replica
        .connection
        .as_mut()
        .ok_or_else(not_connected)?
        .session;
    replica.state.begin_transaction(session, "").await?;
    let met = meet_in_transaction(replica, record, moves, partitions, dead_letters).await;
    let met = match met {
        Err(error) if error.code.recovery() == Recovery::Halt => {
            let error = about_event(record, error);
            match replica.settings.on_error() {
                OnError::Halt => return Err(error),
                OnError::Park => Met::Stopped(error),
            }
        }
        met => met?,
    };
    let end = match met {
        Met::Waiting | Met::Done => "COMMIT",
        Met::Busy | Met::Moved | Met::Stopped(_) => "ROLLBACK",
    };
    replica.connection()?.session.execute(end).await?;
    match met {
        // Another instance may have followed a change of the definition.
        Met::Moved => look_anew(replica)?,
        Met::Stopped(error) => {
            look_anew(replica)?;
            return stop_topic(replica, record, error, dead_letters).await;
        }
        Met::Waiting | Met::Done | Met::Busy => {}
    }
    Ok(met)
}

/// Forgets what the target's tables were.
fn look_anew(replica: &mut Replica) -> Result<()> {
    let connection = replica.connection()?;
    connection.forget_tables();
    connection.session.newest_tables.clear();
    Ok(())
}

/// Notes the event that stops its topic, so that people can decide about it.
async fn stop_topic(
    replica: &mut Replica,
    record: &Record,
    error: Trouble,
    dead_letters: &DeadLetters,
) -> Result<Met> {
    let failure = Failure::lack(error.code, error.message.clone());
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    let parked_events = replica.state.parked_events();
    let noted = parked_events.note_stop(&connection.session.client, record, &failure);
    if noted.await? {
        dead_letters
            .send(&replica.name, &[(record, &failure)])
            .await?;
    }
    let id = record.event_id();
    Ok(Met::Stopped(Trouble::new(
        error.code,
        error.message,
        format!(
            "{} The other tables go on. This one is tried again every 10 s, without SIGHUP too; or `companion-sink dlq skip {id} --reason TEXT` leaves the event out.",
            error.remedy
        ),
    )))
}

async fn meet_in_transaction(
    replica: &mut Replica,
    record: &Record,
    moves: &[Move],
    partitions: i32,
    dead_letters: &DeadLetters,
) -> Result<Met> {
    let client = replica.connection()?.session.client.clone();
    let (barriers, topic) = (replica.state.barriers(), &*record.topic);
    let Some(version) = moves.first().map(|moved| moved.version.as_str()) else {
        return Ok(Met::Moved);
    };
    if !barriers.lock(&client, topic).await? {
        return Ok(Met::Busy);
    }
    let is_new = barriers.note(&client, topic, moves).await?;
    let rows = barriers.rows(&client, topic, partitions).await?;
    let is_there = |moved: &Move| {
        rows.iter().any(|row| {
            row.partition == moved.at.partition
                && row.next_offset == Some(moved.begin)
                && row.version < moved.version
        })
    };
    if !moves.iter().all(is_there) {
        return Ok(Met::Moved);
    }
    match reached(version, rows.iter().map(Row::stand)) {
        None => {
            if is_new {
                tell_others(&client, replica.state.sink()).await?;
            }
            return Ok(Met::Waiting);
        }
        Some(reached) => {
            let all = rows.iter().filter_map(|row| row.moved(record, version));
            let all: Vec<Move> = all.collect();
            if !do_together(replica, record, &all, reached, dead_letters).await? {
                return Ok(Met::Busy);
            }
        }
    }
    let barriers = replica.state.barriers();
    barriers.forget(&client, topic, version).await?;
    tell_others(&client, replica.state.sink()).await?;
    Ok(Met::Done)
}

/// Moves the positions and does what the event says, in the open transaction; false if another topic may give up first what it
/// needs.
async fn do_together(
    replica: &mut Replica,
    record: &Record,
    moves: &[Move],
    reached: Reached,
    dead_letters: &DeadLetters,
) -> Result<bool> {
    let headers = Headers::read(record).map_err(unreadable)?;
    let refused = whole_table::refused_whole(replica, record, &headers).await?;
    if matches!(refused, Some(Refusal::Claimed(_))) && may_still_be_free(replica, record)? {
        return Ok(false);
    }
    let state = &replica.state;
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    let session: &mut Session = &mut connection.session;
    state.advance(session, moves).await?;
    let parked_events = state.parked_events();
    let decided = state.decisions().decided(&session.client).await?;
    parked_events.forget_poison(&session.client, moves).await?;
    if matches!(decided.get(&*record.event_id()), Some(Decision::Skip)) {
        return Ok(true);
    }
    if let Some(refusal) = refused {
        let park = Park::apart(record, refusal.failure());
        replica.park(&[park], dead_letters).await?;
        return Ok(true);
    }
    match reached {
        Reached::Apart { past } if record.op() == Some(Op::Truncate) => {
            Err(missing_copy(record, past))
        }
        // A definition that is followed already is found so.
        Reached::Apart { .. } if record.op() != Some(Op::Schema) => {
            tracing::warn!(
                sink = replica.name,
                topic = %record.topic,
                "partitions are past the beginning or end of a snapshot: nothing is taken for gone"
            );
            Ok(true)
        }
        _ => whole_table::apply_to_table(replica, record, &headers)
            .await
            .map(|()| true),
    }
}

/// Whether the topic that has the table may still give it up: topics are read independently here, and tables may have changed
/// their names with each other.
fn may_still_be_free(replica: &mut Replica, record: &Record) -> Result<bool> {
    const LONGEST: Duration = Duration::from_secs(30);
    let event = (record.topic.clone(), version_of(record).to_owned());
    let claiming = &mut replica.connection()?.claiming;
    let since = *claiming.entry(event.clone()).or_insert_with(Instant::now);
    let is_over = since.elapsed() > LONGEST;
    if is_over {
        claiming.remove(&event);
    }
    Ok(!is_over)
}
