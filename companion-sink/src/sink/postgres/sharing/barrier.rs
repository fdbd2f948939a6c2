//! Events about whole tables, where several instances share the partitions of their topics: each notes in the state which of
//! its partitions have reached one, and who comes last does it, and moves the positions of all in the same transaction.
//!
//! A note holds only as long as its partition's offset is where it was: whoever has the partition later notes the same again.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::config::OnError;
use crate::delivery::progress::{Reached, Stand, missing_copy, reached, version_of};
use crate::error::{Error, Policy, Result};
use crate::event::Headers;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::rejected::parked_event::Decision;
use crate::sink::Met;
use crate::sink::batch::Move;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::in_commit_order::transaction::of_whole_table;
use crate::sink::postgres::schema::bindings::Refusal;
use crate::sink::postgres::sharing::partition_locks::{lock_name, tell_others};
use crate::sink::postgres::write::whole_table::unreadable;
use crate::sink::postgres::{Park, Postgres, not_connected};

/// The notes of a sink: a table of the state schema.
pub struct Barriers<'s> {
    /// Quoted.
    pub schema: &'s str,
    pub sink: &'s str,
}

/// How far a partition is.
struct Row {
    partition: i32,
    /// None where nobody has begun to read it.
    next_offset: Option<i64>,
    version: String,
    /// The version of the event at which it is held, and the offset behind that.
    held: Option<(String, i64)>,
}

impl Barriers<'_> {
    /// The statement that makes the table.
    pub fn create(schema: &str) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.barriers (
                 sink text NOT NULL, topic text NOT NULL, partition integer NOT NULL, version text NOT NULL,
                 begin_offset bigint NOT NULL, end_offset bigint NOT NULL, PRIMARY KEY (sink, topic, partition));
             COMMENT ON TABLE {schema}.barriers IS 'companion-sink: partitions that wait at an event about the whole table until all of the topic have reached it'"
        )
    }

    /// Whether this instance alone looks at the topic's notes, until the open transaction ends.
    async fn lock(&self, client: &Client, topic: &str) -> Result<bool> {
        let sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))";
        let row = client.query_one(sql, &[&lock_name(self.sink, topic)]).await;
        row.map(|row| row.get(0))
            .map_err(|error| classify("looking for other instances", &error))
    }

    /// Notes the partitions of `moves`; whether any of them is new.
    async fn note(&self, client: &Client, topic: &str, moves: &[Move]) -> Result<bool> {
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
    async fn rows(&self, client: &Client, topic: &str, partitions: i32) -> Result<Vec<Row>> {
        let sql = format!(
            "SELECT p.partition, o.next_offset, coalesce(o.version, ''), b.version, b.end_offset
             FROM (SELECT generate_series(0, $3 - 1) UNION SELECT partition FROM {schema}.offsets WHERE sink = $1 AND topic = $2) AS p(partition)
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
    async fn forget(&self, client: &Client, topic: &str, version: &str) -> Result<()> {
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
    fn stand(&self) -> Stand<'_> {
        let held = self.held.as_ref().map(|(version, _)| version.as_str());
        Stand {
            partition: self.partition,
            version: held.unwrap_or(&self.version),
            is_held: held.is_some(),
        }
    }

    /// How its position moves when the event of `version`, at which it may be held, is done.
    fn moved(&self, record: &Record, version: &str) -> Option<Move> {
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

impl Postgres {
    /// Notes that the partitions of `moves` have reached `record`; does what it says if all `partitions` of its topic have.
    pub async fn meet_at(
        &mut self,
        record: &Record,
        moves: &[Move],
        partitions: i32,
        dead_letters: &DeadLetters,
    ) -> Result<Met> {
        let session = &mut self.connection.as_mut().ok_or_else(not_connected)?.session;
        self.state.begin_transaction(session, "").await?;
        let met = self
            .meet_in_transaction(record, moves, partitions, dead_letters)
            .await;
        let met = match met {
            Err(error) if error.code.policy() == Policy::Halt => {
                let error = of_whole_table(record, error);
                match self.settings.on_error() {
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
        self.connection()?.session.execute(end).await?;
        match met {
            // Another instance may have followed a change of the definition.
            Met::Moved => self.look_anew()?,
            Met::Stopped(error) => {
                self.look_anew()?;
                return self.stop_topic(record, error, dead_letters).await;
            }
            Met::Waiting | Met::Done | Met::Busy => {}
        }
        Ok(met)
    }

    /// Forgets what the target's tables were.
    fn look_anew(&mut self) -> Result<()> {
        let connection = self.connection()?;
        connection.forget_tables();
        connection.session.newest_tables.clear();
        Ok(())
    }

    /// Notes the event that stops its topic, so that people can decide about it.
    async fn stop_topic(
        &mut self,
        record: &Record,
        error: Error,
        dead_letters: &DeadLetters,
    ) -> Result<Met> {
        let failure = Failure::lack(error.code, error.what.clone());
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let parked_events = self.state.parked_events();
        let noted = parked_events.note_stop(&connection.session.client, record, &failure);
        if noted.await? {
            dead_letters.send(&self.name, &[(record, &failure)]).await?;
        }
        let id = record.event_id();
        Ok(Met::Stopped(Error::new(
            error.code,
            error.what,
            format!(
                "{} The other tables go on. This one is tried again every 10 s, without SIGHUP too; or `companion-sink dlq skip {id} --reason TEXT` leaves the event out.",
                error.hint
            ),
        )))
    }

    async fn meet_in_transaction(
        &mut self,
        record: &Record,
        moves: &[Move],
        partitions: i32,
        dead_letters: &DeadLetters,
    ) -> Result<Met> {
        let client = self.connection()?.session.client.clone();
        let (barriers, topic) = (self.state.barriers(), &*record.topic);
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
                row.partition == moved.at.partition && row.next_offset == Some(moved.begin)
            })
        };
        if !moves.iter().all(is_there) {
            return Ok(Met::Moved);
        }
        match reached(version, rows.iter().map(Row::stand)) {
            None => {
                if is_new {
                    tell_others(&client, self.state.sink()).await?;
                }
                return Ok(Met::Waiting);
            }
            Some(reached) => {
                let all = rows.iter().filter_map(|row| row.moved(record, version));
                let all: Vec<Move> = all.collect();
                if !self
                    .do_together(record, &all, reached, dead_letters)
                    .await?
                {
                    return Ok(Met::Busy);
                }
            }
        }
        let barriers = self.state.barriers();
        barriers.forget(&client, topic, version).await?;
        tell_others(&client, self.state.sink()).await?;
        Ok(Met::Done)
    }

    /// Moves the positions and does what the event says, in the open transaction; false if another topic may give up first what it
    /// needs.
    async fn do_together(
        &mut self,
        record: &Record,
        moves: &[Move],
        reached: Reached,
        dead_letters: &DeadLetters,
    ) -> Result<bool> {
        let headers = Headers::read(record).map_err(unreadable)?;
        let refused = self.refused_whole(record, &headers).await?;
        if matches!(refused, Some(Refusal::Claimed(_))) && self.may_still_be_free(record)? {
            return Ok(false);
        }
        let state = &self.state;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let session: &mut Session = &mut connection.session;
        state.advance(session, moves).await?;
        let parked_events = state.parked_events();
        let decided = parked_events.decided(&session.client).await?;
        parked_events.forget_poison(&session.client, moves).await?;
        if matches!(decided.get(&*record.event_id()), Some(Decision::Skip)) {
            return Ok(true);
        }
        if let Some(refusal) = refused {
            let park = Park::apart(record, refusal.failure());
            self.park(&[park], dead_letters).await?;
            return Ok(true);
        }
        match reached {
            Reached::Apart { past } if record.op() == Some("t") => Err(missing_copy(record, past)),
            // A definition that is followed already is found so.
            Reached::Apart { .. } if record.op() != Some("schema") => {
                tracing::warn!(
                    sink = self.name,
                    topic = %record.topic,
                    "partitions are past the beginning or end of a snapshot: nothing is taken for gone"
                );
                Ok(true)
            }
            _ => self.apply_to_table(record, &headers).await.map(|()| true),
        }
    }

    /// Whether the topic that has the table may still give it up: topics are read independently here, and tables may have changed
    /// their names with each other.
    fn may_still_be_free(&mut self, record: &Record) -> Result<bool> {
        const LONGEST: Duration = Duration::from_secs(30);
        let event = (record.topic.clone(), version_of(record).to_owned());
        let claiming = &mut self.connection()?.claiming;
        let since = *claiming.entry(event.clone()).or_insert_with(Instant::now);
        let is_over = since.elapsed() > LONGEST;
        if is_over {
            claiming.remove(&event);
        }
        Ok(!is_over)
    }
}
