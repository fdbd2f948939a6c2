//! The replica: the tables of the source, kept row by row, with the offsets in the same transaction.

pub mod connection;
pub mod failure;
pub mod in_commit_order;
pub mod parked;
pub mod replay;
pub mod schema;
pub mod sharing;
pub mod state;
pub mod verification;
pub mod watchdog;
pub mod write;

use crate::sink::postgres::parked::store;
use crate::sink::postgres::sharing::partition_locks;
use crate::sink::postgres::write::newest_versions;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};

use crate::config;
use crate::config::Consistency;
use crate::delivery::watermark::Complete;
use crate::error::{Code, Error, Result};
use crate::event::{Headers, RowBody, SnapshotBody, TableName};
use crate::kafka::discovery::Topics;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::rejected::guarded::guarded;
use crate::rejected::origin;
use crate::rejected::parked_event::Decision;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::rule::Rules;
use crate::sink::Met;
use crate::sink::Sink;
use crate::sink::batch::Applied;
use crate::sink::batch::Batch;
use crate::sink::batch::Move;
use crate::sink::batch::Position;
pub use crate::sink::postgres::connection::open;
use crate::sink::postgres::connection::{IMMEDIATE, News, Session};
use crate::sink::postgres::failure::{Fault, classify};
use crate::sink::postgres::in_commit_order::search::Search;
pub use crate::sink::postgres::in_commit_order::search::Uncommitted;
pub use crate::sink::postgres::in_commit_order::transaction::{Commit, Outcome, Poison};
use crate::sink::postgres::parked::store::ParkedKeys;
use crate::sink::postgres::schema::bindings::{Bindings, Refusal, Wish};
use crate::sink::postgres::schema::tables::{Tables, missing_column};
use crate::sink::postgres::sharing::partition_locks::Sharing;
use crate::sink::postgres::state::State;
use crate::sink::postgres::write::change::{Change, identity_of};
use crate::sink::postgres::write::rows::{
    Aside, Mode, apply, apply_apart, is_parked, park_key, waits,
};
use crate::sink::postgres::write::stream::Stream;
use crate::sink::unreadable_snapshot;
use crate::status::SinkStatus;

/// A target that does not even undo what is open so long is not waited for.
const REST_MAX: Duration = Duration::from_secs(5);

/// The sink of kind `postgres`.
pub struct Postgres {
    name: String,
    live: Live,
    settings: config::Postgres,
    rules: Rules,
    state: State,
    connection: Option<Connection>,
    refusals: RefusalLimit,
    /// What the connection tells.
    news: Arc<News>,
    /// When to look for parked events that are tried again though nobody has decided about them.
    retry_at: Option<Instant>,
    /// For the event that the target refuses when a transaction ends.
    search: Search,
    /// Deferred constraints are looked at before a batch is committed, for one refused it once.
    looks_before_commit: bool,
    /// Reasons of the events that the open transaction parks.
    parked_in_transaction: Vec<Cow<'static, str>>,
}

struct Connection {
    session: Session,
    tables: Tables,
    bindings: Bindings,
    /// Events that wait for another topic to give a table up, and since when.
    claiming: HashMap<(Arc<str>, String), Instant>,
    /// Where instances share the partitions: the keys of those that this one has.
    parked: ParkedKeys,
    sharing: Sharing,
    /// An event stopped the sink, and was not passed since.
    halted_before: bool,
    /// What was decided about such events, by their ids.
    decided: HashMap<String, Decision>,
    /// A transaction is open that takes more events (`ordered`).
    in_transaction: bool,
    /// Foreign keys and triggers of the target are out of the way.
    is_replica: bool,
}

impl Connection {
    /// Reads again what is known of tables and topics.
    fn forget_tables(&mut self) {
        self.tables = Tables::default();
        self.bindings = Bindings::default();
    }
}

/// Something that goes aside: parked, and with a failure to the dead letters as well.
struct Park<'b> {
    record: &'b Record,
    key: Cow<'b, [u8]>,
    failure: Option<Failure>,
}

impl<'b> Park<'b> {
    /// A row event that goes aside, and its key to those that are `parked`.
    fn aside(
        record: &'b Record,
        headers: &Headers<'b>,
        failure: Option<Failure>,
        parked: &mut ParkedKeys,
    ) -> Self {
        if let Some(failure) = failure.as_ref().filter(|failure| failure.is_forged()) {
            return Park::apart(record, failure.clone());
        }
        let key = identity_of(record, headers);
        parked.insert((record.topic.clone(), key.into()));
        Park {
            record,
            key: key.into(),
            failure,
        }
    }

    /// An event that is refused.
    fn refused(record: &'b Record, key: &'b [u8], failure: Failure) -> Self {
        Park {
            record,
            key: key.into(),
            failure: Some(failure),
        }
    }

    /// An event that cannot come from its topic's table, or that is of no row: under a key that no row has, so that none waits
    /// behind it.
    fn apart(record: &'b Record, failure: Failure) -> Self {
        Park {
            record,
            key: store::apart(record).into(),
            failure: Some(failure),
        }
    }
}

/// What `check` wants to know of a role.
pub struct Role {
    /// It may set `session_replication_role`.
    pub is_replica: bool,
    /// It may do everything.
    pub is_superuser: bool,
}

/// Connects and sets the session, for `check`.
pub async fn try_connect(url: &str, name: &str) -> Result<Role> {
    let client = connection::connect(url, name, &Arc::default()).await?;
    let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = client.query_opt(sql, &[]).await;
    let row = row.map_err(|error| classify("asking for the role", &error))?;
    Ok(Role {
        is_superuser: row.is_some_and(|row| row.get(0)),
        is_replica: connection::become_replica(&client).await?,
    })
}

impl Postgres {
    /// The sink `name` of the instance `instance`.
    pub fn new(
        instance: &str,
        name: &str,
        live: Live,
        settings: config::Postgres,
        refusals: RefusalLimit,
    ) -> Self {
        Postgres {
            name: name.to_owned(),
            rules: Rules::new(name, live.clone()),
            live,
            state: State::new(
                &settings.state_schema,
                &state_name(instance, name, &settings),
            ),
            settings,
            connection: None,
            refusals,
            news: Arc::default(),
            retry_at: None,
            search: Search::default(),
            looks_before_commit: false,
            parked_in_transaction: Vec::new(),
        }
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        self.connection.as_mut().ok_or_else(not_connected)
    }

    /// Nothing of the target is held any more: no open transaction and no lock on its rows and tables. A sink that `is_over` for
    /// now connects again; another one keeps its session, which tells it when somebody has decided about an event.
    pub async fn hold_nothing(&mut self, is_over: bool) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.in_transaction = false;
        let undone = timeout(REST_MAX, connection.session.execute("ROLLBACK"));
        let is_undone = matches!(undone.await, Ok(Ok(())));
        if is_over || !is_undone {
            self.connection = None;
        }
    }

    /// Whether instances share the partitions.
    fn is_shared(&self) -> bool {
        self.settings.consistency == Consistency::Row
    }

    /// Makes the batch's row events ready, but those that are set aside or wait behind such a one.
    async fn changes<'b>(
        &mut self,
        batch: &'b Batch,
        parks: &mut Vec<Park<'b>>,
    ) -> Result<Vec<Change<'b>>> {
        let mut changes = Vec::with_capacity(batch.records.len());
        let mut aside = ParkedKeys::new();
        for record in &batch.records {
            if record.is_disbelieved {
                parks.push(Park::apart(record, Failure::unbelievable()));
                continue;
            }
            let headers = match Headers::read(record) {
                Ok(headers) => headers,
                Err(malformed) => {
                    let key = record.key().unwrap_or_default();
                    aside.insert((record.topic.clone(), key.into()));
                    parks.push(Park::refused(record, key, malformed.into()));
                    continue;
                }
            };
            if !headers.op.is_row() {
                if let Some(failure) = self.refused_apart(record, &headers).await? {
                    parks.push(Park::apart(record, failure));
                }
                continue;
            }
            match self
                .change(record, &headers, &mut Stream::default())
                .await?
            {
                Ok(change) if is_parked(&change, &aside) => {
                    park_key(&change, &mut aside);
                    parks.push(change.park(None));
                }
                Ok(change) => changes.push(change),
                Err(failure) => {
                    let parked = &self.connection()?.parked;
                    let waits = waits(record, &headers, parked) || waits(record, &headers, &aside);
                    let failure = (!waits || failure.is_forged()).then_some(failure);
                    parks.push(Park::aside(record, &headers, failure, &mut aside));
                }
            }
        }
        Ok(changes)
    }

    /// Makes a row event ready, or says why it is refused before the target sees it. Where the catalog has to be asked, what is
    /// `under_way` comes to its end first: behind an open COPY the question would wait for ever.
    async fn change<'b>(
        &mut self,
        record: &'b Record,
        headers: &Headers<'b>,
        under_way: &mut Stream,
    ) -> Result<std::result::Result<Change<'b>, Failure>> {
        guarded(self.make_change(record, headers, under_way))
            .await
            .unwrap_or_else(|failure| Ok(Err(failure)))
    }

    async fn make_change<'b>(
        &mut self,
        record: &'b Record,
        headers: &Headers<'b>,
        under_way: &mut Stream,
    ) -> Result<std::result::Result<Change<'b>, Failure>> {
        let body = match RowBody::parse(record) {
            Ok(body) => body,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        let Connection { tables, .. } = self.connection.as_ref().ok_or_else(not_connected)?;
        let source = body.source;
        let known = tables.known(&record.topic, headers.table);
        let is_named = |table: &usize| tables.get(*table).is_named_in(source.text());
        let table = match known.filter(is_named) {
            Some(table) => table,
            None => {
                let source = match source.table_name() {
                    Ok(source) => source,
                    Err(malformed) => return Ok(Err(malformed.into())),
                };
                if let Err(failure) = origin::check(headers.table, &source) {
                    return Ok(Err(failure));
                }
                match known {
                    Some(table) => table,
                    None => {
                        if let Err(fault) = under_way.finish().await {
                            return fault.refusal();
                        }
                        match self.find(record, headers, &source).await? {
                            Ok(table) => table,
                            Err(failure) => return Ok(Err(failure)),
                        }
                    }
                }
            }
        };
        let Some(Connection {
            session, tables, ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        let mut change = match Change::new(record, headers, body, table) {
            Ok(change) => change,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        if change.fit(tables.get(table)).is_some() {
            let source = match source.table_name() {
                Ok(source) => source,
                Err(malformed) => return Ok(Err(malformed.into())),
            };
            if let Err(fault) = under_way.finish().await {
                return fault.refusal();
            }
            // The target may have been changed since.
            tables
                .refresh(&session.client, &self.settings, headers.table, &source)
                .await?;
            let table = tables.get(table);
            if let Some(column) = change.fit(table) {
                return Ok(Err(missing_column(table, column).failure()));
            }
        }
        let shadow = self.settings.shadow.as_ref();
        if shadow.is_some_and(|shadow| shadow.writes_whole_rows) {
            change.become_whole();
        }
        let types = |column: &str| tables.get(table).type_of(column);
        Ok(self.rules.check(record, &types).map(|()| change))
    }

    /// The table of an event, if the event may go there.
    async fn find(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        source: &TableName<'_>,
    ) -> Result<std::result::Result<usize, Failure>> {
        if let Err(refusal) = self.admit(record, headers, source, false).await? {
            return Ok(Err(refusal.failure()));
        }
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let client = &connection.session.client;
        let (topic, header) = (&record.topic, headers.table);
        let tables = &mut connection.tables;
        let found = tables.find(client, &self.settings, topic, header, source);
        match found.await {
            Ok(table) => Ok(Ok(table)),
            Err(fault) => fault.refusal(),
        }
    }

    /// Whether an event may go to the table that it names.
    async fn admit(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        source: &TableName<'_>,
        is_rename: bool,
    ) -> Result<std::result::Result<(), Refusal>> {
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let wish = Wish {
            topic: &record.topic,
            header: headers.table,
            source,
            is_rename,
        };
        let client = &connection.session.client;
        let bindings = &mut connection.bindings;
        let topics = self.state.topics();
        bindings.admit(client, &topics, &self.settings, &wish).await
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
            is_replica,
            ..
        }) = self.connection.as_mut()
        else {
            return Err(not_connected());
        };
        state.begin_transaction(session, "").await?;
        state.advance(session, &batch.moves).await?;
        let old_keys: Vec<&[u8]> = changes.iter().filter_map(|change| change.old_key).collect();
        let parked_elsewhere = match old_keys.is_empty() {
            true => ParkedKeys::default(),
            // They may lie in partitions of other instances.
            false => {
                let parked_events = state.parked_events();
                parked_events.among(&session.client, &old_keys).await?
            }
        };
        let mut to_apply = Vec::with_capacity(changes.len());
        for change in changes {
            if is_parked(change, parked) || is_parked(change, &parked_elsewhere) {
                park_key(change, parked);
                parks.push(change.park(None));
            } else {
                to_apply.push(change);
            }
        }
        let mut applied = apply(session, tables, &to_apply, Mode::Upsert).await;
        if applied.is_ok() && (self.looks_before_commit || !*is_replica) {
            // At the end of the transaction nobody could tell which event it is.
            applied = session.check_constraints().await;
        }
        match applied {
            Ok(()) => return Ok(()),
            Err(Fault::Other(error)) => return Err(error),
            Err(Fault::Event(_) | Fault::Doubtful { .. } | Fault::Lack(_)) => {}
        }
        session.execute("ROLLBACK").await?;
        state.begin_transaction(session, IMMEDIATE).await?;
        state.advance(session, &batch.moves).await?;
        let Aside { refused, behind } = apply_apart(session, tables, &to_apply, parked).await?;
        for (change, failure) in refused {
            parks.push(change.park(Some(failure)));
        }
        for change in behind {
            parks.push(change.park(None));
        }
        Ok(())
    }

    /// Applies a batch and commits; what the target refused it for at its end.
    async fn apply_batch(
        &mut self,
        batch: &Batch,
        dead_letters: &DeadLetters,
    ) -> Result<std::result::Result<Applied, Fault>> {
        let mut parks = Vec::new();
        let changes = self.changes(batch, &mut parks).await?;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        newest_versions::make_ready(&mut connection.session, &connection.tables, &changes).await?;
        self.apply_in_transaction(batch, &changes, &mut parks)
            .await?;
        if !parks.is_empty() {
            self.park(&parks, dead_letters).await?;
        }
        self.note_chunks(batch, &parks).await?;
        let connection = self.connection()?;
        if let Some(doubt) = connection.session.commit().await? {
            return Ok(Err(doubt.fault));
        }
        Ok(Ok(Applied {
            dead_letters: parks
                .iter()
                .filter_map(|park| Some(park.failure.as_ref()?.reason.clone()))
                .collect(),
            parked_keys: connection.parked.len() as u64,
            unknown_rows: std::mem::take(&mut connection.session.unknown_rows),
        }))
    }

    /// Notes what the ends of a snapshot's chunks say, in the open transaction.
    async fn note_chunks(&mut self, batch: &Batch, parks: &[Park<'_>]) -> Result<()> {
        let state = &self.state;
        let Connection { session, .. } = self.connection.as_ref().ok_or_else(not_connected)?;
        let ends = batch.records.iter();
        let is_apart = |record: &Record| {
            let mut parks = parks.iter();
            parks.any(|park| std::ptr::eq(park.record, record))
        };
        let ends = ends.filter(|record| record.op() == Some("snapshot") && !is_apart(record));
        let mut ends: Vec<&Record> = ends.collect();
        // One order for all instances, as of the moves.
        ends.sort_by(|a, b| a.topic.cmp(&b.topic));
        for record in ends {
            let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
            state
                .snapshots()
                .keep(&session.client, record, &body)
                .await?;
        }
        Ok(())
    }

    /// Counts refused events, and sends them to the dead letters.
    async fn tell(
        &mut self,
        letters: &[(&Record, &Failure)],
        dead_letters: &DeadLetters,
    ) -> Result<()> {
        self.refusals
            .count(letters.iter().map(|(_, failure)| *failure))?;
        match letters.is_empty() {
            true => Ok(()),
            false => dead_letters.send(&self.name, letters).await,
        }
    }

    /// Sends the refused events to the dead letters and parks them and those behind, in the open transaction.
    async fn park(&mut self, parks: &[Park<'_>], dead_letters: &DeadLetters) -> Result<()> {
        let letters: Vec<_> = parks
            .iter()
            .filter_map(|park| park.failure.as_ref().map(|failure| (park.record, failure)))
            .collect();
        match self.search.is_on() {
            true => self.search.keep(&letters),
            false => self.tell(&letters, dead_letters).await?,
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
                .parked_events()
                .park(
                    &session.client,
                    &park.key,
                    park.record,
                    park.failure.as_ref(),
                )
                .await?;
            if !store::is_apart(&park.key) {
                parked.insert((park.record.topic.clone(), (*park.key).into()));
            }
        }
        let is_unique = letters.iter().any(|(_, failure)| failure.is_unique());
        if is_unique && self.is_shared() {
            // The state says when.
            self.retry_at = Some(Instant::now());
        }
        Ok(())
    }
}

impl Sink for Postgres {
    /// As by partitions it is run with `consistency = "row"` only.
    const SHARED: bool = true;

    async fn connect(&mut self) -> Result<()> {
        self.connection = None;
        // What the connection before still tells is of no interest.
        self.news = Arc::default();
        let client =
            connection::connect(&self.live.url(&self.name), &self.name, &self.news).await?;
        connection::become_active(&client, self.state.sink(), self.is_shared()).await?;
        let is_replica = connection::become_replica(&client).await?;
        if !is_replica {
            tracing::info!(
                sink = self.name,
                hint = "GRANT SET ON PARAMETER session_replication_role TO the sink's role (PostgreSQL 15 on), or have no foreign keys on the target.",
                "foreign keys and triggers of the target are active for this sink"
            );
        }
        self.state.create(&client).await?;
        self.state.connected(&client).await?;
        let parked = match self.is_shared() {
            // They come with the partitions.
            true => ParkedKeys::default(),
            false => self.state.parked_events().keys(&client).await?,
        };
        let halted_before = self.state.parked_events().has_poison(&client).await?;
        let decided = match &self.settings.shadow {
            Some(shadow) => shadow.decided.clone(),
            None => self.state.parked_events().decided(&client).await?,
        };
        let mut session = Session::new(client);
        if self.is_shared() {
            session.newest_schema = Some(self.state.schema().to_owned());
            partition_locks::join_instances(&session.client, self.state.sink()).await?;
        }
        self.connection = Some(Connection {
            session,
            tables: Tables::default(),
            bindings: Bindings::default(),
            claiming: HashMap::new(),
            parked,
            sharing: Sharing::default(),
            halted_before,
            decided,
            in_transaction: false,
            is_replica,
        });
        Ok(())
    }

    async fn share(&mut self, wanted: &Topics) -> Result<BTreeSet<TopicPartition>> {
        self.share_partitions(wanted).await
    }

    async fn others_acted(&self) {
        self.news.others_acted.notified().await;
    }

    async fn leave(&mut self) {
        self.leave_instances().await;
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
        let decided = self.decided_batch(batch)?;
        let batch = decided.as_ref().unwrap_or(batch);
        let refused = match self.apply_batch(batch, dead_letters).await? {
            Ok(applied) => return Ok(applied),
            Err(fault) => fault.error("COMMIT"),
        };
        if self.looks_before_commit {
            return Err(refused);
        }
        // Constraint triggers may be there for this role as well. Looked at before, each event is told.
        self.looks_before_commit = true;
        Err(Error::new(
            Code::Unreachable,
            refused.what,
            "It is tried again, and the event is looked for.",
        ))
    }

    async fn note_complete(&mut self, complete: &Complete) -> Result<()> {
        let Connection { session, .. } = self.connection.as_ref().ok_or_else(not_connected)?;
        self.state.forget_newest(session, &complete.version).await
    }

    fn no_answer(&self, status: &SinkStatus) -> impl Future<Output = Error> + Send + 'static {
        watchdog::no_answer(self.live.clone(), status.clone())
    }

    async fn rest(&mut self, is_over: bool) {
        self.hold_nothing(is_over).await;
    }

    async fn decided(&self) {
        let retry = async {
            match self.retry_at {
                Some(at) => sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.news.decided.notified() => {}
            () = retry => {}
        }
    }

    async fn resumed(&mut self) {
        self.news.decided.notified().await;
    }

    async fn carry_out(&mut self, dead_letters: &DeadLetters) -> Result<u64> {
        self.carry_out_decisions(dead_letters).await
    }

    fn waits_together(&self, record: &Record) -> bool {
        !self.is_refused_before_it_waits(record)
    }

    async fn meet(
        &mut self,
        record: &Record,
        moves: &[Move],
        partitions: i32,
        dead_letters: &DeadLetters,
    ) -> Result<Met> {
        self.meet_at(record, moves, partitions, dead_letters).await
    }
}

/// The sink in its state; the generation that a replay builds is another one.
fn state_name(instance: &str, name: &str, settings: &config::Postgres) -> String {
    match settings.shadow {
        Some(_) => format!("{instance}.{name}/replay"),
        None => format!("{instance}.{name}"),
    }
}

fn not_connected() -> Error {
    Error::new(
        Code::Unreachable,
        "postgres: not connected",
        "It is tried again.",
    )
}
