//! What is said of a whole table: a truncate, another definition, the beginnings and ends of a snapshot.

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
            Op::Truncate => self.empty_table(record, headers).await,
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

    /// Empties a table.
    async fn empty_table(&mut self, record: &Record, headers: &Headers<'_>) -> Result<()> {
        let body = RowBody::parse(record).map_err(unreadable)?;
        let source = body.source.table_name().map_err(unreadable)?;
        let Some(Connection {
            session, tables, ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        let table = tables
            .find(&session.client, &self.settings, headers.table, &source)
            .await?;
        let name = &tables.get(table).name;
        let verb = if self.settings.truncate == "delete" {
            "DELETE FROM"
        } else {
            "TRUNCATE"
        };
        session.execute(&format!("{verb} {name}")).await?;
        tracing::info!(sink = self.name, table = name, "emptied, as at the source");
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

/// An event about a whole table that cannot be read.
pub(super) fn unreadable(Malformed(why): Malformed) -> Error {
    Error::new(
        Code::SchemaChange,
        format!("an event about a whole table: {why}"),
        "Look at the topic; do by hand what the event says, set the stored offsets behind it, send SIGHUP.",
    )
}
