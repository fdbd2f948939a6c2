//! What is said of a whole table: a truncate, another definition, the beginnings and ends of a snapshot.

use super::connection::Session;
use super::failure::{classify, state_of};
use super::follow::{Follower, SchemaBody};
use super::{Connection, Postgres, not_connected};
use crate::error::{Code, Error, Result};
use crate::event::{Headers, Malformed, Op, RowBody, SnapshotBody};
use crate::record::Record;
use crate::sink::unreadable_snapshot;

impl Postgres {
    /// Does what an event about a whole table says, in the open transaction.
    pub(super) async fn apply_to_table(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
    ) -> Result<()> {
        match headers.op {
            Op::Schema => self.follow_schema(record, headers).await,
            Op::Truncate => self.empty_tables(&[(record, *headers)]).await,
            Op::Snapshot => self.note_snapshot(record, headers).await,
            _ => Ok(()),
        }
    }

    /// The beginning or the end of a snapshot's chunk.
    async fn note_snapshot(&mut self, record: &Record, headers: &Headers<'_>) -> Result<()> {
        let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
        let snapshots = self.state.snapshots();
        let Some(Connection {
            session,
            tables,
            parked,
            ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        if body.is_beginning() {
            self.state
                .note_loading(&session.client, &record.topic)
                .await?;
            snapshots.begin(session, record, &body).await?;
        }
        if !body.is_end() {
            return match body.is_chunk_end() {
                true => snapshots.keep(&session.client, record, &body).await,
                false => Ok(()),
            };
        }
        let table = tables
            .find(&session.client, &self.settings, headers.table, &body.source)
            .await?;
        let table = tables.get(table);
        // Those of other instances' partitions, and those that the open transaction parks.
        let mut waiting = self.state.parked_events().keys(&session.client).await?;
        waiting.extend(parked.iter().cloned());
        let gone = snapshots
            .end(session, record, &body, table, &waiting)
            .await?;
        self.state
            .note_loaded(&session.client, &record.topic)
            .await?;
        tracing::info!(
            sink = self.name,
            table = table.name,
            gone,
            "a snapshot of the source ended"
        );
        Ok(())
    }

    /// Empties the tables that one statement of the source emptied, together: each may reference another one.
    pub(super) async fn empty_tables(
        &mut self,
        truncates: &[(&Record, Headers<'_>)],
    ) -> Result<()> {
        let Some(Connection {
            session, tables, ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        let mut names: Vec<String> = Vec::with_capacity(truncates.len());
        for (record, headers) in truncates {
            let body = RowBody::parse(record).map_err(unreadable)?;
            let source = body.source.table_name().map_err(unreadable)?;
            let table = tables
                .find(&session.client, &self.settings, headers.table, &source)
                .await?;
            let name = &tables.get(table).name;
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        empty(session, &names, self.settings.truncate == "delete").await?;
        tracing::info!(
            sink = self.name,
            tables = names.join(", "),
            "emptied, as at the source"
        );
        Ok(())
    }

    /// The table's definition is another one.
    async fn follow_schema(&mut self, record: &Record, headers: &Headers<'_>) -> Result<()> {
        let body = SchemaBody::parse(record).map_err(unreadable)?;
        if body.is_farewell() {
            tracing::info!(
                table = headers.table,
                "the source no longer sends this table; the target keeps it"
            );
            return Ok(());
        }
        let Some(Connection {
            session, tables, ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        let before = self.state.followed(&session.client, &record.topic).await?;
        let follower = Follower {
            client: &session.client,
            settings: &self.settings,
            header: headers.table,
        };
        let now = follower.follow(tables, &body, before.as_ref()).await?;
        // A key may have another type now.
        session.newest_tables.clear();
        if let Some(now) = now.filter(|now| Some(now) != before.as_ref()) {
            self.state
                .follow(&session.client, &record.topic, &now)
                .await?;
        }
        if body.awaits_snapshot() {
            self.state
                .note_loading(&session.client, &record.topic)
                .await?;
        }
        Ok(())
    }
}

/// Empties tables. Where a foreign key of another table, or row-level security, or a table of another server forbids TRUNCATE,
/// the rows are deleted, those that reference others first where the server says so.
async fn empty(session: &mut Session, names: &[String], by_delete: bool) -> Result<()> {
    if !by_delete {
        let sql = format!("TRUNCATE {}", names.join(", "));
        session.execute("SAVEPOINT emptying").await?;
        match session.client.batch_execute(&sql).await {
            Ok(()) => return session.execute("RELEASE SAVEPOINT emptying").await,
            Err(error) if may_be_deleted(&error) => {
                tracing::info!(
                    statement = sql,
                    "not possible here: the rows are deleted instead"
                );
                let undo = "ROLLBACK TO SAVEPOINT emptying; RELEASE SAVEPOINT emptying";
                session.execute(undo).await?;
            }
            Err(error) => return Err(classify(&sql, &error)),
        }
    }
    // In one statement for all: a foreign key is looked at when it is over, and cannot tell then who was first.
    let deletes = names.iter().enumerate().map(|(place, name)| {
        let last = place + 1 == names.len();
        match last {
            true => format!("DELETE FROM {name}"),
            false => format!("e{place} AS (DELETE FROM {name})"),
        }
    });
    let mut deletes: Vec<String> = deletes.collect();
    let last = deletes.pop().unwrap_or_default();
    let sql = match deletes.is_empty() {
        true => last,
        false => format!("WITH {} {last}", deletes.join(", ")),
    };
    let done = session.client.batch_execute(&sql).await;
    done.map_err(|error| match state_of(&error) {
        Some("23503") => Error::new(
            Code::TargetRefuses,
            classify(&sql, &error).what,
            "Rows of a table that the source does not empty reference these: let the sink's role set session_replication_role (GRANT SET ON PARAMETER), or drop the foreign key, or delete the rows; then send SIGHUP.",
        ),
        _ => classify(&sql, &error),
    })
}

/// Whether TRUNCATE is forbidden where DELETE may not be.
fn may_be_deleted(error: &tokio_postgres::Error) -> bool {
    matches!(state_of(error), Some("0A000" | "42501" | "42809" | "55006"))
}

/// An event about a whole table that cannot be read.
pub(super) fn unreadable(Malformed(why): Malformed) -> Error {
    Error::new(
        Code::SchemaChange,
        format!("an event about a whole table: {why}"),
        "Look at the topic; do by hand what the event says, set the stored offsets behind it, send SIGHUP.",
    )
}
