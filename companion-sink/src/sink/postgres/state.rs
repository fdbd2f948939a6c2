//! What the sink keeps in the target: offsets and parked events, written in the transaction of the rows.

use change::trouble::Trouble;
use change::version::Place;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::error::{Code, Result};
use crate::kafka::reader::TopicPartition;
use crate::sink::batch::Move;
use crate::sink::batch::Position;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::parked::decisions::Decisions;
use crate::sink::postgres::parked::store::{HOLDS_ROWS, ParkedEvents};
use crate::sink::postgres::schema::bindings::Topics;
use crate::sink::postgres::schema::definitions::FollowedDefinition;
use crate::sink::postgres::schema::tables::literal;
use crate::sink::postgres::schema::target::Target;
use crate::sink::postgres::schema::target::quoted;
use crate::sink::postgres::sharing::barrier::Barriers;
use crate::sink::postgres::write::newest_versions;
use crate::sink::postgres::write::snapshot::Snapshots;

/// The first key of the lock that transactions share which change a sink's content, and that a replay takes alone.
pub(crate) const GATE: &str = "hashtext('companion-sink gate')";

/// The tables of the state schema, for one sink.
pub(crate) struct ReplicaState {
    /// Quoted.
    schema: String,
    sink: String,
    /// What a transaction begins with that changes the content; it says which replay the content is of.
    gate: String,
    /// The replay that the content was of when this was connected; 0 for none.
    generation: i64,
}

impl ReplicaState {
    /// The sink with its instance's name, as the state has it.
    pub(crate) fn sink(&self) -> &str {
        &self.sink
    }

    /// The state's schema, quoted.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// Everything up to a commit is applied: of keys with several spellings nothing older has to be known (`newest`).
    pub(crate) async fn forget_newest(&self, session: &Session, version: &str) -> Result<()> {
        newest_versions::forget(session, &self.schema, &self.sink, version).await
    }

    /// The state of `sink` (`<name>.<sink>`, as its consumer group) in `schema`.
    pub(crate) fn new(schema: &str, sink: &str) -> Self {
        let schema = quoted(schema);
        let literal = literal(sink);
        let gate = format!(
            "SELECT pg_advisory_xact_lock_shared({GATE}, hashtext({literal}));
             SELECT coalesce(max(generation), 0) FROM {schema}.replays WHERE sink = {literal}"
        );
        ReplicaState {
            schema,
            sink: sink.to_owned(),
            gate,
            generation: 0,
        }
    }

    /// The parked events.
    pub(crate) fn parked_events(&self) -> ParkedEvents<'_> {
        ParkedEvents {
            schema: &self.schema,
            sink: &self.sink,
        }
    }

    /// What people decided about them.
    pub(crate) fn decisions(&self) -> Decisions<'_> {
        Decisions {
            schema: &self.schema,
            sink: &self.sink,
        }
    }

    /// The partitions that wait at events about whole tables.
    pub(crate) fn barriers(&self) -> Barriers<'_> {
        Barriers {
            schema: &self.schema,
            sink: &self.sink,
        }
    }

    /// The tables that topics belong to.
    pub(crate) fn topics(&self) -> Topics<'_> {
        Topics {
            schema: &self.schema,
            sink: &self.sink,
        }
    }

    /// The snapshots that are under way.
    pub(crate) fn snapshots(&self) -> Snapshots<'_> {
        Snapshots {
            schema: &self.schema,
            sink: &self.sink,
        }
    }

    /// Makes the tables where they are missing.
    pub(crate) async fn create(&self, client: &Client) -> Result<()> {
        let schema = &self.schema;
        let there = client
            .query_one(
                "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest($1::text[]) AS name",
                &[&[
                    "offsets",
                    "parked",
                    "actions",
                    "snapshots",
                    "complete_up_to",
                    "definitions",
                    "loading",
                    "replays",
                    "replica",
                    "barriers",
                    "topics",
                ]
                .map(|name| format!("{schema}.{name}"))
                .to_vec()],
            )
            .await
            .map_err(|error| classify("looking for the offsets", &error))?;
        // CREATE ... IF NOT EXISTS wants rights that the role need not have once the tables are there.
        if there.get(0) {
            return Ok(());
        }
        // Instances that start together would be in each other's way.
        let sql = format!(
            "SELECT pg_advisory_xact_lock(hashtext('companion-sink'), 0);
             CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS {schema}.offsets (
                 sink text NOT NULL, topic text NOT NULL, partition integer NOT NULL,
                 next_offset bigint NOT NULL, version text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(),
                 PRIMARY KEY (sink, topic, partition));
             COMMENT ON TABLE {schema}.offsets IS 'companion-sink: how far each partition is applied, and the highest version seen there';
             {parked};
             CREATE TABLE IF NOT EXISTS {schema}.complete_up_to (
                 sink text PRIMARY KEY, version text NOT NULL, commit_time timestamptz NOT NULL);
             COMMENT ON TABLE {schema}.complete_up_to IS 'companion-sink: the newest commit of the source that is here, of sinks with consistency = \"transaction\"';
             CREATE TABLE IF NOT EXISTS {schema}.definitions (
                 sink text NOT NULL, topic text NOT NULL, target_schema text NOT NULL, target_table text NOT NULL,
                 definition text NOT NULL, is_dropped boolean NOT NULL DEFAULT false, PRIMARY KEY (sink, topic));
             COMMENT ON TABLE {schema}.definitions IS 'companion-sink: the definitions of the source''s tables that the target follows';
             CREATE TABLE IF NOT EXISTS {schema}.loading (
                 sink text NOT NULL, topic text NOT NULL, since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (sink, topic));
             COMMENT ON TABLE {schema}.loading IS 'companion-sink: topics whose rows a snapshot of the source still brings';
             CREATE TABLE IF NOT EXISTS {schema}.replays (
                 sink text PRIMARY KEY, generation bigint NOT NULL, begun_at text NOT NULL, at timestamptz NOT NULL DEFAULT now());
             COMMENT ON TABLE {schema}.replays IS 'companion-sink: how often the content was replaced by a replay, the last time, and from where on';
             {snapshots};
             {barriers};
             {topics};
             CREATE OR REPLACE VIEW {schema}.replica AS
                 SELECT p.sink,
                     CASE WHEN EXISTS (SELECT FROM {schema}.loading l WHERE l.sink = p.sink) THEN 'loading'
                          WHEN k.keys > 0 THEN 'parked'
                          ELSE 'consistent' END AS state,
                     p.commit_time, p.version, k.keys AS parked_keys
                 FROM {schema}.complete_up_to p
                 CROSS JOIN LATERAL (SELECT count(DISTINCT (q.topic, q.key)) FROM {schema}.parked q WHERE q.sink = p.sink AND NOT q.halts AND {HOLDS_ROWS}) AS k(keys);
             COMMENT ON VIEW {schema}.replica IS 'companion-sink: whether readers see the source as it was after the commit that is named'",
            parked = ParkedEvents::create(schema),
            snapshots = Snapshots::create(schema),
            barriers = Barriers::create(schema),
            topics = Topics::create(schema)
        );
        client
            .batch_execute(&sql)
            .await
            .map_err(|error| classify("making the state schema", &error))
    }

    /// Notes which replay the content is of, before anything is read of it.
    pub(crate) async fn connected(&mut self, client: &Client) -> Result<()> {
        let sql = format!(
            "SELECT coalesce(max(generation), 0) FROM {}.replays WHERE sink = $1",
            self.schema
        );
        let row = client.query_one(&sql, &[&self.sink]).await;
        let row = row.map_err(|error| classify("reading the replays", &error))?;
        self.generation = row.get(0);
        Ok(())
    }

    /// Opens a transaction that changes the content, and does `more` in it. While a replay takes the content's place it waits;
    /// afterwards what this instance knows is no longer true (CDC1009).
    pub(crate) async fn begin_transaction(&self, session: &mut Session, more: &str) -> Result<()> {
        let generation = session.begin(&format!("{more}{}", self.gate)).await?;
        let generation = generation.and_then(|generation| generation.parse::<i64>().ok());
        if generation == Some(self.generation) {
            return Ok(());
        }
        Err(Trouble::new(
            Code::OtherInstance,
            format!(
                "postgres: a replay has taken the place of sink {}",
                self.sink
            ),
            "Nothing to do: this one goes on from where the replay has come to.",
        ))
    }

    /// The positions of `wanted`.
    pub(crate) async fn positions(
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
    pub(crate) async fn begin(
        &self,
        client: &Client,
        starts: &[(TopicPartition, i64)],
    ) -> Result<()> {
        let starts = starts.iter().map(|(at, next_offset)| {
            let position = Position {
                next_offset: *next_offset,
                version: String::new(),
            };
            (at.clone(), position)
        });
        self.begin_at(client, &starts.collect::<Vec<_>>()).await
    }

    /// As [`ReplicaState::begin`], with the highest versions before.
    pub(crate) async fn begin_at(
        &self,
        client: &Client,
        starts: &[(TopicPartition, Position)],
    ) -> Result<()> {
        let topics: Vec<&str> = starts.iter().map(|(at, _)| &*at.topic).collect();
        let partitions: Vec<i32> = starts.iter().map(|(at, _)| at.partition).collect();
        let offsets: Vec<i64> = starts.iter().map(|(_, start)| start.next_offset).collect();
        let versions: Vec<&str> = starts.iter().map(|(_, start)| &*start.version).collect();
        let sql = format!(
            "INSERT INTO {}.offsets (sink, topic, partition, next_offset, version)
             SELECT $1, u.* FROM unnest($2::text[], $3::int[], $4::bigint[], $5::text[]) AS u(topic, partition, next_offset, version)
             ON CONFLICT DO NOTHING",
            self.schema
        );
        let inserted = client
            .execute(
                &sql,
                &[&self.sink, &topics, &partitions, &offsets, &versions],
            )
            .await
            .map_err(|error| classify("writing the offsets", &error))?;
        self.expect(inserted, starts.len())
    }

    /// Moves the positions inside the open transaction, each only from where the batch began (CDC1009).
    pub(crate) async fn advance(&self, session: &mut Session, moves: &[Move]) -> Result<()> {
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

    /// Notes the newest commit of the source that the open transaction brings.
    pub(crate) async fn note_progress(
        &self,
        session: &mut Session,
        place: Place,
        time_us: i64,
    ) -> Result<()> {
        let sql = format!(
            "INSERT INTO {}.complete_up_to (sink, version, commit_time) VALUES ($1, $2, to_timestamp($3::bigint / 1000000.0::float8))
             ON CONFLICT (sink) DO UPDATE SET version = EXCLUDED.version, commit_time = EXCLUDED.commit_time",
            self.schema
        );
        let failed = |error| classify("noting how far the replica is complete", &error);
        let statement = session.prepared(&sql, &[]).await.map_err(failed)?;
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.sink, &place.to_string(), &time_us];
        session
            .client
            .execute(&statement, &parameters)
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Notes that a snapshot brings rows of a topic.
    pub(crate) async fn note_loading(&self, client: &Client, topic: &str) -> Result<()> {
        let sql = format!(
            "INSERT INTO {}.loading (sink, topic) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            self.schema
        );
        let noted = client.execute(&sql, &[&self.sink, &topic]).await;
        noted
            .map(drop)
            .map_err(|error| classify("noting a snapshot", &error))
    }

    /// Notes that a topic's rows are all there.
    pub(crate) async fn note_loaded(&self, client: &Client, topic: &str) -> Result<()> {
        let sql = format!(
            "DELETE FROM {}.loading WHERE sink = $1 AND topic = $2",
            self.schema
        );
        let noted = client.execute(&sql, &[&self.sink, &topic]).await;
        noted
            .map(drop)
            .map_err(|error| classify("noting a snapshot", &error))
    }

    /// The definition of a topic's table that is followed.
    pub(crate) async fn followed(
        &self,
        client: &Client,
        topic: &str,
    ) -> Result<Option<FollowedDefinition>> {
        let sql = format!(
            "SELECT target_schema, target_table, definition, is_dropped FROM {}.definitions WHERE sink = $1 AND topic = $2",
            self.schema
        );
        let row = client
            .query_opt(&sql, &[&self.sink, &topic])
            .await
            .map_err(|error| classify("reading a definition", &error))?;
        let Some(row) = row else { return Ok(None) };
        let target = Target {
            schema: row.get(0),
            table: row.get(1),
        };
        let definition: &str = row.get(2);
        let definition = serde_json::from_str(definition).map_err(|error| {
            Trouble::new(
                Code::TargetRefuses,
                format!("postgres: the definition of {topic} in the state cannot be read: {error}"),
                format!(
                    "DELETE FROM {}.definitions for the topic, then send SIGHUP.",
                    self.schema
                ),
            )
        })?;
        Ok(Some(FollowedDefinition {
            target,
            definition,
            is_dropped: row.get(3),
        }))
    }

    /// Notes the definition of a topic's table that is followed now.
    pub(crate) async fn follow(
        &self,
        client: &Client,
        topic: &str,
        now: &FollowedDefinition,
    ) -> Result<()> {
        let sql = format!(
            "INSERT INTO {}.definitions (sink, topic, target_schema, target_table, definition, is_dropped) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (sink, topic) DO UPDATE SET target_schema = EXCLUDED.target_schema,
                 target_table = EXCLUDED.target_table, definition = EXCLUDED.definition, is_dropped = EXCLUDED.is_dropped",
            self.schema
        );
        let definition = serde_json::to_string(&now.definition).unwrap_or_default();
        let parameters: [&(dyn ToSql + Sync); 6] = [
            &self.sink,
            &topic,
            &now.target.schema,
            &now.target.table,
            &definition,
            &now.is_dropped,
        ];
        let noted = client.execute(&sql, &parameters).await;
        noted
            .map(drop)
            .map_err(|error| classify("noting a definition", &error))
    }

    fn expect(&self, written: u64, expected: usize) -> Result<()> {
        if written == expected as u64 {
            return Ok(());
        }
        Err(Trouble::new(
            Code::OtherInstance,
            format!(
                "postgres: another instance moved the offsets of sink {}",
                self.sink
            ),
            "Nothing is lost; this one reads them again.",
        ))
    }
}
