//! Events in the source's order of commits: parts of an open transaction, which ends where one of the source ends.

use std::collections::HashMap;

use change::version::{Place, Version};

use crate::config::OnError;
use crate::error::{Code, Error, Policy, Result};
use crate::event::{Headers, Op};
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::rejected::guarded::guarded;
use crate::rejected::parked_event::Decision;
use crate::sink::batch::Applied;
use crate::sink::batch::Batch;
use crate::sink::batch::Move;
use crate::sink::postgres::failure::Fault;
use crate::sink::postgres::in_commit_order::search::Uncommitted;
use crate::sink::postgres::write::change::Change;
use crate::sink::postgres::write::rows::{
    Aside, Mode, apply, apply_apart, is_parked, park_key, waits,
};
use crate::sink::postgres::write::stream::{STATEMENT_ROWS, Stream, fits};
use crate::sink::postgres::{Connection, Park, Postgres, not_connected};

/// What a transaction of the target brings to its end.
pub struct Commit<'c> {
    /// Where the partitions' positions move.
    pub moves: &'c [Move],
    /// The source's newest commit that is there then; `None` where only positions move.
    pub place: Option<Place>,
    /// When the source committed that, microseconds since 1970.
    pub time_us: Option<i64>,
}

/// An event that stops the replica.
pub struct Poison {
    /// Its record.
    pub record: Record,
    /// Its commit.
    pub place: Place,
    /// Why it cannot be applied.
    pub why: Why,
}

/// Why an event stops the replica.
pub enum Why {
    /// Its values are refused.
    Refused(Failure),
    /// The target is not as the event needs it.
    Target(Error),
}

impl Poison {
    /// The event of `record`.
    pub fn new(record: &Record, why: Why) -> Box<Self> {
        Box::new(Poison {
            record: record.clone(),
            place: version_of(record).place(),
            why,
        })
    }
}

/// What happened to a part.
pub enum Outcome {
    /// It is in the open transaction.
    Applied,
    /// This event cannot be applied, and the transaction is over.
    Poisoned(Box<Poison>),
}

/// An error about an event of a whole table, with the event.
pub fn of_whole_table(record: &Record, error: Error) -> Error {
    Error::new(
        error.code,
        format!(
            "event {} ({} of table {}): {}",
            record.event_id(),
            record.op().unwrap_or_default(),
            record.header("cdc.table").unwrap_or_default(),
            error.what
        ),
        error.hint,
    )
}

impl Postgres {
    /// Applies events in the open transaction, and opens one if there is none.
    pub async fn apply_part(
        &mut self,
        records: &[Record],
        dead_letters: &DeadLetters,
    ) -> Result<Outcome> {
        self.open_transaction().await?;
        let decided = &self.connection()?.decided;
        if !decided.is_empty() {
            let decided: Vec<Record> = records
                .iter()
                .filter_map(|record| as_decided(record, decided))
                .collect();
            return self.apply_or_search(&decided, dead_letters).await;
        }
        self.apply_or_search(records, dead_letters).await
    }

    async fn apply_or_search(
        &mut self,
        records: &[Record],
        dead_letters: &DeadLetters,
    ) -> Result<Outcome> {
        if !self.search.is_on() {
            return self.apply_events(records, dead_letters).await;
        }
        for record in records {
            let one = std::slice::from_ref(record);
            if let Outcome::Poisoned(poison) = self.apply_events(one, dead_letters).await? {
                return Ok(Outcome::Poisoned(poison));
            }
            self.look_at_doubts(record).await?;
        }
        Ok(Outcome::Applied)
    }

    async fn apply_events(
        &mut self,
        records: &[Record],
        dead_letters: &DeadLetters,
    ) -> Result<Outcome> {
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
                headers.op == Op::Truncate
                    && version_of(first).place() == version_of(record).place()
            };
            if !truncates.first().is_none_or(is_next)
                && let Some(poison) = self.truncate_together(&mut truncates).await?
            {
                return self.stopped(poison).await;
            }
            match headers.op {
                op if op.is_row() => match self.search.found(record) {
                    None => rows.push((record, headers)),
                    Some(failure) => {
                        let failure = Some(failure.clone());
                        let parked = &mut self.connection()?.parked;
                        parks.push(Park::aside(record, &headers, failure, parked));
                    }
                },
                Op::Truncate => {
                    let refused = self.apply_rows(&rows, &mut parks).await?;
                    rows.clear();
                    if let Some(poison) = refused {
                        return self.stopped(poison).await;
                    }
                    match self.refused_whole(record, &headers).await? {
                        Some(refusal) => parks.push(Park::apart(record, refusal.failure())),
                        None => truncates.push((record, headers)),
                    }
                }
                // These cut the rows: what is before must be there, what comes after must not.
                Op::Schema | Op::Snapshot => {
                    let refused = self.apply_rows(&rows, &mut parks).await?;
                    rows.clear();
                    if let Some(poison) = refused {
                        return self.stopped(poison).await;
                    }
                    if let Some(refusal) = self.refused_whole(record, &headers).await? {
                        parks.push(Park::apart(record, refusal.failure()));
                        continue;
                    }
                    match self.apply_to_table(record, &headers).await {
                        Err(error) if error.code.policy() == Policy::Halt => {
                            return self.stopped(Poison::new(record, Why::Target(error))).await;
                        }
                        done => done?,
                    }
                }
                _ => {}
            }
        }
        if let Some(poison) = self.truncate_together(&mut truncates).await? {
            return self.stopped(poison).await;
        }
        if let Some(poison) = self.apply_rows(&rows, &mut parks).await? {
            return self.stopped(poison).await;
        }
        if self.settings.on_error() == OnError::Halt
            && let Some(poison) = first_refused(parks.iter())
        {
            return self.stopped(poison).await;
        }
        if !parks.is_empty() {
            self.park(&parks, dead_letters).await?;
            let reasons = parks
                .iter()
                .filter_map(|park| Some(park.failure.as_ref()?.reason.clone()));
            self.parked_in_transaction.extend(reasons);
        }
        Ok(Outcome::Applied)
    }

    /// Empties the tables of truncates that one transaction of the source has one after the other.
    async fn truncate_together(
        &mut self,
        truncates: &mut Vec<(&Record, Headers<'_>)>,
    ) -> Result<Option<Box<Poison>>> {
        let truncates = std::mem::take(truncates);
        let Some((first, _)) = truncates.first() else {
            return Ok(None);
        };
        match self.empty_tables(&truncates).await {
            Err(error) if error.code.policy() == Policy::Halt => {
                Ok(Some(Poison::new(first, Why::Target(error))))
            }
            done => done.map(|()| None),
        }
    }

    /// Applies the last events of a transaction, moves the positions and commits.
    pub async fn commit_part(
        &mut self,
        records: &[Record],
        commit: &Commit<'_>,
        dead_letters: &DeadLetters,
    ) -> Result<std::result::Result<Applied, Uncommitted>> {
        if let Outcome::Poisoned(poison) = self.apply_part(records, dead_letters).await? {
            return Ok(Err(Uncommitted::Poisoned(poison)));
        }
        let state = &self.state;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        state.advance(&mut connection.session, commit.moves).await?;
        if connection.halted_before {
            state
                .parked_events()
                .forget_poison(&connection.session.client, commit.moves)
                .await?;
        }
        if let (Some(place), Some(time_us)) = (commit.place, commit.time_us) {
            state
                .note_progress(&mut connection.session, place, time_us)
                .await?;
        }
        if let Some(uncommitted) = self.end_transaction(records.last(), dead_letters).await? {
            return Ok(Err(uncommitted));
        }
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        connection.in_transaction = false;
        connection.bindings.settled();
        Ok(Ok(Applied {
            dead_letters: std::mem::take(&mut self.parked_in_transaction),
            parked_keys: connection.parked.len() as u64,
            unknown_rows: std::mem::take(&mut connection.session.unknown_rows),
        }))
    }

    /// Notes an event that stops the replica, in the state and in the dead letters; the error that says so (CDC1010).
    pub async fn stop_at(&mut self, poison: &Poison, dead_letters: &DeadLetters) -> Result<Error> {
        let Poison { record, why, .. } = poison;
        let failure = match why {
            Why::Refused(failure) => failure,
            Why::Target(error) => return Ok(of_whole_table(record, error.clone())),
        };
        let state = &self.state;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let attempts = state
            .parked_events()
            .note_poison(&connection.session.client, record, failure)
            .await?;
        if attempts == 1 {
            dead_letters.send(&self.name, &[(record, failure)]).await?;
        }
        let id = record.event_id();
        let code = match failure.is_lack() {
            true => failure.code,
            false => Code::Poison,
        };
        Ok(Error::new(
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

    /// The batch as people decided about its events, when a replay meets them again; `None` where nobody decided.
    pub fn decided_batch(&mut self, batch: &Batch) -> Result<Option<Batch>> {
        if self.settings.shadow.is_none() {
            return Ok(None);
        }
        let decided = &self.connection()?.decided;
        if decided.is_empty() {
            return Ok(None);
        }
        let records = batch.records.iter();
        Ok(Some(Batch {
            records: records
                .filter_map(|record| as_decided(record, decided))
                .collect(),
            moves: batch.moves.clone(),
        }))
    }

    async fn open_transaction(&mut self) -> Result<()> {
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        if !connection.in_transaction {
            // Where they are active, foreign keys are looked at when the source's transaction is there whole.
            let deferred = "SET CONSTRAINTS ALL DEFERRED;";
            self.state
                .begin_transaction(&mut connection.session, deferred)
                .await?;
            connection.in_transaction = true;
            self.search.begin();
            self.parked_in_transaction.clear();
        }
        Ok(())
    }

    /// Nothing of the open transaction is kept: an event stops the replica.
    async fn stopped(&mut self, poison: Box<Poison>) -> Result<Outcome> {
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        connection.session.execute("ROLLBACK").await?;
        connection.in_transaction = false;
        Ok(Outcome::Poisoned(poison))
    }

    /// Applies rows the fast way; `None` where that is not possible, and then nothing of it was done.
    async fn stream_rows<'b>(
        &mut self,
        rows: &[(&'b Record, Headers<'b>)],
    ) -> Result<Option<std::result::Result<(), Box<Poison>>>> {
        if !self.connection()?.parked.is_empty() {
            return Ok(None);
        }
        let mut stream = Stream::default();
        let session = &mut self.connection()?.session;
        let begin = session.begin_part();
        let mut done = stream.execute(session, begin).await;
        'statements: for rows in rows.chunks(STATEMENT_ROWS) {
            if done.is_err() {
                break;
            }
            let mut changes: Vec<Change<'b>> = Vec::with_capacity(rows.len());
            for (record, headers) in rows {
                match self.change(record, headers, &mut stream).await {
                    Err(error) if error.code.policy() == Policy::Halt => {
                        return Ok(Some(Err(Poison::new(record, Why::Target(error)))));
                    }
                    Ok(Ok(change)) if fits(&change) => changes.push(change),
                    Ok(made) => {
                        let takes_one = || Failure::refused("it takes the careful way".into());
                        done = Err(Fault::Event(made.err().unwrap_or_else(takes_one)));
                        break 'statements;
                    }
                    Err(error) => {
                        done = Err(Fault::Other(error));
                        break 'statements;
                    }
                }
            }
            let Connection {
                session, tables, ..
            } = self.connection.as_mut().ok_or_else(not_connected)?;
            done = guarded(stream.send(session, tables, &changes))
                .await
                .unwrap_or_else(|failure| Err(Fault::Event(failure)));
        }
        let finished = stream.finish().await;
        let session = &mut self.connection()?.session;
        // What came after a refused statement was refused as well, for that reason alone: the older one tells why.
        match finished.and(done) {
            Ok(()) => {
                session.keep_part();
                Ok(Some(Ok(())))
            }
            Err(Fault::Event(_) | Fault::Doubtful { .. } | Fault::Lack(_)) => {
                tracing::debug!("rows are applied the careful way");
                session.undo_part().await?;
                let connection = self.connection.as_mut().ok_or_else(not_connected)?;
                if self.settings.shadow.is_some() || connection.bindings.has_added() {
                    // A replay may have made some of them meanwhile, or a topic was new: that is undone as well.
                    connection.forget_tables();
                }
                Ok(None)
            }
            Err(Fault::Other(error)) => Err(error),
        }
    }

    /// Applies rows; of each key the last state counts. A row that the target has no place for comes back.
    async fn apply_rows<'b>(
        &mut self,
        rows: &[(&'b Record, Headers<'b>)],
        parks: &mut Vec<Park<'b>>,
    ) -> Result<Option<Box<Poison>>> {
        if rows.is_empty() {
            return Ok(None);
        }
        if let Some(done) = self.stream_rows(rows).await? {
            return Ok(done.err());
        }
        let mut changes: Vec<Change<'b>> = Vec::with_capacity(rows.len());
        for (record, headers) in rows {
            let made = match self.change(record, headers, &mut Stream::default()).await {
                Err(error) if error.code.policy() == Policy::Halt => {
                    return Ok(Some(Poison::new(record, Why::Target(error))));
                }
                made => made?,
            };
            let parked = &mut self.connection()?.parked;
            match made {
                Ok(change) if is_parked(&change, parked) => {
                    park_key(&change, parked);
                    parks.push(change.park(None));
                }
                Ok(change) => changes.push(change),
                Err(failure) => {
                    let waits = waits(record, headers, parked);
                    let failure = (!waits || failure.is_forged()).then_some(failure);
                    parks.push(Park::aside(record, headers, failure, parked));
                }
            }
        }
        let Connection {
            session,
            tables,
            parked,
            ..
        } = self.connection.as_mut().ok_or_else(not_connected)?;
        let to_apply: Vec<&Change<'b>> = changes.iter().collect();
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
        let Aside { refused, behind } = apply_apart(session, tables, &to_apply, parked).await?;
        parks.extend(
            refused
                .into_iter()
                .map(|(change, failure)| change.park(Some(failure))),
        );
        parks.extend(behind.into_iter().map(|change| change.park(None)));
        Ok(None)
    }
}

/// The event as a person decided, none if it is to be left out.
fn as_decided(record: &Record, decided: &HashMap<String, Decision>) -> Option<Record> {
    match decided.get(&record.event_id()) {
        Some(Decision::Skip) => None,
        Some(Decision::Edit(body)) => Some(record.with_value(body)),
        Some(Decision::Retry) | None => Some(record.clone()),
    }
}

/// The first refused event in the source's order. What is forged is not the source's, and stops nobody.
fn first_refused<'p>(parks: impl Iterator<Item = &'p Park<'p>>) -> Option<Box<Poison>> {
    let refused = parks.filter_map(|park| Some((park.record, park.failure.as_ref()?)));
    let refused = refused.filter(|(_, failure)| !failure.is_forged());
    let (record, failure) = refused.min_by_key(|(record, _)| version_of(record))?;
    Some(Poison::new(record, Why::Refused(failure.clone())))
}

fn version_of(record: &Record) -> Version {
    let version = record.version().and_then(Version::parse);
    version.unwrap_or_default()
}
