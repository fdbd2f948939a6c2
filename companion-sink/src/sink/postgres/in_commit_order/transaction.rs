//! Events in the source's order of commits: parts of an open transaction, which ends where one of the source ends.

use change::trouble::Trouble;

use crate::sink::postgres::replica::as_decided;

use crate::config::OnError;
use crate::error::{Code, Recovery, Result};
use crate::event::{Headers, Op};
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::rejected::guarded::guarded;
use crate::sink::postgres::failure::Fault;
use crate::sink::postgres::write::change::RowChange;
use crate::sink::postgres::write::rows::Mode;
use crate::sink::postgres::write::rows::SetAside;
use crate::sink::postgres::write::rows::apply;
use crate::sink::postgres::write::rows::apply_apart;
use crate::sink::postgres::write::rows::is_parked;
use crate::sink::postgres::write::rows::park_key;
use crate::sink::postgres::write::rows::waits;
use crate::sink::postgres::write::stream::{STATEMENT_ROWS, Stream, fits};

use crate::rejected::failure::NotApplied;
use crate::sink::ordered::{PartOutcome, Poison, Why, about_event, version_of};
use crate::sink::postgres::in_commit_order::doubts::look_at_doubts;
use crate::sink::postgres::parked::park::Park;
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::replica::TargetConnection;
use crate::sink::postgres::replica::not_connected;
use crate::sink::postgres::write::whole_table;

/// Applies events in the open transaction, and opens one if there is none.
pub(crate) async fn apply_part(
    replica: &mut Replica,
    records: &[Record],
    dead_letters: &DeadLetters,
) -> Result<PartOutcome> {
    open_transaction(replica).await?;
    let decided = &replica.connection()?.decided;
    if !decided.is_empty() {
        let decided: Vec<Record> = records
            .iter()
            .filter_map(|record| as_decided(record, decided))
            .collect();
        return apply_or_search(replica, &decided, dead_letters).await;
    }
    apply_or_search(replica, records, dead_letters).await
}

async fn apply_or_search(
    replica: &mut Replica,
    records: &[Record],
    dead_letters: &DeadLetters,
) -> Result<PartOutcome> {
    if !replica.search.is_on() {
        return apply_events(replica, records, dead_letters).await;
    }
    for record in records {
        let one = std::slice::from_ref(record);
        if let PartOutcome::Poisoned(poison) = apply_events(replica, one, dead_letters).await? {
            return Ok(PartOutcome::Poisoned(poison));
        }
        look_at_doubts(replica, record).await?;
    }
    Ok(PartOutcome::Applied)
}

async fn apply_events(
    replica: &mut Replica,
    records: &[Record],
    dead_letters: &DeadLetters,
) -> Result<PartOutcome> {
    let mut parks = Vec::new();
    let mut rows: Vec<(&Record, Headers<'_>)> = Vec::with_capacity(records.len());
    let mut truncates: Vec<(&Record, Headers<'_>)> = Vec::new();
    for record in records {
        if record.is_disbelieved {
            parks.push(Park::apart(record, Failure::unbelievable()));
            continue;
        }
        let headers = match Headers::read(record) {
            Ok(headers) => headers,
            Err(malformed) => {
                let key = record.key().unwrap_or_default();
                parks.push(Park::refused(record, key, malformed.into()));
                continue;
            }
        };
        let is_next = |(first, _): &(&Record, Headers<'_>)| {
            headers.op == Op::Truncate && version_of(first).place() == version_of(record).place()
        };
        if !truncates.first().is_none_or(is_next)
            && let Some(poison) = truncate_together(replica, &mut truncates).await?
        {
            return stopped(replica, poison).await;
        }
        match headers.op {
            op if op.is_row() => match replica.search.found(record) {
                None => rows.push((record, headers)),
                Some(failure) => {
                    let failure = Some(failure.clone());
                    let parked = &mut replica.connection()?.parked;
                    parks.push(Park::aside(record, &headers, failure, parked));
                }
            },
            Op::Truncate => {
                let refused = apply_rows(replica, &rows, &mut parks).await?;
                rows.clear();
                if let Some(poison) = refused {
                    return stopped(replica, poison).await;
                }
                match whole_table::refused_whole(replica, record, &headers).await? {
                    Some(refusal) => parks.push(Park::apart(record, refusal.failure())),
                    None => truncates.push((record, headers)),
                }
            }
            // These cut the rows: what is before must be there, what comes after must not.
            Op::Schema | Op::Snapshot => {
                let refused = apply_rows(replica, &rows, &mut parks).await?;
                rows.clear();
                if let Some(poison) = refused {
                    return stopped(replica, poison).await;
                }
                match whole_table::refused_whole(replica, record, &headers).await? {
                    Some(refusal) => parks.push(Park::apart(record, refusal.failure())),
                    None => {
                        let done = whole_table::apply_to_table(replica, record, &headers).await;
                        if let Some(poison) = halted_by(record, done)? {
                            return stopped(replica, poison).await;
                        }
                    }
                }
            }
            _ => {}
        }
    }
    if let Some(poison) = truncate_together(replica, &mut truncates).await? {
        return stopped(replica, poison).await;
    }
    if let Some(poison) = apply_rows(replica, &rows, &mut parks).await? {
        return stopped(replica, poison).await;
    }
    set_aside(replica, &parks, dead_letters).await
}

/// What stops the replica of what came of `record`; an error that passes by itself stays one.
fn halted_by(record: &Record, done: Result<()>) -> Result<Option<Box<Poison>>> {
    match done {
        Ok(()) => Ok(None),
        Err(error) if error.code.recovery() == Recovery::Halt => {
            Ok(Some(Poison::new(record, Why::Target(error))))
        }
        Err(error) => Err(error),
    }
}

/// Parks what is refused, unless the first of it stops the replica.
async fn set_aside(
    replica: &mut Replica,
    parks: &[Park<'_>],
    dead_letters: &DeadLetters,
) -> Result<PartOutcome> {
    if replica.settings.on_error() == OnError::Halt
        && let Some(poison) = first_refused(parks.iter())
    {
        return stopped(replica, poison).await;
    }
    if !parks.is_empty() {
        replica.park(parks, dead_letters).await?;
        let reasons = parks
            .iter()
            .filter_map(|park| Some(park.failure.as_ref()?.reason.clone()));
        replica.parked_in_transaction.extend(reasons);
    }
    Ok(PartOutcome::Applied)
}

/// Empties the tables of truncates that one transaction of the source has one after the other.
async fn truncate_together(
    replica: &mut Replica,
    truncates: &mut Vec<(&Record, Headers<'_>)>,
) -> Result<Option<Box<Poison>>> {
    let truncates = std::mem::take(truncates);
    let Some((first, _)) = truncates.first() else {
        return Ok(None);
    };
    match whole_table::empty_tables(replica, &truncates).await {
        Err(error) if error.code.recovery() == Recovery::Halt => {
            Ok(Some(Poison::new(first, Why::Target(error))))
        }
        done => done.map(|()| None),
    }
}

/// Notes an event that stops the replica, in the state and in the dead letters; the error that says so (CDC1010).
pub(crate) async fn stop_at(
    replica: &mut Replica,
    poison: &Poison,
    dead_letters: &DeadLetters,
) -> Result<Trouble> {
    let Poison { record, why, .. } = poison;
    let failure = match why {
        Why::Refused(failure) => failure,
        Why::Target(error) => return Ok(about_event(record, error.clone())),
    };
    let state = &replica.state;
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    let attempts = state
        .parked_events()
        .note_poison(&connection.session.client, record, failure)
        .await?;
    if attempts == 1 {
        dead_letters
            .send(&replica.name, &[(record, failure)])
            .await?;
    }
    let id = record.event_id();
    let code = match failure.is_lack() {
        true => failure.code,
        false => Code::Poison,
    };
    Ok(Trouble::new(
        code,
        format!(
            "event {id} stops the consistent replica ({}): {}",
            failure.code, failure.message
        ),
        format!(
            "companion-sink dlq show {id}; then mend the target (or the rule) and `dlq retry {id}`, or `dlq edit {id} --set after.COLUMN=VALUE --reason TEXT`, or `dlq skip {id} --reason TEXT`."
        ),
    ))
}

async fn open_transaction(replica: &mut Replica) -> Result<()> {
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    if !connection.in_transaction {
        // Where they are active, foreign keys are looked at when the source's transaction is there whole.
        let deferred = "SET CONSTRAINTS ALL DEFERRED;";
        replica
            .state
            .begin_transaction(&mut connection.session, deferred)
            .await?;
        connection.in_transaction = true;
        replica.search.begin();
        replica.parked_in_transaction.clear();
    }
    Ok(())
}

/// Nothing of the open transaction is kept: an event stops the replica.
async fn stopped(replica: &mut Replica, poison: Box<Poison>) -> Result<PartOutcome> {
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    connection.session.execute("ROLLBACK").await?;
    connection.in_transaction = false;
    Ok(PartOutcome::Poisoned(poison))
}

/// What became of rows that were to go the fast way.
enum Streamed {
    Done,
    /// This event stops the replica.
    Poisoned(Box<Poison>),
    /// The fast way is not possible for them, and nothing of it was done.
    Impossible,
}

/// Applies rows the fast way.
async fn stream_rows<'b>(
    replica: &mut Replica,
    rows: &[(&'b Record, Headers<'b>)],
) -> Result<Streamed> {
    if !replica.connection()?.parked.is_empty() {
        return Ok(Streamed::Impossible);
    }
    let mut stream = Stream::default();
    let session = &mut replica.connection()?.session;
    let begin = session.begin_part();
    let mut done = stream.execute(session, begin).await;
    'statements: for rows in rows.chunks(STATEMENT_ROWS) {
        if done.is_err() {
            break;
        }
        let mut changes: Vec<RowChange<'b>> = Vec::with_capacity(rows.len());
        for (record, headers) in rows {
            match replica.change(record, headers, &mut stream).await {
                Ok(change) if fits(&change) => changes.push(change),
                Ok(_) => {
                    done = Err(Failure::refused("it takes the careful way".into()).into());
                    break 'statements;
                }
                Err(NotApplied::Failed(error)) if error.code.recovery() == Recovery::Halt => {
                    let poison = Poison::new(record, Why::Target(error));
                    return Ok(Streamed::Poisoned(poison));
                }
                Err(not_applied) => {
                    done = Err(not_applied.into());
                    break 'statements;
                }
            }
        }
        let TargetConnection {
            session, tables, ..
        } = replica.connection.as_mut().ok_or_else(not_connected)?;
        done = guarded(stream.send(session, tables, &changes)).await;
    }
    let finished = stream.finish().await;
    let session = &mut replica.connection()?.session;
    // What came after a refused statement was refused as well, for that reason alone: the older one tells why.
    match finished.and(done) {
        Ok(()) => {
            session.keep_part();
            Ok(Streamed::Done)
        }
        Err(Fault::Event(_) | Fault::Doubtful { .. } | Fault::Lack(_)) => {
            tracing::debug!("rows are applied the careful way");
            session.undo_part().await?;
            let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
            if replica.settings.shadow.is_some() || connection.bindings.has_added() {
                // A replay may have made some of them meanwhile, or a topic was new: that is undone as well.
                connection.forget_tables();
            }
            Ok(Streamed::Impossible)
        }
        Err(Fault::Other(error)) => Err(error),
    }
}

/// Applies rows; of each key the last state counts. A row that the target has no place for comes back.
async fn apply_rows<'b>(
    replica: &mut Replica,
    rows: &[(&'b Record, Headers<'b>)],
    parks: &mut Vec<Park<'b>>,
) -> Result<Option<Box<Poison>>> {
    if rows.is_empty() {
        return Ok(None);
    }
    match stream_rows(replica, rows).await? {
        Streamed::Done => return Ok(None),
        Streamed::Poisoned(poison) => return Ok(Some(poison)),
        Streamed::Impossible => {}
    }
    let mut changes: Vec<RowChange<'b>> = Vec::with_capacity(rows.len());
    for (record, headers) in rows {
        let made = replica
            .change(record, headers, &mut Stream::default())
            .await;
        let parked = &mut replica.connection()?.parked;
        match made {
            Ok(change) if is_parked(&change, parked) => {
                park_key(&change, parked);
                parks.push(Park::of(&change, None));
            }
            Ok(change) => changes.push(change),
            Err(NotApplied::Failed(error)) if error.code.recovery() == Recovery::Halt => {
                return Ok(Some(Poison::new(record, Why::Target(error))));
            }
            Err(NotApplied::Failed(error)) => return Err(error),
            Err(NotApplied::Refused(failure)) => {
                let waits = waits(record, headers, parked);
                let failure = (!waits || failure.is_forged()).then_some(failure);
                parks.push(Park::aside(record, headers, failure, parked));
            }
        }
    }
    let TargetConnection {
        session,
        tables,
        parked,
        ..
    } = replica.connection.as_mut().ok_or_else(not_connected)?;
    let to_apply: Vec<&RowChange<'b>> = changes.iter().collect();
    for mode in [Mode::Upsert, Mode::Replace] {
        let begin = session.begin_part();
        session.execute(begin).await?;
        match apply(session, tables, &to_apply, mode).await {
            Ok(()) => {
                session.keep_part();
                return Ok(None);
            }
            Err(Fault::Other(error)) => return Err(error),
            Err(Fault::Event(_) | Fault::Doubtful { .. } | Fault::Lack(_)) => {
                session.undo_part().await?;
            }
        }
    }
    let SetAside { refused, behind } = apply_apart(session, tables, &to_apply, parked).await?;
    parks.extend(
        refused
            .into_iter()
            .map(|(change, failure)| Park::of(change, Some(failure))),
    );
    parks.extend(behind.into_iter().map(|change| Park::of(change, None)));
    Ok(None)
}

/// The first refused event in the source's order. What is forged is not the source's, and stops nobody.
fn first_refused<'p>(parks: impl Iterator<Item = &'p Park<'p>>) -> Option<Box<Poison>> {
    let refused = parks.filter_map(|park| Some((park.record, park.failure.as_ref()?)));
    let refused = refused.filter(|(_, failure)| !failure.is_forged());
    let (record, failure) = refused.min_by_key(|(record, _)| version_of(record))?;
    Some(Poison::new(record, Why::Refused(failure.clone())))
}
