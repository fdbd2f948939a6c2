//! A replica: its connection, and what every way of writing does with it.

use crate::sink::Positions;
use crate::sink::postgres::parked::store;
use crate::sink::postgres::settings::Settings;
use crate::sink::postgres::sharing::partition_locks;

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use tokio::time::{sleep_until, timeout};

use crate::config::Consistency;
use crate::error::{Code, Result};
use crate::event::{Headers, RowBody, TableName};
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
use crate::sink::batch::Batch;
use crate::sink::batch::Position;
use crate::sink::postgres::connection::{News, Session};
use crate::sink::postgres::in_commit_order::search::Search;
use crate::sink::postgres::parked::store::ParkedKeys;
use crate::sink::postgres::schema::bindings::{Bindings, Refusal, Wish};
use crate::sink::postgres::schema::tables::{Tables, missing_column};
use crate::sink::postgres::sharing::partition_locks::Sharing;
use crate::sink::postgres::state::ReplicaState;
use crate::sink::postgres::write::change::RowChange;
use crate::sink::postgres::write::stream::Stream;
use crate::status::SinkStatus;

use crate::rejected::failure::NotApplied;
use crate::sink::postgres::connection;
use crate::sink::postgres::parked::park::Park;

/// A target that does not even undo what is open so long is not waited for.
const REST_MAX: Duration = Duration::from_secs(5);

/// A replica: what the sink keeps of its target, and what every way of writing needs.
pub(crate) struct Replica {
    pub(super) name: String,
    pub(super) live: Live,
    pub(super) settings: Settings,
    pub(super) rules: Rules,
    pub(super) state: ReplicaState,
    pub(super) connection: Option<TargetConnection>,
    pub(super) refusals: RefusalLimit,
    /// What the connection tells.
    pub(super) news: Arc<News>,
    /// When to look for parked events that are tried again though nobody has decided about them.
    pub(super) retry_at: Option<Instant>,
    /// For the event that the target refuses when a transaction ends.
    pub(super) search: Search,
    /// Deferred constraints are looked at before a batch is committed, for one refused it once.
    pub(super) looks_before_commit: bool,
    /// Reasons of the events that the open transaction parks.
    pub(super) parked_in_transaction: Vec<Cow<'static, str>>,
}

pub(super) struct TargetConnection {
    pub(super) session: Session,
    pub(super) tables: Tables,
    pub(super) bindings: Bindings,
    /// Events that wait for another topic to give a table up, and since when.
    pub(super) claiming: HashMap<(Arc<str>, String), Instant>,
    /// Where instances share the partitions: the keys of those that this one has.
    pub(super) parked: ParkedKeys,
    pub(super) sharing: Sharing,
    /// An event stopped the sink, and was not passed since.
    pub(super) halted_before: bool,
    /// What was decided about such events, by their ids.
    pub(super) decided: HashMap<String, Decision>,
    /// A transaction is open that takes more events (`ordered`).
    pub(super) in_transaction: bool,
    /// Foreign keys and triggers of the target are out of the way.
    pub(super) is_replica: bool,
}

impl TargetConnection {
    /// Reads again what is known of tables and topics.
    pub(super) fn forget_tables(&mut self) {
        self.tables = Tables::default();
        self.bindings = Bindings::default();
    }
}

impl Replica {
    /// The sink `name` of the instance `instance`.
    pub(crate) fn new(
        instance: &str,
        name: &str,
        live: Live,
        settings: Settings,
        refusals: RefusalLimit,
    ) -> Self {
        Replica {
            name: name.to_owned(),
            rules: Rules::new(name, live.clone()),
            live,
            state: ReplicaState::new(
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

    pub(super) fn connection(&mut self) -> Result<&mut TargetConnection> {
        self.connection.as_mut().ok_or_else(not_connected)
    }

    /// Nothing of the target is held any more: no open transaction and no lock on its rows and tables. A sink that `is_over` for
    /// now connects again; another one keeps its session, which tells it when somebody has decided about an event.
    pub(crate) async fn hold_nothing(&mut self, is_over: bool) {
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
    pub(super) fn is_shared(&self) -> bool {
        self.settings.consistency == Consistency::Row
    }

    /// Makes a row event ready. Where the catalog has to be asked, what is `under_way` comes to its end first: behind an open COPY
    /// the question would wait for ever.
    pub(super) async fn change<'b>(
        &mut self,
        record: &'b Record,
        headers: &Headers<'b>,
        under_way: &mut Stream,
    ) -> std::result::Result<RowChange<'b>, NotApplied> {
        guarded(self.make_change(record, headers, under_way)).await
    }

    async fn make_change<'b>(
        &mut self,
        record: &'b Record,
        headers: &Headers<'b>,
        under_way: &mut Stream,
    ) -> std::result::Result<RowChange<'b>, NotApplied> {
        let body = RowBody::parse(record)?;
        let source = body.source;
        let tables = &self.connection()?.tables;
        let known = tables.known(&record.topic, headers.table);
        let is_named = |table: usize| tables.get(table).is_named_in(source.text());
        let table = match known {
            Some(table) if is_named(table) => table,
            known => {
                let source = source.table_name()?;
                origin::check(headers.table, &source)?;
                match known {
                    Some(table) => table,
                    None => {
                        under_way.finish().await?;
                        self.find(record, headers, &source).await?
                    }
                }
            }
        };
        let TargetConnection {
            session, tables, ..
        } = self.connection.as_mut().ok_or_else(not_connected)?;
        let mut change = RowChange::new(record, headers, body, table)?;
        if change.fit(tables.get(table)).is_some() {
            let source = source.table_name()?;
            under_way.finish().await?;
            // The target may have been changed since.
            tables
                .refresh(&session.client, &self.settings, headers.table, &source)
                .await?;
            let table = tables.get(table);
            if let Some(column) = change.fit(table) {
                return Err(missing_column(table, column).failure().into());
            }
        }
        let shadow = self.settings.shadow.as_ref();
        if shadow.is_some_and(|shadow| shadow.writes_whole_rows) {
            change.become_whole();
        }
        let types = |column: &str| tables.get(table).type_of(column);
        self.rules.check(record, &types)?;
        Ok(change)
    }

    /// The table of an event, if the event may go there.
    async fn find(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        source: &TableName<'_>,
    ) -> std::result::Result<usize, NotApplied> {
        if let Some(refusal) = self.admit(record, headers, source, false).await? {
            return Err(refusal.failure().into());
        }
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let client = &connection.session.client;
        let (topic, header) = (&record.topic, headers.table);
        let tables = &mut connection.tables;
        let found = tables.find(client, &self.settings, topic, header, source);
        Ok(found.await?)
    }

    /// Why an event may not go to the table that it names. One that may binds its topic.
    pub(super) async fn admit(
        &mut self,
        record: &Record,
        headers: &Headers<'_>,
        source: &TableName<'_>,
        is_rename: bool,
    ) -> Result<Option<Refusal>> {
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

    /// Counts refused events, and sends them to the dead letters.
    pub(super) async fn tell(
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
    pub(super) async fn park(
        &mut self,
        parks: &[Park<'_>],
        dead_letters: &DeadLetters,
    ) -> Result<()> {
        let letters: Vec<_> = parks
            .iter()
            .filter_map(|park| park.failure.as_ref().map(|failure| (park.record, failure)))
            .collect();
        match self.search.is_on() {
            true => self.search.keep(&letters),
            false => self.tell(&letters, dead_letters).await?,
        }
        let state = &self.state;
        let Some(TargetConnection {
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

    /// Connects, and reads what the state knows.
    pub(super) async fn connect(&mut self) -> Result<()> {
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
            None => self.state.decisions().decided(&client).await?,
        };
        let mut session = Session::new(client);
        if self.is_shared() {
            session.newest_schema = Some(self.state.schema().to_owned());
            partition_locks::join_instances(&session.client, self.state.sink()).await?;
        }
        self.connection = Some(TargetConnection {
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

    /// Waits until the target does not answer; the error that says so.
    pub(super) fn no_answer(
        &self,
        status: &SinkStatus,
    ) -> impl Future<Output = Trouble> + Send + 'static {
        crate::sink::postgres::watchdog::no_answer(self.live.clone(), status.clone())
    }

    /// Waits until a person has decided about a parked event, or until one is tried again though nobody has.
    pub(super) async fn decided(&self) {
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

    /// Waits until a person has decided about an event.
    pub(super) async fn resumed(&mut self) {
        self.news.decided.notified().await;
    }

    /// The batch as people decided about its events, when a replay meets them again; `None` where nobody decided.
    pub(super) fn decided_batch(&mut self, batch: &Batch) -> Result<Option<Batch>> {
        if self.settings.shadow.is_none() {
            return Ok(None);
        }
        let decided = &self.connection()?.decided;
        if decided.is_empty() {
            return Ok(None);
        }
        let records = batch.records.iter();
        Ok(Some(Batch {
            records: records
                .filter_map(|record| as_decided(record, decided))
                .collect(),
            moves: batch.moves.clone(),
        }))
    }
}

impl Positions for Replica {
    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        let TargetConnection { session, .. } =
            self.connection.as_ref().ok_or_else(not_connected)?;
        self.state.positions(&session.client, wanted).await
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        let TargetConnection { session, .. } =
            self.connection.as_ref().ok_or_else(not_connected)?;
        self.state.begin(&session.client, starts).await
    }
}

/// The sink in its state; the generation that a replay builds is another one.
fn state_name(instance: &str, name: &str, settings: &Settings) -> String {
    match settings.shadow {
        Some(_) => format!("{instance}.{name}/replay"),
        None => format!("{instance}.{name}"),
    }
}

pub(super) fn not_connected() -> Trouble {
    Trouble::new(
        Code::Unreachable,
        "postgres: not connected",
        "It is tried again.",
    )
}

/// The event as a person decided, none if it is to be left out.
pub(super) fn as_decided(record: &Record, decided: &HashMap<String, Decision>) -> Option<Record> {
    match decided.get(&record.event_id()) {
        Some(Decision::Skip) => None,
        Some(Decision::Edit(body)) => Some(record.with_value(body)),
        Some(Decision::Retry) | None => Some(record.clone()),
    }
}
