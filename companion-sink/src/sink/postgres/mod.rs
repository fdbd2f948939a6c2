//! The replica: the tables of the source, kept row by row, with the offsets in the same transaction.

mod apply;
mod change;
mod connection;
mod failure;
pub mod pg_text;
mod snapshot;
mod state;
mod statements;
pub mod tables;

use self::apply::{Aside, Mode, apply, apply_apart, execute, is_parked, park_key};
use self::change::{Change, identity_of};
use self::connection::Session;
pub use self::connection::open;
use self::failure::Fault;
use self::state::{ParkedKeys, State};
use self::tables::{Tables, missing_column};
use super::refusal_limit::RefusalLimit;
use super::{Applied, Batch, Move, Position, Sink, unreadable_snapshot};
use crate::config;
use crate::consumer::TopicPartition;
use crate::dead_letter::{DeadLetters, Failure};
use crate::error::{Code, Error, Result};
use crate::event::{Headers, Malformed, Op, RowBody, SnapshotBody};
use crate::record::Record;

/// The sink of kind `postgres`.
pub struct Postgres {
    name: String,
    url: String,
    settings: config::Postgres,
    state: State,
    connection: Option<Connection>,
    refusals: RefusalLimit,
}

struct Connection {
    session: Session,
    tables: Tables,
    parked: ParkedKeys,
}

/// Something that goes aside: parked, and with a failure to the dead letters as well.
struct Park<'b> {
    record: &'b Record,
    key: &'b [u8],
    failure: Option<Failure>,
}

/// Connects, sets the session and says whether the role may set `session_replication_role`, for `check`.
pub async fn try_connect(url: &str, name: &str) -> Result<bool> {
    let client = connection::connect(url, name).await?;
    connection::become_replica(&client).await
}

impl Postgres {
    /// The sink `name` of the instance `instance`.
    pub fn new(
        instance: &str,
        name: &str,
        url: &str,
        settings: config::Postgres,
        refusals: RefusalLimit,
    ) -> Self {
        Postgres {
            name: name.to_owned(),
            url: url.to_owned(),
            state: State::new(&settings.state_schema, &format!("{instance}.{name}")),
            settings,
            connection: None,
            refusals,
        }
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        self.connection.as_mut().ok_or_else(not_connected)
    }

    /// Makes the batch's row events ready, after following its schema events.
    async fn changes<'b>(
        &mut self,
        batch: &'b Batch,
        parks: &mut Vec<Park<'b>>,
    ) -> Result<Vec<Change<'b>>> {
        let mut changes = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            let headers = match Headers::read(record) {
                Ok(headers) => headers,
                Err(malformed) => {
                    parks.push(undecodable(
                        record,
                        record.key().unwrap_or_default(),
                        malformed,
                    ));
                    continue;
                }
            };
            let made = if headers.op == Op::Schema {
                let settings = &self.settings;
                let Some(Connection {
                    session, tables, ..
                }) = self.connection.as_mut()
                else {
                    return Err(not_connected());
                };
                let followed = tables
                    .follow(&session.client, settings, headers.table, record)
                    .await?;
                followed.map(|()| None)
            } else if headers.op.is_row() {
                self.change(record, &headers).await?.map(Some)
            } else {
                Ok(None)
            };
            match made {
                Ok(None) => {}
                Ok(Some(change)) => changes.push(change),
                Err(malformed) => parks.push(undecodable(
                    record,
                    identity_of(record, &headers),
                    malformed,
                )),
            }
        }
        Ok(changes)
    }

    async fn change<'b>(
        &mut self,
        record: &'b Record,
        headers: &Headers<'b>,
    ) -> Result<std::result::Result<Change<'b>, Malformed>> {
        let body = match RowBody::parse(record) {
            Ok(body) => body,
            Err(malformed) => return Ok(Err(malformed)),
        };
        let Some(Connection {
            session, tables, ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        let source = body.source.clone();
        let table = tables
            .find(&session.client, &self.settings, headers.table, &source)
            .await?;
        let change = match Change::new(record, headers, body, table) {
            Ok(change) => change,
            Err(malformed) => return Ok(Err(malformed)),
        };
        if change.unknown_column(tables.get(table)).is_some() {
            // The target may have been changed since.
            tables
                .refresh(&session.client, &self.settings, headers.table, &source)
                .await?;
            let table = tables.get(table);
            if let Some(column) = change.unknown_column(table) {
                return Err(missing_column(table, column, None));
            }
        }
        Ok(Ok(change))
    }

    /// Opens the transaction, moves the offsets, applies the changes. The transaction stays open.
    async fn apply_in_transaction<'b>(
        &mut self,
        batch: &Batch,
        changes: &'b [Change<'b>],
        parks: &mut Vec<Park<'b>>,
    ) -> Result<()> {
        let state = &self.state;
        let Some(Connection {
            session,
            tables,
            parked,
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        execute(session, "BEGIN").await?;
        state.advance(session, &batch.moves).await?;
        let mut to_apply = Vec::with_capacity(changes.len());
        for change in changes {
            if is_parked(change, parked) {
                park_key(change, parked);
                parks.push(Park {
                    record: change.record,
                    key: change.key,
                    failure: None,
                });
            } else {
                to_apply.push(change);
            }
        }
        match apply(session, tables, &to_apply, Mode::Upsert).await {
            Ok(()) => return Ok(()),
            Err(Fault::Other(error)) => return Err(error),
            Err(Fault::Event(_)) => {}
        }
        execute(session, "ROLLBACK; BEGIN").await?;
        state.advance(session, &batch.moves).await?;
        let Aside { refused, behind } = apply_apart(session, tables, &to_apply, parked).await?;
        for (change, failure) in refused {
            parks.push(Park {
                record: change.record,
                key: change.key,
                failure: Some(failure),
            });
        }
        for change in behind {
            parks.push(Park {
                record: change.record,
                key: change.key,
                failure: None,
            });
        }
        Ok(())
    }

    /// Notes what the ends of a snapshot's chunks say, in the open transaction.
    async fn note_chunks(&mut self, batch: &Batch) -> Result<()> {
        let state = &self.state;
        let Connection { session, .. } = self.connection.as_ref().ok_or_else(not_connected)?;
        for record in &batch.records {
            if record.header("cdc.op") == Some("snapshot") {
                let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
                state
                    .snapshots()
                    .keep(&session.client, record, &body)
                    .await?;
            }
        }
        Ok(())
    }

    /// Sends the refused events to the dead letters and parks them and those behind, in the open transaction.
    async fn park(&mut self, parks: &[Park<'_>], dead_letters: &DeadLetters) -> Result<()> {
        self.refusals
            .count(parks.iter().filter_map(|park| park.failure.as_ref()))?;
        let letters: Vec<_> = parks
            .iter()
            .filter_map(|park| park.failure.as_ref().map(|failure| (park.record, failure)))
            .collect();
        if !letters.is_empty() {
            dead_letters.send(&self.name, &letters).await?;
        }
        let state = &self.state;
        let Some(Connection {
            session, parked, ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        for park in parks {
            state
                .park(
                    &session.client,
                    park.key,
                    park.record,
                    park.failure.as_ref(),
                )
                .await?;
            parked.insert((park.record.topic.clone(), park.key.into()));
        }
        Ok(())
    }
}

impl Sink for Postgres {
    async fn connect(&mut self) -> Result<()> {
        self.connection = None;
        let client = connection::connect(&self.url, &self.name).await?;
        connection::become_active(&client, self.state.sink()).await?;
        if !connection::become_replica(&client).await? {
            tracing::info!(
                sink = self.name,
                hint = "GRANT SET ON PARAMETER session_replication_role TO the sink's role (PostgreSQL 15 on), or have no foreign keys on the target.",
                "foreign keys and triggers of the target are active for this sink"
            );
        }
        self.state.create(&client).await?;
        let parked = self.state.parked_keys(&client).await?;
        self.connection = Some(Connection {
            session: Session::new(client),
            tables: Tables::default(),
            parked,
        });
        Ok(())
    }

    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        let Connection { session, .. } = self.connection.as_ref().ok_or_else(not_connected)?;
        self.state.positions(&session.client, wanted).await
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        let Connection { session, .. } = self.connection.as_ref().ok_or_else(not_connected)?;
        self.state.begin(&session.client, starts).await
    }

    async fn apply(&mut self, batch: &Batch, dead_letters: &DeadLetters) -> Result<Applied> {
        let mut parks = Vec::new();
        let changes = self.changes(batch, &mut parks).await?;
        let behind_malformed = |change: &Change<'_>| {
            parks.iter().any(|park: &Park<'_>| {
                park.key == change.key
                    && park.record.topic == change.record.topic
                    && park.record.offset < change.record.offset
            })
        };
        let (behind, ready): (Vec<_>, Vec<_>) = changes.into_iter().partition(behind_malformed);
        for change in behind {
            parks.push(Park {
                record: change.record,
                key: change.key,
                failure: None,
            });
        }
        self.apply_in_transaction(batch, &ready, &mut parks).await?;
        if !parks.is_empty() {
            self.park(&parks, dead_letters).await?;
        }
        self.note_chunks(batch).await?;
        let connection = self.connection()?;
        execute(&connection.session, "COMMIT").await?;
        Ok(Applied {
            dead_letters: parks
                .iter()
                .filter_map(|park| Some(park.failure.as_ref()?.reason))
                .collect(),
            parked_keys: connection.parked.len() as u64,
        })
    }

    fn waits_together(&self, _record: &Record) -> bool {
        true
    }

    async fn apply_together(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        if record.header("cdc.op") == Some("snapshot") {
            self.snapshot(record, moves).await
        } else {
            self.truncate(record, moves).await
        }
    }
}

impl Postgres {
    /// The beginning or the end of a snapshot.
    async fn snapshot(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        let headers = Headers::read(record).map_err(unreadable_snapshot)?;
        let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
        let state = &self.state;
        let Some(Connection {
            session,
            tables,
            parked,
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        execute(session, "BEGIN").await?;
        state.advance(session, moves).await?;
        if body.is_beginning() {
            state
                .snapshots()
                .begin(&session.client, record, &body)
                .await?;
        }
        if body.is_end() {
            let table = tables
                .find(&session.client, &self.settings, headers.table, &body.source)
                .await?;
            let table = tables.get(table);
            let gone = state
                .snapshots()
                .end(session, record, &body, table, parked)
                .await?;
            tracing::info!(
                sink = self.name,
                table = table.name,
                gone,
                "a snapshot of the source ended"
            );
        }
        execute(session, "COMMIT").await
    }

    /// Empties a table.
    async fn truncate(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        let malformed = |Malformed(why): Malformed| {
            Error::new(
                Code::SchemaChange,
                format!("a truncate event: {why}"),
                "Look at the topic; empty the table by hand and set the offsets.",
            )
        };
        let headers = Headers::read(record).map_err(malformed)?;
        let body = RowBody::parse(record).map_err(malformed)?;
        let state = &self.state;
        let Some(Connection {
            session, tables, ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        let table = tables
            .find(&session.client, &self.settings, headers.table, &body.source)
            .await?;
        let name = &tables.get(table).name;
        execute(session, "BEGIN").await?;
        state.advance(session, moves).await?;
        let verb = if self.settings.truncate == "delete" {
            "DELETE FROM"
        } else {
            "TRUNCATE"
        };
        execute(session, &format!("{verb} {name}")).await?;
        execute(session, "COMMIT").await?;
        tracing::info!(sink = self.name, table = name, "emptied, as at the source");
        Ok(())
    }
}

fn undecodable<'b>(record: &'b Record, key: &'b [u8], Malformed(why): Malformed) -> Park<'b> {
    Park {
        record,
        key,
        failure: Some(Failure::undecodable(why)),
    }
}

fn not_connected() -> Error {
    Error::new(
        Code::Unreachable,
        "postgres: not connected",
        "It is tried again.",
    )
}
