//! Parked events, in the target's state. What people decided about them is carried out by the instance that has
//! the partition, in its own order: a notification tells it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, Row, types::ToSql};

use crate::error::{Code, Result};
use crate::event::is_version;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, UNIQUE};
use crate::rejected::page::At;
use crate::rejected::parked_event::{Holds, Parked, Refused};
use crate::sink::batch::Move;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::parked::decisions::{CHANNEL, TIME, decision};
use change::event::headers::HeaderName;

/// The keys whose events are parked, by topic. A table without a key is one key, the empty one.
pub(crate) type ParkedKeys = HashSet<(Arc<str>, Box<[u8]>)>;

/// The tables of parked events, for one sink.
pub(crate) struct ParkedEvents<'s> {
    /// Quoted.
    pub(crate) schema: &'s str,
    /// `<name>.<sink>`, as its consumer group.
    pub(crate) sink: &'s str,
}

/// Events that a unique value of another row keeps back (the reason `$2` and the code `$3`), and about which nobody has decided.
const OF_UNIQUE: &str =
    "sink = $1 AND NOT halts AND code = $3 AND reason = $2 AND decision IS NULL";
const REFUSED: &str = Code::ValueRefused.as_str();
/// Events that rows wait behind: those that cannot come from their topic's table are kept as well, and hold nothing.
pub(crate) const HOLDS_ROWS: &str = "NOT starts_with(encode(key, 'escape'), 'apart ')";
/// When such an event is tried again: after a fifth of a second, then after pauses that double up to a minute.
const NEXT_TRY: &str =
    "(last_failed + make_interval(secs => least(60, 0.1 * 2 ^ least(attempts, 10))))";

impl ParkedEvents<'_> {
    /// The statements that make the tables.
    pub(crate) fn create(schema: &str) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.parked (
                 sink text NOT NULL, topic text NOT NULL, partition integer NOT NULL, \"offset\" bigint NOT NULL,
                 key bytea NOT NULL, version text, event_id text NOT NULL,
                 header_names text[] NOT NULL, header_values bytea[] NOT NULL, body bytea,
                 code text, reason text, message text, parked_at timestamptz NOT NULL DEFAULT now(),
                 halts boolean NOT NULL DEFAULT false, attempts integer NOT NULL DEFAULT 1, last_failed timestamptz NOT NULL DEFAULT now(),
                 decision text, edited_body bytea,
                 PRIMARY KEY (sink, topic, partition, \"offset\"));
             COMMENT ON TABLE {schema}.parked IS 'companion-sink: refused events (with code) and, in order, the later events of their keys';
             CREATE TABLE IF NOT EXISTS {schema}.actions (
                 sink text NOT NULL, event_id text NOT NULL, action text NOT NULL, decided_by text NOT NULL,
                 at timestamptz NOT NULL DEFAULT now(), reason text, body bytea, edited_body bytea);
             COMMENT ON TABLE {schema}.actions IS 'companion-sink: what people decided about refused events'"
        )
    }

    /// The keys that are parked.
    pub(crate) async fn keys(&self, client: &Client) -> Result<ParkedKeys> {
        let sql = format!(
            "SELECT DISTINCT topic, key FROM {}.parked WHERE sink = $1 AND NOT halts AND {HOLDS_ROWS}",
            self.schema
        );
        let rows = client
            .query(&sql, &[&self.sink])
            .await
            .map_err(|error| classify("reading the parked events", &error))?;
        Ok(rows.iter().map(key_of).collect())
    }

    /// The keys of some partitions that are parked.
    pub(crate) async fn keys_of(
        &self,
        client: &Client,
        partitions: &[TopicPartition],
    ) -> Result<ParkedKeys> {
        let topics: Vec<&str> = partitions.iter().map(|at| &*at.topic).collect();
        let numbers: Vec<i32> = partitions.iter().map(|at| at.partition).collect();
        let sql = format!(
            "SELECT DISTINCT p.topic, p.key FROM unnest($2::text[], $3::int[]) AS u(topic, partition)
             JOIN {}.parked p ON p.sink = $1 AND p.topic = u.topic AND p.partition = u.partition AND NOT p.halts AND {HOLDS_ROWS}",
            self.schema
        );
        let rows = client.query(&sql, &[&self.sink, &topics, &numbers]).await;
        let rows = rows.map_err(|error| classify("reading the parked events", &error))?;
        Ok(rows.iter().map(key_of).collect())
    }

    /// Those of `keys` that are parked, in whatever topic and partition.
    pub(crate) async fn among(&self, client: &Client, keys: &[&[u8]]) -> Result<ParkedKeys> {
        let sql = format!(
            "SELECT DISTINCT topic, key FROM {}.parked WHERE sink = $1 AND NOT halts AND key = ANY ($2)",
            self.schema
        );
        let rows = client.query(&sql, &[&self.sink, &keys]).await;
        let rows = rows.map_err(|error| classify("reading the parked events", &error))?;
        Ok(rows.iter().map(key_of).collect())
    }

    /// Parks an event inside the open transaction: a refused one with its failure, a later one of its key without.
    pub(crate) async fn park(
        &self,
        client: &Client,
        key: &[u8],
        record: &Record,
        failure: Option<&Failure>,
    ) -> Result<()> {
        self.put_aside(client, key, record, failure, false)
            .await
            .map(drop)
    }

    /// Notes an event that stops the sink; how many times it has.
    pub(crate) async fn note_poison(
        &self,
        client: &Client,
        record: &Record,
        failure: &Failure,
    ) -> Result<i32> {
        self.put_aside(client, &[], record, Some(failure), true)
            .await
    }

    /// Notes an event that stops its topic; whether it is new. Each partition has a copy, of which one is noted.
    pub(crate) async fn note_stop(
        &self,
        client: &Client,
        record: &Record,
        failure: &Failure,
    ) -> Result<bool> {
        let sql = format!(
            "UPDATE {}.parked SET attempts = attempts + 1, last_failed = now(), code = $4, reason = $5, message = $6, decision = NULL
             WHERE sink = $1 AND topic = $2 AND event_id = $3 AND halts",
            self.schema
        );
        let parameters: [&(dyn ToSql + Sync); 6] = [
            &self.sink,
            &&*record.topic,
            &record.event_id(),
            &failure.code.to_string(),
            &&*failure.reason,
            &failure.message,
        ];
        let known = client.execute(&sql, &parameters).await;
        let known = known.map_err(|error| classify("parking an event", &error))?;
        if known == 0 {
            self.note_poison(client, record, failure).await?;
        }
        Ok(known == 0)
    }

    /// Whether an event stopped the sink that was not passed since.
    pub(crate) async fn has_poison(&self, client: &Client) -> Result<bool> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {}.parked WHERE sink = $1 AND halts)",
            self.schema
        );
        let row = client.query_one(&sql, &[&self.sink]).await;
        row.map(|row| row.get(0))
            .map_err(|error| classify("reading the parked events", &error))
    }

    /// Forgets the events that stopped the sink and are passed by `moves`, inside the open transaction.
    pub(crate) async fn forget_poison(&self, client: &Client, moves: &[Move]) -> Result<()> {
        let topics: Vec<&str> = moves.iter().map(|moved| &*moved.at.topic).collect();
        let partitions: Vec<i32> = moves.iter().map(|moved| moved.at.partition).collect();
        let ends: Vec<i64> = moves.iter().map(|moved| moved.end).collect();
        let sql = format!(
            "DELETE FROM {}.parked p USING unnest($2::text[], $3::int[], $4::bigint[]) AS u(topic, partition, next_offset)
             WHERE p.sink = $1 AND p.halts AND p.topic = u.topic AND p.partition = u.partition AND p.\"offset\" < u.next_offset",
            self.schema
        );
        let done = client
            .execute(&sql, &[&self.sink, &topics, &partitions, &ends])
            .await;
        done.map(drop)
            .map_err(|error| classify("forgetting an event that stopped the sink", &error))
    }

    async fn put_aside(
        &self,
        client: &Client,
        key: &[u8],
        record: &Record,
        failure: Option<&Failure>,
        halts: bool,
    ) -> Result<i32> {
        // A malformed record may hold zero bytes, which text cannot.
        let clean = |text: &str| text.replace('\0', "\u{fffd}");
        let names: Vec<String> = record.headers().map(|(name, _)| clean(name)).collect();
        let values: Vec<Option<&[u8]>> = record.headers().map(|(_, value)| value).collect();
        let version = record.version().filter(|version| is_version(version));
        let sql = format!(
            "INSERT INTO {}.parked AS p (sink, topic, partition, \"offset\", key, version, event_id, header_names, header_values, body, code, reason, message, halts)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
             ON CONFLICT (sink, topic, partition, \"offset\") DO UPDATE SET attempts = p.attempts + 1, last_failed = now(),
                 code = EXCLUDED.code, reason = EXCLUDED.reason, message = EXCLUDED.message, decision = NULL, edited_body = NULL
             RETURNING attempts",
            self.schema
        );
        let parameters: [&(dyn ToSql + Sync); 14] = [
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
            &failure.map(|failure| &*failure.reason),
            &failure.map(|failure| failure.message.as_str()),
            &halts,
        ];
        let row = client.query_one(&sql, &parameters).await;
        row.map(|row| row.get(0))
            .map_err(|error| classify("parking an event", &error))
    }

    /// Whether the tables are there.
    pub(crate) async fn are_there(&self, client: &Client) -> Result<bool> {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let row = client
            .query_one(sql, &[&format!("{}.actions", self.schema)])
            .await;
        row.map(|row| row.get(0))
            .map_err(|error| classify("looking for the parked events", &error))
    }

    /// Refused events whose id begins with `id`, the oldest first; with `reason` those of that reason.
    pub(crate) async fn refused(
        &self,
        client: &Client,
        id: &str,
        reason: Option<&str>,
        after: Option<&At>,
        limit: Option<usize>,
    ) -> Result<Vec<Parked>> {
        let filter = "p.code IS NOT NULL AND starts_with(p.event_id, $2) AND ($3::text IS NULL OR p.reason = $3)
             AND ($4::text IS NULL OR (p.topic COLLATE \"C\", p.partition, p.\"offset\") > ($4, $5, $6))";
        let topic = after.map(|after| after.topic.as_str());
        let partition = after.map(|after| after.partition);
        let offset = after.map(|after| after.offset);
        let limit = limit.and_then(|limit| i64::try_from(limit).ok());
        let more: [&(dyn ToSql + Sync); 5] = [&id, &reason, &topic, &partition, &offset];
        self.select(client, filter, &more, limit).await
    }

    /// The events of a key in their order.
    pub(crate) async fn of_key(
        &self,
        client: &Client,
        topic: &str,
        key: &[u8],
    ) -> Result<Vec<Parked>> {
        let filter = "p.topic = $2 AND p.key = $3 AND NOT p.halts";
        self.select(client, filter, &[&topic, &key], None).await
    }

    async fn select(
        &self,
        client: &Client,
        filter: &str,
        more: &[&(dyn ToSql + Sync)],
        limit: Option<i64>,
    ) -> Result<Vec<Parked>> {
        let limit = limit.map_or_else(String::new, |limit| format!(" LIMIT {limit}"));
        let sql = format!(
            "SELECT p.topic, p.partition, p.\"offset\", p.key, p.event_id, p.header_names, p.header_values, p.body,
                    p.code, p.reason, p.message, p.attempts, to_char(p.parked_at AT TIME ZONE 'UTC', '{TIME}'),
                    to_char(p.last_failed AT TIME ZONE 'UTC', '{TIME}'), p.decision, p.edited_body, p.halts,
                    (SELECT count(*) FROM {schema}.parked b WHERE b.sink = p.sink AND b.topic = p.topic AND b.key = p.key
                        AND NOT p.halts AND b.code IS NULL)
             FROM {schema}.parked p WHERE p.sink = $1 AND {filter} ORDER BY p.topic COLLATE \"C\", p.partition, p.\"offset\"{limit}",
            schema = self.schema
        );
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.sink];
        parameters.extend(more);
        let rows = client.query(&sql, &parameters).await;
        let rows = rows.map_err(|error| classify("reading the parked events", &error))?;
        Ok(rows.iter().map(read).collect())
    }

    /// Has events tried again whose turn has come and that another row kept back by a unique value: that row's events may lie in
    /// another partition, and give the value up.
    pub(crate) async fn retry_unique(&self, client: &Client) -> Result<()> {
        let sql = format!(
            "UPDATE {}.parked SET decision = 'retry' WHERE {OF_UNIQUE} AND {NEXT_TRY} <= now()",
            self.schema
        );
        let noted = client.execute(&sql, &[&self.sink, &UNIQUE, &REFUSED]).await;
        noted
            .map(drop)
            .map_err(|error| classify("trying parked events again", &error))
    }

    /// How long it is until [`ParkedEvents::retry_unique`] has something to do; `None` if nothing waits for that.
    pub(crate) async fn until_retry(&self, client: &Client) -> Result<Option<Duration>> {
        let sql = format!(
            "SELECT extract(epoch FROM min({NEXT_TRY}) - now())::float8 FROM {}.parked WHERE {OF_UNIQUE}",
            self.schema
        );
        let row = client
            .query_one(&sql, &[&self.sink, &UNIQUE, &REFUSED])
            .await;
        let row = row.map_err(|error| classify("reading the parked events", &error))?;
        let seconds: Option<f64> = row.get(0);
        Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))))
    }

    /// Nothing is parked of a key any more, inside the open transaction: rows that got another key while it was are tried again,
    /// by whoever has the partition of that.
    pub(crate) async fn retry_renamed(
        &self,
        client: &Client,
        topic: &str,
        key: &[u8],
    ) -> Result<()> {
        let sql = format!(
            "WITH freed AS (
                 UPDATE {}.parked SET decision = 'retry'
                 WHERE sink = $1 AND topic = $2 AND NOT halts AND code IS NULL
                   AND header_values[array_position(header_names, '{}')] = $3
                 RETURNING 1)
             SELECT pg_notify('{CHANNEL}', $1) FROM freed LIMIT 1",
            self.schema,
            HeaderName::OLD_KEY.as_str()
        );
        let noted = client.query(&sql, &[&self.sink, &topic, &key]).await;
        noted
            .map(drop)
            .map_err(|error| classify("freeing keys", &error))
    }

    /// An event is no longer aside, inside the open transaction.
    pub(crate) async fn forget(&self, client: &Client, record: &Record) -> Result<()> {
        let sql = format!(
            "DELETE FROM {}.parked WHERE sink = $1 AND topic = $2 AND partition = $3 AND \"offset\" = $4",
            self.schema
        );
        let parameters: [&(dyn ToSql + Sync); 4] = [
            &self.sink,
            &&*record.topic,
            &record.partition,
            &record.offset,
        ];
        let done = client.execute(&sql, &parameters).await;
        done.map(drop)
            .map_err(|error| classify("forgetting a parked event", &error))
    }

    /// A parked event was refused, once more or for the first time, inside the open transaction.
    pub(crate) async fn refuse(
        &self,
        client: &Client,
        record: &Record,
        failure: &Failure,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE {}.parked SET attempts = CASE WHEN code IS NULL THEN 1 ELSE attempts + 1 END, last_failed = now(),
                 code = $5, reason = $6, message = $7, decision = NULL, edited_body = NULL
             WHERE sink = $1 AND topic = $2 AND partition = $3 AND \"offset\" = $4",
            self.schema
        );
        let parameters: [&(dyn ToSql + Sync); 7] = [
            &self.sink,
            &&*record.topic,
            &record.partition,
            &record.offset,
            &failure.code.to_string(),
            &&*failure.reason,
            &failure.message,
        ];
        let done = client.execute(&sql, &parameters).await;
        done.map(drop)
            .map_err(|error| classify("noting a refused event", &error))
    }
}

/// What the keys begin with of events behind which nothing waits; that of a row is an object, or empty.
const APART: &str = "apart ";

/// The key under which an event is kept behind which nothing waits: one of its own, with the record's key behind it.
pub(crate) fn apart(record: &Record) -> Vec<u8> {
    let mut key = format!("{APART}{}-{} ", record.partition, record.offset).into_bytes();
    key.extend_from_slice(record.key().unwrap_or_default());
    key
}

/// Whether nothing waits behind what is kept under a key.
pub(crate) fn is_apart(key: &[u8]) -> bool {
    key.starts_with(APART.as_bytes())
}

/// The record's key of what is kept under `key`.
fn key_of_record(key: &[u8]) -> &[u8] {
    match key.strip_prefix(APART.as_bytes()) {
        Some(rest) => {
            let end = rest.iter().position(|byte| *byte == b' ');
            end.map_or(&[], |end| &rest[end + 1..])
        }
        None => key,
    }
}

fn key_of(row: &Row) -> (Arc<str>, Box<[u8]>) {
    let (topic, key): (&str, &[u8]) = (row.get(0), row.get(1));
    (topic.into(), key.into())
}

fn read(row: &Row) -> Parked {
    let names: Vec<String> = row.get(5);
    let values: Vec<Option<Vec<u8>>> = row.get(6);
    let (topic, key): (&str, &[u8]) = (row.get(0), row.get(3));
    let headers = names.iter().zip(&values);
    let record = Record::new(
        topic.into(),
        row.get(1),
        row.get(2),
        Some(key_of_record(key)).filter(|key| !key.is_empty()),
        row.get(7),
        headers.map(|(name, value)| (name.as_str(), value.as_deref())),
    );
    let code: Option<String> = row.get(8);
    let failure = code.map(|code| Refused {
        code,
        reason: row.get::<_, Option<_>>(9).unwrap_or_default(),
        message: row.get::<_, Option<_>>(10).unwrap_or_default(),
        attempts: row.get(11),
        first_failed: row.get(12),
        last_failed: row.get(13),
    });
    let is_about_table = record.is_about_table();
    Parked {
        record,
        event_id: row.get(4),
        key: key.to_vec(),
        failure,
        decision: decision(row, 14, 15),
        holds: match row.get(16) {
            true if is_about_table => Holds::Topic,
            true => Holds::Sink,
            false if is_apart(key) => Holds::Nothing,
            false => Holds::Key,
        },
        behind: row.get(17),
    }
}
