//! A replay's own connection to the target. It makes the place where the replay builds, and in the end, in one transaction, it
//! brings the tables that readers use to what was built, with the offsets and whatever else the state has.

use std::collections::HashMap;
use std::sync::Arc;

use change::trouble::Trouble;
use change::version::{Place, Version};
use tokio_postgres::Client;

use crate::error::{Code, Result};
use crate::kafka::reader::TopicPartition;
use crate::sink::batch::Position;
use crate::sink::changes::Changes;
use crate::sink::postgres::connection;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::replay::built_table::{BuiltTable, LiveSink};
use crate::sink::postgres::replay::shadow::Shadow;
use crate::sink::postgres::schema::definitions::FollowedDefinition;
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::tables::Tables;
use crate::sink::postgres::schema::tables::literal;
use crate::sink::postgres::schema::tables::missing_table;
use crate::sink::postgres::schema::target::quoted;
use crate::sink::postgres::settings::Settings;
use crate::sink::postgres::state::{GATE, ReplicaState};

/// Large comparisons are planned as the server sees fit, not as for the few rows of a batch. Whoever holds what is needed is
/// waited for, but not for ever.
const SESSION: &str = "
    RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin; RESET plan_cache_mode;
    SET synchronous_commit = on; SET lock_timeout = '30s'";
/// Where foreign keys of the target act, a comparison may undo another one: repeated until nothing differs, at most so often.
const PASSES_MAX: usize = 4;

/// The connection of a replay.
pub(crate) struct Control {
    client: Client,
    /// The process that serves it.
    process: i32,
    name: String,
    url: String,
    settings: Settings,
    /// Foreign keys and triggers of the target are out of the way.
    is_replica: bool,
    /// What readers use.
    live: ReplicaState,
    /// What the replay builds.
    replay: ReplicaState,
    /// The state's schema, and the replay's, quoted.
    live_schema: String,
    replay_schema: String,
    shadow: Arc<Shadow>,
}

/// What the sink has that was not built by events of the replay: the copies of its tables.
pub(crate) struct Copied {
    /// How far the sink was.
    pub(crate) positions: Vec<Option<Position>>,
    /// What it follows, by topic.
    pub(crate) followed: HashMap<String, FollowedDefinition>,
}

/// Why what was built cannot take its place yet.
pub(crate) enum NotYet {
    /// The sink has not followed a change of this topic's definition that the replay has.
    Definition(String),
    /// It cannot at all, or not at this time.
    Failed(Trouble),
}

impl From<Trouble> for NotYet {
    fn from(error: Trouble) -> Self {
        NotYet::Failed(error)
    }
}

impl Control {
    /// Connects for the sink `name` of the instance `instance`; only one replay of a sink may be under way (CDC1009).
    pub(crate) async fn connect(
        instance: &str,
        name: &str,
        url: &str,
        settings: &Settings,
    ) -> Result<Control> {
        let client = connection::connect(url, name, &Arc::default()).await?;
        let failed = |error| classify("setting the session", &error);
        client.batch_execute(SESSION).await.map_err(failed)?;
        let is_replica = connection::become_replica(&client).await?;
        let sink = format!("{instance}.{name}");
        let row = client
            .query_one(
                "SELECT pg_backend_pid(), pg_try_advisory_lock(hashtext('companion-sink replay'), hashtext($1))",
                &[&sink],
            )
            .await
            .map_err(failed)?;
        if !row.get::<_, bool>(1) {
            return Err(Trouble::new(
                Code::OtherInstance,
                format!("postgres: another replay of sink {name} is under way"),
                "Wait for its end; one that was killed is gone when its session is (pg_stat_activity).",
            ));
        }
        let schema = Shadow::schema_name(instance, name);
        Ok(Control {
            process: row.get(0),
            client,
            name: name.to_owned(),
            url: url.to_owned(),
            is_replica,
            live: ReplicaState::new(&settings.state_schema, &sink),
            replay: ReplicaState::new(&schema, &format!("{sink}/replay")),
            live_schema: quoted(&settings.state_schema),
            replay_schema: quoted(&schema),
            settings: settings.clone(),
            shadow: Arc::new(Shadow::new(schema, HashMap::new(), HashMap::new(), false)),
        })
    }

    /// Makes the place where the replay builds, on a copy of what is there if `is_copy`; what an earlier one left there goes.
    pub(crate) async fn prepare(&mut self, is_copy: bool) -> Result<()> {
        self.live.create(&self.client).await?;
        self.drop_shadow().await?;
        let sql = format!("CREATE SCHEMA {}", self.replay_schema);
        self.execute("making the replay's schema", &sql).await?;
        self.replay.create(&self.client).await?;
        let followed = self.followed().await?;
        let definitions = followed.into_values();
        self.shadow = Arc::new(Shadow::new(
            self.shadow.schema.clone(),
            definitions
                .map(|followed| (followed.target, followed.definition))
                .collect(),
            self.live.decisions().decided_ever(&self.client).await?,
            is_copy,
        ));
        Ok(())
    }

    /// The settings of the sink that builds.
    pub(crate) fn settings(&self) -> Settings {
        self.settings.in_shadow(Arc::clone(&self.shadow))
    }

    /// What the sink follows, by topic.
    pub(crate) async fn followed(&self) -> Result<HashMap<String, FollowedDefinition>> {
        let sql = format!(
            "SELECT topic FROM {}.definitions WHERE sink = $1",
            self.live_schema
        );
        let rows = self.client.query(&sql, &[&self.live.sink()]).await;
        let rows = rows.map_err(|error| classify("reading the definitions", &error))?;
        let mut followed = HashMap::new();
        for row in rows {
            let topic: String = row.get(0);
            if let Some(now) = self.live.followed(&self.client, &topic).await? {
                followed.insert(topic, now);
            }
        }
        Ok(followed)
    }

    /// How far the sink is.
    pub(crate) async fn live_positions(
        &self,
        wanted: &[TopicPartition],
    ) -> Result<Vec<Option<Position>>> {
        self.live.positions(&self.client, wanted).await
    }

    /// How far the replay is.
    pub(crate) async fn positions(
        &self,
        wanted: &[TopicPartition],
    ) -> Result<Vec<Option<Position>>> {
        self.replay.positions(&self.client, wanted).await
    }

    /// The source's newest commit that the sink has, if it is consistent by transactions.
    pub(crate) async fn live_place(&self) -> Result<Option<Place>> {
        let sql = format!(
            "SELECT version FROM {}.complete_up_to WHERE sink = $1",
            self.live_schema
        );
        let row = self.client.query_opt(&sql, &[&self.live.sink()]).await;
        let row =
            row.map_err(|error| classify("reading how far the replica is complete", &error))?;
        let version = row.and_then(|row| {
            let place: String = row.get(0);
            Version::parse(&format!("{place}-0000000000-00"))
        });
        Ok(version.map(|version| version.place()))
    }

    /// Notes where the replay begins.
    pub(crate) async fn begin_at(&self, starts: &[(TopicPartition, Position)]) -> Result<()> {
        self.replay.begin_at(&self.client, starts).await
    }

    /// Copies the tables that readers use, as they are in one moment. Snapshots that are under way then would not end.
    pub(crate) async fn copy(&self, wanted: &[TopicPartition]) -> Result<Copied> {
        self.execute(
            "copying the tables",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
        )
        .await?;
        let sql = format!(
            "SELECT string_agg(DISTINCT topic, ', ') FROM (SELECT sink, topic FROM {s}.snapshots UNION ALL SELECT sink, topic FROM {s}.loading) AS u
             WHERE sink = $1",
            s = self.live_schema
        );
        let row = self.client.query_one(&sql, &[&self.live.sink()]).await;
        let row = row.map_err(|error| classify("reading the snapshots", &error))?;
        if let Some(topics) = row.get::<_, Option<String>>(0) {
            return Err(Trouble::new(
                Code::TargetRefuses,
                format!("a snapshot of the source is under way: {topics}"),
                "Wait until companion.replica no longer says loading, then replay; or replay from BEGINNING.",
            ));
        }
        let copied = Copied {
            positions: self.live_positions(wanted).await?,
            followed: self.followed().await?,
        };
        for (topic, followed) in &copied.followed {
            self.copy_table(topic, followed).await?;
        }
        self.execute("copying the tables", "COMMIT").await?;
        Ok(copied)
    }

    async fn copy_table(&self, topic: &str, followed: &FollowedDefinition) -> Result<()> {
        let target = &followed.target;
        self.shadow.make_shadow(&self.client, target).await?;
        let shadow = self.shadow.of(target);
        let columns = self.columns(&target.quoted(), "").await?;
        let sql = format!(
            "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {}",
            shadow.quoted(),
            target.quoted()
        );
        self.execute("copying the tables", &sql).await?;
        let now = FollowedDefinition {
            target: shadow,
            ..followed.clone()
        };
        self.replay.follow(&self.client, topic, &now).await
    }

    /// Events that were parked before the replay's beginning stay parked.
    pub(crate) async fn copy_parked(&self) -> Result<()> {
        let columns = self
            .columns(&format!("{}.parked", self.live_schema), "sink")
            .await?;
        let sql = format!(
            "INSERT INTO {replay}.parked (sink, {columns}) SELECT {}, p.* FROM (SELECT {columns} FROM {live}.parked
                 WHERE sink = {} AND NOT halts) AS p
             JOIN {replay}.offsets AS o ON o.topic = p.topic AND o.partition = p.partition AND p.\"offset\" < o.next_offset",
            literal(self.replay.sink()),
            literal(self.live.sink()),
            replay = self.replay_schema,
            live = self.live_schema,
        );
        self.execute("copying the parked events", &sql).await
    }

    /// The columns of a table that can be written, but for `without`; quoted, with commas.
    async fn columns(&self, table: &str, without: &str) -> Result<String> {
        let row = self
            .client
            .query_one(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_catalog.pg_attribute
                 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> $2::text",
                &[&table, &without],
            )
            .await
            .map_err(|error| classify("reading the catalog", &error))?;
        row.get::<_, Option<String>>(0).ok_or_else(|| {
            Trouble::new(
                Code::TargetRefuses,
                format!("postgres: table {table} does not exist on the target"),
                "Replay from BEGINNING: that makes it anew.",
            )
        })
    }

    /// Looks at what was built, so that comparisons are planned well.
    pub(crate) async fn analyze(&self) -> Result<()> {
        for table in self.built().await? {
            let sql = format!("ANALYZE {}", table.shadow.quoted());
            self.execute("looking at the replay's tables", &sql).await?;
        }
        Ok(())
    }

    /// Opens the transaction in which what was built takes its place. From here on the sink's instances wait.
    pub(crate) async fn hold(&self) -> Result<()> {
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({GATE}, hashtext({}));
             SET CONSTRAINTS ALL DEFERRED",
            literal(self.live.sink())
        );
        self.execute("waiting for the sink's transaction", &sql)
            .await
    }

    /// Lets the sink go on; nothing was changed.
    pub(crate) async fn release(&self) -> Result<()> {
        self.execute("leaving everything as it was", "ROLLBACK")
            .await
    }

    /// Brings the tables that readers use to what was built.
    pub(crate) async fn merge(&self) -> std::result::Result<Vec<Changes>, NotYet> {
        let built = self.built().await?;
        let mut tables = Tables::default();
        let mut ready = Vec::new();
        for built in &built {
            if built.is_behind {
                return Err(NotYet::Definition(built.topic.clone()));
            }
            let table = self.readers_table(&mut tables, built).await?;
            ready.push((built, table));
        }
        let mut all: Vec<Changes> = Vec::new();
        for pass in 0..PASSES_MAX {
            let mut written = 0;
            for (place, (built, table)) in ready.iter().enumerate() {
                let changes = built
                    .pair(&self.settings, table)?
                    .merge(&self.client)
                    .await?;
                written += changes.total();
                match all.get_mut(place) {
                    None => all.push(changes),
                    Some(sum) => sum.add(&changes),
                }
            }
            if written == 0 || self.is_replica || pass + 1 == PASSES_MAX {
                break;
            }
        }
        // Of snapshots under way: what the merge wrote counts as written before their beginning, what is touched now as written
        // since. The savepoint lasts until the end, and has the transaction id between the two.
        self.execute("bringing snapshots over", "SAVEPOINT since_snapshots")
            .await?;
        for (built, table) in &ready {
            if let Some(xid) = &built.snapshot_since {
                built
                    .pair(&self.settings, table)?
                    .touch(&self.client, xid)
                    .await?;
            }
        }
        Ok(all)
    }

    /// Gives the sink the offsets and all else that the replay has come to, and commits.
    pub(crate) async fn take_over(&self, begun_at: &str) -> Result<()> {
        let (live, replay) = (&self.live_schema, &self.replay_schema);
        let (sink, built) = (literal(self.live.sink()), literal(self.replay.sink()));
        let parked = self.columns(&format!("{live}.parked"), "sink").await?;
        let of_topics = format!("sink = {sink} AND topic IN (SELECT topic FROM {replay}.offsets)");
        // A later copy of an event is one for ever, and readers never see the newest commit go back.
        let sql = format!(
            "INSERT INTO {live}.offsets AS o (sink, topic, partition, next_offset, version)
                 SELECT {sink}, topic, partition, next_offset, version FROM {replay}.offsets
                 ON CONFLICT (sink, topic, partition) DO UPDATE SET next_offset = EXCLUDED.next_offset,
                     version = greatest(o.version, EXCLUDED.version), updated_at = now();
             INSERT INTO {live}.complete_up_to AS p (sink, version, commit_time)
                 SELECT {sink}, version, commit_time FROM {replay}.complete_up_to WHERE sink = {built}
                 ON CONFLICT (sink) DO UPDATE SET version = EXCLUDED.version, commit_time = EXCLUDED.commit_time
                     WHERE EXCLUDED.version > p.version;
             DELETE FROM {live}.parked WHERE {of_topics};
             INSERT INTO {live}.parked (sink, {parked}) SELECT {sink}, {parked} FROM {replay}.parked WHERE sink = {built};
             DELETE FROM {live}.loading WHERE {of_topics};
             INSERT INTO {live}.loading (sink, topic, since) SELECT {sink}, topic, since FROM {replay}.loading WHERE sink = {built};
             DELETE FROM {live}.snapshots WHERE {of_topics};
             INSERT INTO {live}.snapshots (sink, topic, snapshot_id, begun_at, partial, kept)
                 SELECT {sink}, topic, snapshot_id, '', partial, kept FROM {replay}.snapshots WHERE sink = {built};
             UPDATE {live}.snapshots SET begun_at = xmin::text WHERE {of_topics};
             INSERT INTO {live}.replays AS r (sink, generation, begun_at) VALUES ({sink}, 1, {})
                 ON CONFLICT (sink) DO UPDATE SET generation = r.generation + 1, begun_at = EXCLUDED.begun_at, at = now();
             COMMIT",
            literal(begun_at)
        );
        for built in self.built().await? {
            if let Some(definition) = built.definition {
                let now = FollowedDefinition {
                    target: built.target,
                    definition,
                    is_dropped: built.is_dropped,
                };
                self.live.follow(&self.client, &built.topic, &now).await?;
            }
        }
        self.execute("taking the sink's place", &sql).await
    }

    /// Drops what was built.
    pub(crate) async fn drop_shadow(&self) -> Result<()> {
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.replay_schema);
        self.execute("dropping the replay's schema", &sql).await
    }

    /// Ends whatever this connection is at, and drops what was built.
    pub(crate) async fn give_up(&self) -> Result<()> {
        let key = format!("sink.{}.url", self.name);
        let other = connection::open(&self.url, &self.name, &key).await?;
        other
            .execute("SELECT pg_cancel_backend($1)", &[&self.process])
            .await
            .map_err(|error| classify("cancelling a statement", &error))?;
        // The first one may be what is cancelled, if nothing else was under way.
        if self.release().await.is_err() {
            self.release().await?;
        }
        self.drop_shadow().await
    }

    async fn built(&self) -> Result<Vec<BuiltTable>> {
        let live = LiveSink {
            schema: &self.live_schema,
            sink: self.live.sink(),
        };
        BuiltTable::all(&self.client, &self.shadow, &live).await
    }

    /// The table that readers use; made like its shadow where it is missing and may be made.
    async fn readers_table(&self, tables: &mut Tables, built: &BuiltTable) -> Result<Table> {
        let (client, settings) = (&self.client, &self.settings);
        let load = tables.load(client, settings, built.target.clone(), &built.source);
        if let Some(table) = load.await? {
            return Ok(table);
        }
        if !settings.create_tables {
            return Err(missing_table(&built.target).error());
        }
        let sql = format!(
            "CREATE SCHEMA IF NOT EXISTS {}; CREATE TABLE {} (LIKE {} INCLUDING ALL)",
            quoted(&built.target.schema),
            built.target.quoted(),
            built.shadow.quoted()
        );
        self.execute("making a missing table", &sql).await?;
        let load = tables.load(client, settings, built.target.clone(), &built.source);
        load.await?
            .ok_or_else(|| missing_table(&built.target).error())
    }

    async fn execute(&self, doing: &str, sql: &str) -> Result<()> {
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| classify(doing, &error))
    }
}
