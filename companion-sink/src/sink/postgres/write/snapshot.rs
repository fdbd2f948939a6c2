//! What a snapshot of the source tells a replica besides its rows: those that are gone at the source.
//!
//! At the snapshot's beginning, where all partitions meet, a transaction id of the target is noted, that of a savepoint, for
//! a transaction of the target may have rows from before and after it. A row that
//! was last written before the beginning was neither read by the snapshot nor changed since: it is not there any more. Rows
//! that the snapshot left out, because somebody had changed them already, are named by the ends of its chunks.

use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::error::Result;
use crate::event::image::Image;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::record::Record;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::parked::store::ParkedKeys;
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::write::change::{layout, values};
use crate::sink::postgres::write::statements;

/// The snapshots that are under way, one for each topic: a table of the state schema.
pub(crate) struct Snapshots<'s> {
    /// Quoted.
    pub(crate) schema: &'s str,
    pub(crate) sink: &'s str,
}

impl Snapshots<'_> {
    /// The statement that makes the table.
    pub(crate) fn create(schema: &str) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.snapshots (
                 sink text NOT NULL, topic text NOT NULL, snapshot_id bigint NOT NULL, begun_at text NOT NULL,
                 partial boolean NOT NULL DEFAULT false, kept bytea[] NOT NULL DEFAULT '{{}}', PRIMARY KEY (sink, topic));
             COMMENT ON TABLE {schema}.snapshots IS 'companion-sink: snapshots of the source under way, with the transaction id of their beginning'"
        )
    }

    /// Notes the beginning, in the open transaction.
    pub(crate) async fn begin(
        &self,
        session: &Session,
        record: &Record,
        body: &SnapshotBody<'_>,
    ) -> Result<()> {
        // The row itself is written by the transaction, or the part of one, that everything older lies before.
        let sql = format!(
            "WITH noted AS (
                 INSERT INTO {schema}.snapshots (sink, topic, snapshot_id, begun_at) VALUES ($1, $2, $3, '')
                 ON CONFLICT (sink, topic) DO UPDATE SET snapshot_id = EXCLUDED.snapshot_id, begun_at = '', partial = false, kept = '{{}}'
                 RETURNING xmin::text)
             SELECT xmin FROM noted",
            schema = self.schema
        );
        let doing = "noting a snapshot";
        session.execute("SAVEPOINT beginning").await?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.sink, &&*record.topic, &body.id()];
        let row = session
            .client
            .query_one(&sql, &parameters)
            .await
            .map_err(|error| classify(doing, &error))?;
        let begun_at: String = row.get(0);
        let sql = format!(
            "UPDATE {}.snapshots SET begun_at = $3 WHERE sink = $1 AND topic = $2",
            self.schema
        );
        session
            .client
            .execute(&sql, &[&self.sink, &&*record.topic, &begun_at])
            .await
            .map_err(|error| classify(doing, &error))?;
        session.execute("RELEASE SAVEPOINT beginning").await
    }

    /// Notes what the end of a chunk says, in the open transaction. Each partition has a copy: once more changes nothing.
    pub(crate) async fn keep(
        &self,
        client: &Client,
        record: &Record,
        body: &SnapshotBody<'_>,
    ) -> Result<()> {
        let kept: Vec<&[u8]> = body.changed().collect();
        if kept.is_empty() && !body.is_partial() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {}.snapshots SET partial = partial OR $4, kept = ARRAY(SELECT DISTINCT k FROM unnest(kept || $5) AS k)
             WHERE sink = $1 AND topic = $2 AND snapshot_id = $3",
            self.schema
        );
        let written = client
            .execute(
                &sql,
                &[
                    &self.sink,
                    &&*record.topic,
                    &body.id(),
                    &body.is_partial(),
                    &kept,
                ],
            )
            .await;
        written
            .map(drop)
            .map_err(|error| classify("noting a snapshot", &error))
    }

    /// Deletes what is gone at the source, in the open transaction; how many rows. Nothing where the beginning was not seen.
    pub(crate) async fn end(
        &self,
        session: &mut Session,
        record: &Record,
        body: &SnapshotBody<'_>,
        table: &Table,
        parked: &ParkedKeys,
    ) -> Result<u64> {
        self.keep(&session.client, record, body).await?;
        let sql = format!(
            "DELETE FROM {}.snapshots WHERE sink = $1 AND topic = $2 AND snapshot_id = $3 RETURNING begun_at, partial, kept",
            self.schema
        );
        let doing = "ending a snapshot";
        let found = session
            .client
            .query_opt(&sql, &[&self.sink, &&*record.topic, &body.id()])
            .await;
        let Some(row) = found.map_err(|error| classify(doing, &error))? else {
            return Ok(0);
        };
        let (begun_at, partial): (String, bool) = (row.get(0), row.get(1));
        if partial {
            return Ok(0);
        }
        let mut kept: Vec<Vec<u8>> = row.get(2);
        // Their rows wait in the state.
        let waiting = parked
            .iter()
            .filter(|(topic, key)| *topic == record.topic && !key.is_empty());
        kept.extend(waiting.map(|(_, key)| key.to_vec()));
        self.delete_older(session, table, &begun_at, &kept).await
    }

    async fn delete_older(
        &self,
        session: &mut Session,
        table: &Table,
        begun_at: &str,
        kept: &[Vec<u8>],
    ) -> Result<u64> {
        // What is no key of the table is no row's: such a one comes of a record that was malformed.
        let keys = kept.iter().filter_map(|key| Image::parse(key).ok());
        let is_key = |key: &Image<'_>| {
            let mut names = key.0.iter();
            !key.0.is_empty() && names.all(|(name, _)| table.column(name).is_some())
        };
        let keys: Vec<Image<'_>> = keys.filter(is_key).collect();
        let is_unique = |key: &&Image<'_>| {
            let names = layout(table, &key.0).into_iter();
            let names: Vec<String> = names.map(|at| table.columns[at].name.clone()).collect();
            table.is_unique(&names)
        };
        let columns = keys
            .iter()
            .find(is_unique)
            .map_or_else(Vec::new, |key| layout(table, &key.0));
        let mut arrays: Vec<Vec<Option<String>>> = vec![Vec::new(); columns.len()];
        for key in &keys {
            if layout(table, &key.0) != columns {
                continue;
            }
            let Ok(row) = values(table, &columns, &key.0) else {
                continue;
            };
            for (array, value) in arrays.iter_mut().zip(row) {
                array.push(value.map(|value| value.into_owned()));
            }
        }
        let sql = statements::delete_older(table, &columns);
        let mut types = vec![Type::TEXT];
        types.extend(arrays.iter().map(|_| Type::TEXT_ARRAY));
        let doing = format!(
            "deleting rows of {} that are gone at the source",
            table.name
        );
        let failed = |error| classify(&doing, &error);
        let statement = session.prepared(&sql, &types).await.map_err(failed)?;
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&begun_at];
        parameters.extend(arrays.iter().map(|array| array as &(dyn ToSql + Sync)));
        session
            .client
            .execute(&statement, &parameters)
            .await
            .map_err(failed)
    }
}
