//! What the sink keeps in the target: offsets and parked events, written in the transaction of the rows.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::Client;

use super::connection::Session;
use super::failure::classify;
use super::snapshot::Snapshots;
use super::tables::quoted;
use crate::consumer::TopicPartition;
use crate::dead_letter::Failure;
use crate::error::{Code, Error, Result};
use crate::event::is_version;
use crate::record::Record;
use crate::sink::{Move, Position};

/// The tables of the state schema, for one sink.
pub struct State {
    schema: String,
    sink: String,
}

/// The keys whose events are parked, by topic. A table without a key is one key, the empty one.
pub type ParkedKeys = HashSet<(Arc<str>, Box<[u8]>)>;

impl State {
    /// The sink with its instance's name, as the state has it.
    pub fn sink(&self) -> &str {
        &self.sink
    }

    /// The state of `sink` (`<name>.<sink>`, as its consumer group) in `schema`.
    pub fn new(schema: &str, sink: &str) -> Self {
        State {
            schema: quoted(schema),
            sink: sink.to_owned(),
        }
    }

    /// The snapshots that are under way.
    pub fn snapshots(&self) -> Snapshots<'_> {
        Snapshots {
            schema: &self.schema,
            sink: &self.sink,
        }
    }

    /// Makes the tables where they are missing.
    pub async fn create(&self, client: &Client) -> Result<()> {
        let schema = &self.schema;
        let there = client
            .query_one(
                "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS name",
                &[&["offsets", "parked", "snapshots"]
                    .map(|name| format!("{schema}.{name}"))
                    .to_vec()],
            )
            .await
            .map_err(|error| classify("looking for the offsets", &error))?;
        // CREATE ... IF NOT EXISTS wants rights that the role need not have once the tables are there.
        if there.get(0) {
            return Ok(());
        }
        let sql = format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS {schema}.offsets (
                 sink text NOT NULL, topic text NOT NULL, partition integer NOT NULL,
                 next_offset bigint NOT NULL, version text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(),
                 PRIMARY KEY (sink, topic, partition));
             COMMENT ON TABLE {schema}.offsets IS 'companion-sink: how far each partition is applied, and the highest version seen there';
             CREATE TABLE IF NOT EXISTS {schema}.parked (
                 sink text NOT NULL, topic text NOT NULL, partition integer NOT NULL, \"offset\" bigint NOT NULL,
                 key bytea NOT NULL, version text, event_id text NOT NULL,
                 header_names text[] NOT NULL, header_values bytea[] NOT NULL, body bytea,
                 code text, reason text, message text, parked_at timestamptz NOT NULL DEFAULT now(),
                 PRIMARY KEY (sink, topic, partition, \"offset\"));
             COMMENT ON TABLE {schema}.parked IS 'companion-sink: refused events (with code) and, in order, the later events of their keys';
             {}",
            Snapshots::create(schema)
        );
        client
            .batch_execute(&sql)
            .await
            .map_err(|error| classify("making the state schema", &error))
    }

    /// The positions of `wanted`.
    pub async fn positions(
        &self,
        client: &Client,
        wanted: &[TopicPartition],
    ) -> Result<Vec<Option<Position>>> {
        let topics: Vec<&str> = wanted.iter().map(|at| &*at.topic).collect();
        let partitions: Vec<i32> = wanted.iter().map(|at| at.partition).collect();
        let sql = format!(
            "SELECT o.next_offset, o.version FROM unnest($2::text[], $3::int[]) WITH ORDINALITY AS w(topic, partition, place)
             LEFT JOIN {}.offsets o ON o.sink = $1 AND o.topic = w.topic AND o.partition = w.partition ORDER BY w.place",
            self.schema
        );
        let rows = client
            .query(&sql, &[&self.sink, &topics, &partitions])
            .await
            .map_err(|error| classify("reading the offsets", &error))?;
        let position = |row: &tokio_postgres::Row| {
            let next_offset: Option<i64> = row.get(0);
            next_offset.map(|next_offset| Position {
                next_offset,
                version: row.get(1),
            })
        };
        Ok(rows.iter().map(position).collect())
    }

    /// Notes where unknown partitions begin.
    pub async fn begin(&self, client: &Client, starts: &[(TopicPartition, i64)]) -> Result<()> {
        let topics: Vec<&str> = starts.iter().map(|(at, _)| &*at.topic).collect();
        let partitions: Vec<i32> = starts.iter().map(|(at, _)| at.partition).collect();
        let offsets: Vec<i64> = starts.iter().map(|(_, offset)| *offset).collect();
        let sql = format!(
            "INSERT INTO {}.offsets (sink, topic, partition, next_offset, version)
             SELECT $1, u.topic, u.partition, u.next_offset, '' FROM unnest($2::text[], $3::int[], $4::bigint[]) AS u(topic, partition, next_offset)
             ON CONFLICT DO NOTHING",
            self.schema
        );
        let inserted = client
            .execute(&sql, &[&self.sink, &topics, &partitions, &offsets])
            .await
            .map_err(|error| classify("writing the offsets", &error))?;
        self.expect(inserted, starts.len())
    }

    /// Moves the positions inside the open transaction, each only from where the batch began (CDC1009).
    pub async fn advance(&self, session: &mut Session, moves: &[Move]) -> Result<()> {
        let topics: Vec<&str> = moves.iter().map(|moved| &*moved.at.topic).collect();
        let partitions: Vec<i32> = moves.iter().map(|moved| moved.at.partition).collect();
        let begins: Vec<i64> = moves.iter().map(|moved| moved.begin).collect();
        let ends: Vec<i64> = moves.iter().map(|moved| moved.end).collect();
        let versions: Vec<&str> = moves.iter().map(|moved| moved.version.as_str()).collect();
        let sql = format!(
            "UPDATE {}.offsets o SET next_offset = u.next_offset, version = u.version, updated_at = now()
             FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::text[]) AS u(topic, partition, begin_offset, next_offset, version)
             WHERE o.sink = $1 AND o.topic = u.topic AND o.partition = u.partition AND o.next_offset = u.begin_offset",
            self.schema
        );
        let statement = session
            .prepared(&sql, &[])
            .await
            .map_err(|error| classify("writing the offsets", &error))?;
        let updated = session
            .client
            .execute(
                &statement,
                &[&self.sink, &topics, &partitions, &begins, &ends, &versions],
            )
            .await
            .map_err(|error| classify("writing the offsets", &error))?;
        self.expect(updated, moves.len())
    }

    /// The keys that are parked.
    pub async fn parked_keys(&self, client: &Client) -> Result<ParkedKeys> {
        let sql = format!(
            "SELECT DISTINCT topic, key FROM {}.parked WHERE sink = $1",
            self.schema
        );
        let rows = client
            .query(&sql, &[&self.sink])
            .await
            .map_err(|error| classify("reading the parked events", &error))?;
        let key = |row: &tokio_postgres::Row| {
            let topic: String = row.get(0);
            let key: Vec<u8> = row.get(1);
            (topic.into(), key.into_boxed_slice())
        };
        Ok(rows.iter().map(key).collect())
    }

    /// Parks events inside the open transaction: refused ones with their failure, later ones of their keys without.
    pub async fn park(
        &self,
        client: &Client,
        key: &[u8],
        record: &Record,
        failure: Option<&Failure>,
    ) -> Result<()> {
        // A malformed record may hold zero bytes, which text cannot.
        let clean = |text: &str| text.replace('\0', "\u{fffd}");
        let names: Vec<String> = record.headers().map(|(name, _)| clean(name)).collect();
        let values: Vec<Option<&[u8]>> = record.headers().map(|(_, value)| value).collect();
        let version = record
            .header("cdc.version")
            .filter(|version| is_version(version));
        let sql = format!(
            "INSERT INTO {}.parked (sink, topic, partition, \"offset\", key, version, event_id, header_names, header_values, body, code, reason, message)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING",
            self.schema
        );
        client
            .execute(
                &sql,
                &[
                    &self.sink,
                    &&*record.topic,
                    &record.partition,
                    &record.offset,
                    &key,
                    &version,
                    &clean(&record.event_id()),
                    &names,
                    &values,
                    &record.value(),
                    &failure.map(|failure| failure.code.to_string()),
                    &failure.map(|failure| failure.reason),
                    &failure.map(|failure| failure.message.as_str()),
                ],
            )
            .await
            .map(|_| ())
            .map_err(|error| classify("parking an event", &error))
    }

    fn expect(&self, written: u64, expected: usize) -> Result<()> {
        if written == expected as u64 {
            return Ok(());
        }
        Err(Error::new(
            Code::OtherInstance,
            format!(
                "postgres: another instance moved the offsets of sink {}",
                self.sink
            ),
            "Nothing is lost; this one reads them again. Run one instance of a sink, or let the others stand by.",
        ))
    }
}
