//! Events about whole tables, where several instances share the partitions of their topics: each notes in the state which of
//! its partitions have reached one, and who comes last does it, and moves the positions of all in the same transaction.
//!
//! A note holds only as long as its partition's offset is where it was: whoever has the partition later notes the same again.

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::delivery::progress::Stand;
use crate::error::Result;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::batch::Move;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::sharing::partition_locks::lock_name;

/// The notes of a sink: a table of the state schema.
pub(crate) struct Barriers<'s> {
    /// Quoted.
    pub(crate) schema: &'s str,
    pub(crate) sink: &'s str,
}

/// How far a partition is.
pub(crate) struct Row {
    pub(crate) partition: i32,
    /// None where nobody has begun to read it.
    pub(crate) next_offset: Option<i64>,
    pub(crate) version: String,
    /// The version of the event at which it is held, and the offset behind that.
    held: Option<(String, i64)>,
}

impl Barriers<'_> {
    /// The statement that makes the table.
    pub(crate) fn create(schema: &str) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.barriers (
                 sink text NOT NULL, topic text NOT NULL, partition integer NOT NULL, version text NOT NULL,
                 begin_offset bigint NOT NULL, end_offset bigint NOT NULL, PRIMARY KEY (sink, topic, partition));
             COMMENT ON TABLE {schema}.barriers IS 'companion-sink: partitions that wait at an event about the whole table until all of the topic have reached it'"
        )
    }

    /// Whether this instance alone looks at the topic's notes, until the open transaction ends.
    pub(crate) async fn lock(&self, client: &Client, topic: &str) -> Result<bool> {
        let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))";
        let row = client.query_one(sql, &[&lock_name(self.sink, topic)]).await;
        row.map(|row| row.get(0))
            .map_err(|error| classify("looking for other instances", &error))
    }

    /// Notes the partitions of `moves`; whether any of them is new.
    pub(crate) async fn note(&self, client: &Client, topic: &str, moves: &[Move]) -> Result<bool> {
        let sql = format!(
            "INSERT INTO {}.barriers AS b (sink, topic, partition, version, begin_offset, end_offset)
             SELECT $1, $2, u.* FROM unnest($3::int[], $4::text[], $5::bigint[], $6::bigint[]) AS u
             ON CONFLICT (sink, topic, partition) DO UPDATE SET version = EXCLUDED.version,
                 begin_offset = EXCLUDED.begin_offset, end_offset = EXCLUDED.end_offset
             WHERE (b.version, b.begin_offset, b.end_offset) <> (EXCLUDED.version, EXCLUDED.begin_offset, EXCLUDED.end_offset)",
            self.schema
        );
        let partitions: Vec<i32> = moves.iter().map(|moved| moved.at.partition).collect();
        let versions: Vec<&str> = moves.iter().map(|moved| moved.version.as_str()).collect();
        let begins: Vec<i64> = moves.iter().map(|moved| moved.begin).collect();
        let ends: Vec<i64> = moves.iter().map(|moved| moved.end).collect();
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.sink, &topic, &partitions, &versions, &begins, &ends];
        let noted = client.execute(&sql, &parameters).await;
        noted
            .map(|rows| rows > 0)
            .map_err(|error| classify("noting what partitions wait at", &error))
    }

    /// How far the first `partitions` partitions of a topic are, and any other that the target knows.
    pub(crate) async fn rows(
        &self,
        client: &Client,
        topic: &str,
        partitions: i32,
    ) -> Result<Vec<Row>> {
        let sql = format!(
            "SELECT p.partition, o.next_offset, coalesce(o.version, ''), b.version, b.end_offset
             FROM (SELECT generate_series(0, $3 - 1) UNION SELECT partition FROM {schema}.offsets WHERE sink = $1 AND topic = $2 AND partition >= 0) AS p(partition)
             LEFT JOIN {schema}.offsets o ON o.sink = $1 AND o.topic = $2 AND o.partition = p.partition
             LEFT JOIN {schema}.barriers b ON b.sink = $1 AND b.topic = $2 AND b.partition = p.partition AND b.begin_offset = o.next_offset
             ORDER BY p.partition",
            schema = self.schema
        );
        let rows = client.query(&sql, &[&self.sink, &topic, &partitions]).await;
        let rows = rows.map_err(|error| classify("reading what partitions wait at", &error))?;
        let row = |row: &tokio_postgres::Row| Row {
            partition: row.get(0),
            next_offset: row.get(1),
            version: row.get(2),
            held: row.get::<_, Option<String>>(3).zip(row.get(4)),
        };
        Ok(rows.iter().map(row).collect())
    }

    /// Forgets the notes of an event that was done.
    pub(crate) async fn forget(&self, client: &Client, topic: &str, version: &str) -> Result<()> {
        let sql = format!(
            "DELETE FROM {}.barriers WHERE sink = $1 AND topic = $2 AND version <= $3",
            self.schema
        );
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.sink, &topic, &version];
        let done = client.execute(&sql, &parameters).await;
        done.map(drop)
            .map_err(|error| classify("forgetting what partitions waited at", &error))
    }
}

impl Row {
    pub(crate) fn stand(&self) -> Stand<'_> {
        let held = self.held.as_ref().map(|(version, _)| version.as_str());
        Stand {
            partition: self.partition,
            version: held.unwrap_or(&self.version),
            is_held: held.is_some(),
        }
    }

    /// How its position moves when the event of `version`, at which it may be held, is done.
    pub(crate) fn moved(&self, record: &Record, version: &str) -> Option<Move> {
        let (held, end) = self.held.as_ref()?;
        (held == version).then_some(Move {
            at: TopicPartition {
                topic: record.topic.clone(),
                partition: self.partition,
            },
            begin: self.next_offset?,
            end: *end,
            version: version.to_owned(),
        })
    }
}
