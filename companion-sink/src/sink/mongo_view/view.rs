//! A view: its connection, and how what events ask for comes to its rows and documents.
//!
//! A batch of whole commits goes into the view in steps of which each may be the last: it is noted how far the rows go, the rows are
//! written, the documents above them, then the positions. Whoever goes on after any of them does the same again. Which documents
//! are above rows is told by the rows alone: each knows by what it was found before the batch.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use change::version::{Place, Version};
use mongodb::Database;
use mongodb::bson::Document;

use crate::config::MongoViewSettings;
use crate::error::{Code, Result};
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::rule::Rules;
use crate::rule::condition::Condition;
use crate::sink::mongo_history::connect_to_primary;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::tables::admission::Admission;
use crate::sink::mongo_history::tables::schemas::{Schemas, accepted_names};
use crate::sink::mongo_history::write::offsets::Offsets;
use crate::sink::mongo_view::affected::{Rows, add_roots};
use crate::sink::mongo_view::assembly::documents;
use crate::sink::mongo_view::names::ViewNames;
use crate::sink::mongo_view::plan::Plan;
use crate::sink::mongo_view::row::{Change, ChangeKind, StoredRow};
use crate::sink::mongo_view::step::{ChunkEnd, Step};
use crate::sink::mongo_view::switch;
use crate::sink::mongo_view::target::state::{Running, States, Switch, ViewState, plan_text};
use crate::sink::mongo_view::target::store::Store;

/// Rows that are looked up and written at once.
const PAGE: usize = 1000;
/// How long nothing may be heard of a rebuild that holds a view before its sink goes on.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// How often a sink that waits for a rebuild looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Documents that are made at once.
const DOCUMENTS: usize = 500;

/// A view, and what is known of its target.
pub(crate) struct View {
    pub(super) name: String,
    pub(super) live: Live,
    pub(super) rules: Rules,
    pub(super) settings: MongoViewSettings,
    pub(super) plan: Plan,
    /// Which own events make documents.
    pub(super) condition: Option<Condition>,
    pub(super) names: ViewNames,
    /// As `names.state`, of the view itself where this is its rebuild.
    pub(super) state_of_readers: String,
    pub(super) refusals: RefusalLimit,
    /// It is built from the beginning: definitions that are passed need not have the columns of the last one.
    pub(super) is_rebuild: bool,
    pub(super) connection: Option<ViewConnection>,
    /// The epoch in which a rebuild was seen to hold the view, and since when.
    pub(super) held: Option<(i64, Instant)>,
    /// The documents are of other settings: a rebuild is waited for.
    pub(super) awaits_rebuild: bool,
}

pub(super) struct ViewConnection {
    pub(super) database: Database,
    pub(super) store: Store,
    pub(super) offsets: Offsets,
    pub(super) states: States,
    pub(super) state: ViewState,
    pub(super) schemas: Schemas,
    pub(super) admission: Admission,
    /// The view's tables by the events' `cdc.table`.
    pub(super) tables_by_header: HashMap<String, String>,
    /// Root rows whose documents are to be written at the end of the commit.
    pub(super) roots: BTreeSet<String>,
    /// All documents are as of here, as far as is known.
    pub(super) shown: String,
    /// Rows may be there that are gone.
    pub(super) has_gone: bool,
    /// Reasons of events that were refused since the last commit.
    pub(super) refused: Vec<Cow<'static, str>>,
}

impl View {
    pub(super) async fn connect(&mut self) -> Result<()> {
        let before = self.connection.take();
        let url = self.live.url(&self.name);
        let database = connect_to_primary(&url, &self.settings.database).await?;
        let names = accepted_names(&database).await;
        let names = names.map_err(|error| classify("writing a schema", &error))?;
        let store = Store::new(&database, &self.names, names);
        let states = States::new(&database, &self.names.state);
        let mut state = self.settled_state(&database, &states).await?;
        let plan = plan_text(&self.plan);
        if state.plan.is_empty() {
            state.plan.clone_from(&plan);
            states.write(&state).await?;
        }
        self.awaits_rebuild = state.plan != plan;
        if self.awaits_rebuild {
            return Err(Trouble::new(
                Code::TargetRefuses,
                format!(
                    "the documents in {} were made by other settings of the view",
                    self.names.documents
                ),
                format!(
                    "`companion-sink rebuild {}` makes them anew beside these; or take the settings back, and restart.",
                    self.name
                ),
            ));
        }
        store.make_collection().await?;
        store.make_indexes(&self.settings.indexes).await?;
        let admission = Admission::read(
            &database,
            &self.state_of_readers,
            self.is_rebuild,
            before.map(|before| before.admission),
        );
        self.connection = Some(ViewConnection {
            admission: admission.await?,
            offsets: Offsets::new(&database, &self.names.state),
            store,
            states,
            state,
            schemas: Schemas::default(),
            tables_by_header: HashMap::new(),
            roots: BTreeSet::new(),
            shown: String::new(),
            has_gone: true,
            refused: Vec::new(),
            database,
        });
        Ok(())
    }

    /// The state, when no rebuild takes the view's place. One that has begun that is carried on; one that only holds the view and
    /// is gone is passed over.
    async fn settled_state(&mut self, database: &Database, states: &States) -> Result<ViewState> {
        let mut state = states.read().await?;
        if state.switch == Switch::None {
            return Ok(state);
        }
        let since = match self.held {
            Some((epoch, since)) if epoch == state.epoch => since,
            _ => Instant::now(),
        };
        self.held = Some((state.epoch, since));
        if since.elapsed() < HOLD_MAX {
            return Err(Trouble::new(
                Code::OtherInstance,
                "mongodb: a rebuild takes the view's place",
                "Nothing to do: the view goes on behind it.",
            ));
        }
        // It is gone.
        if state.switch == Switch::Decided {
            switch::carry_on(database, &self.names).await?;
            return states.read().await;
        }
        let epoch = state.epoch;
        state.epoch += 1;
        state.switch = Switch::None;
        states.write_from(epoch, &state).await?;
        Ok(state)
    }

    /// Waits until the documents are of these settings, if they were not.
    pub(super) async fn rebuilt(&mut self) {
        if !self.awaits_rebuild {
            return std::future::pending().await;
        }
        let plan = plan_text(&self.plan);
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let url = self.live.url(&self.name);
            let Ok(database) = connect_to_primary(&url, &self.settings.database).await else {
                continue;
            };
            let state = States::new(&database, &self.names.state).read().await;
            if state.is_ok_and(|state| state.plan == plan) {
                return;
            }
        }
    }

    pub(super) fn connection(&mut self) -> Result<&mut ViewConnection> {
        self.connection.as_mut().ok_or_else(not_connected)
    }

    /// The commit of which rows may be there though documents are not.
    pub(super) fn begun(&self) -> Option<Place> {
        let state = &self.connection.as_ref()?.state;
        Version::parse(&state.rows_up_to).map(|version| version.place())
    }

    /// Notes how far the rows go, before they do.
    pub(super) async fn note_rows_up_to(&mut self, version: &str) -> Result<()> {
        let connection = self.connection()?;
        if connection.state.rows_up_to.as_str() < version {
            version.clone_into(&mut connection.state.rows_up_to);
        }
        connection.states.write(&connection.state).await
    }

    /// Does what events ask for with the rows.
    pub(super) async fn write_rows(&mut self, steps: Vec<Step>) -> Result<()> {
        let mut changes = Vec::new();
        for step in steps {
            match step {
                Step::Row(change) => {
                    changes.push(change);
                    if changes.len() >= PAGE {
                        self.change_rows(std::mem::take(&mut changes)).await?;
                    }
                }
                step => {
                    self.change_rows(std::mem::take(&mut changes)).await?;
                    self.change_table(step).await?;
                }
            }
        }
        self.change_rows(changes).await
    }

    async fn change_rows(&mut self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let plan = &self.plan;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let ids: BTreeSet<&String> = changes.iter().map(|change| &change.id).collect();
        let ids: Vec<String> = ids.into_iter().cloned().collect();
        let known = connection.store.by_ids(&ids).await?;
        let mut rows: BTreeMap<String, StoredRow> =
            known.into_iter().map(|row| (row.id.clone(), row)).collect();
        let mut written = BTreeSet::new();
        for change in &changes {
            let before = rows.get(&change.id);
            if let Some(after) = StoredRow::after(plan, before, change, &connection.shown) {
                written.insert(change.id.clone());
                rows.insert(change.id.clone(), after);
            }
        }
        let of_written = rows.values().filter(|row| written.contains(&row.id));
        let of_written: Vec<StoredRow> = of_written.cloned().collect();
        connection.has_gone |= of_written.iter().any(|row| row.row.is_none());
        connection.store.write_rows(&of_written).await?;
        let changed: Vec<StoredRow> = rows.into_values().collect();
        add_roots(plan, &connection.store, &changed, &mut connection.roots).await
    }

    /// Does what was said of a whole table.
    async fn change_table(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Row(change) => self.change_rows(vec![change]).await,
            Step::Empty { table, version } => {
                self.empty(&table, "version", &version, &version).await
            }
            Step::Columns {
                table,
                version,
                renames,
                columns,
            } => {
                let rename = |row: &Document| renamed(row, &renames, &columns);
                self.rewrite(&table, &version, rename).await
            }
            Step::KeyGone {
                table,
                link,
                version,
            } => self.forget_key(&table, link, &version).await,
            Step::Dropped { table } => {
                let connection = self.connection()?;
                connection.state.dropped.insert(table);
                connection.states.write(&connection.state).await
            }
            Step::Begun { table, version } => {
                let connection = self.connection()?;
                if !connection.state.dropped.contains(&table) {
                    return Ok(());
                }
                self.empty(&table, "version", &version, &version).await?;
                let connection = self.connection()?;
                connection.state.dropped.remove(&table);
                connection.states.write(&connection.state).await
            }
            Step::SnapshotBegins { topic, id, version } => {
                let connection = self.connection()?;
                let running = Running {
                    id,
                    begin: version,
                    is_partial: false,
                };
                connection.state.snapshots.insert(topic, running);
                connection.states.write(&connection.state).await
            }
            Step::ChunkEnds(end) => self.end_chunk(end).await,
        }
    }

    /// What own events with a key have told is gone as of `version`.
    async fn forget_key(&mut self, table: &str, link: String, version: &str) -> Result<()> {
        let plan = &self.plan;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        connection.has_gone = true;
        let rows = connection.store.by_links(&[link]).await?;
        let gone = rows.iter().filter_map(|row| {
            StoredRow::after(plan, Some(row), &deletion(row, version), &connection.shown)
        });
        let gone: Vec<StoredRow> = gone.collect();
        connection.store.write_rows(&gone).await?;
        self.add_roots_of(table, version).await
    }

    async fn end_chunk(&mut self, end: ChunkEnd) -> Result<()> {
        let connection = self.connection()?;
        let store = &connection.store;
        store.note_met(&end.changed, &end.version).await?;
        let Some(running) = connection.state.snapshots.get_mut(&end.topic) else {
            return Ok(());
        };
        if running.id != end.id {
            return Ok(());
        }
        running.is_partial |= end.is_partial;
        let running = running.clone();
        if end.is_last && !running.is_partial {
            self.empty(&end.table, "met", &running.begin, &end.version)
                .await?;
        }
        let connection = self.connection()?;
        if end.is_last {
            connection.state.snapshots.remove(&end.topic);
        }
        match end.is_last || end.is_partial {
            true => connection.states.write(&connection.state).await,
            false => Ok(()),
        }
    }

    /// Rows of a table whose field `by` is below `limit` are gone as of `version`.
    async fn empty(&mut self, table: &str, by: &str, limit: &str, version: &str) -> Result<()> {
        let plan = &self.plan;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        connection.has_gone = true;
        loop {
            let rows = connection
                .store
                .older(table, by, limit, PAGE as i64)
                .await?;
            if rows.is_empty() {
                break;
            }
            let gone = rows.iter().filter_map(|row| {
                StoredRow::after(plan, Some(row), &deletion(row, version), &connection.shown)
            });
            let gone: Vec<StoredRow> = gone.collect();
            if gone.is_empty() {
                break;
            }
            connection.store.write_rows(&gone).await?;
        }
        self.add_roots_of(table, version).await
    }

    /// The rows of a table that are older than `version` have other columns from there on.
    async fn rewrite(
        &mut self,
        table: &str,
        version: &str,
        rewritten: impl Fn(&Document) -> Document,
    ) -> Result<()> {
        let plan = &self.plan;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        loop {
            let rows = connection
                .store
                .older(table, "version", version, PAGE as i64);
            let rows = rows.await?;
            if rows.is_empty() {
                break;
            }
            let rows = rows.iter().filter_map(|row| {
                let change = Change {
                    id: row.id.clone(),
                    table: row.table.clone(),
                    key: row.key.clone(),
                    version: version.to_owned(),
                    kind: ChangeKind::Put(rewritten(row.row.as_ref()?)),
                };
                let after = StoredRow::after(plan, Some(row), &change, &connection.shown)?;
                Some(StoredRow {
                    met: row.met.clone(),
                    refused: row.refused.clone(),
                    ..after
                })
            });
            let rows: Vec<StoredRow> = rows.collect();
            connection.store.write_rows(&rows).await?;
        }
        self.add_roots_of(table, version).await
    }

    /// Adds the roots above the rows of a table that were changed as of `version`, in this attempt or in one before.
    async fn add_roots_of(&mut self, table: &str, version: &str) -> Result<()> {
        let plan = &self.plan;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let mut after = String::new();
        loop {
            let rows = connection
                .store
                .at(table, version, &after, PAGE as i64)
                .await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after.clone_from(&last.id);
            add_roots(plan, &connection.store, &rows, &mut connection.roots).await?;
        }
    }

    /// Writes the documents above all rows that were changed, as they are at the commit `place`.
    pub(super) async fn write_documents(&mut self, place: &str) -> Result<()> {
        let plan = &self.plan;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let roots: Vec<String> = connection.roots.iter().cloned().collect();
        let store = &connection.store;
        for roots in roots.chunks(DOCUMENTS) {
            let assembled = documents(plan, store, store.names, roots).await?;
            store.write_documents(assembled, place).await?;
        }
        connection.roots.clear();
        Ok(())
    }

    /// Documents and positions are there up to the commit `place`.
    pub(super) async fn shown(&mut self, place: &str) -> Result<()> {
        let connection = self.connection()?;
        connection.shown = behind(place);
        if connection.has_gone {
            connection.store.forget_gone(&connection.shown).await?;
            connection.has_gone = false;
        }
        Ok(())
    }
}

/// That a row is gone as of `version`.
fn deletion(row: &StoredRow, version: &str) -> Change {
    Change {
        id: row.id.clone(),
        table: row.table.clone(),
        key: row.key.clone(),
        version: version.to_owned(),
        kind: ChangeKind::Delete,
    }
}

/// The text of a commit, with which the versions of its events begin.
pub(super) fn place_text(place: Place) -> String {
    format!(
        "{:04x}-{:08x}-{:016x}",
        place.generation, place.timeline, place.commit_lsn
    )
}

/// Behind all versions of a commit's events.
fn behind(place: &str) -> String {
    format!("{place}-~")
}

fn renamed(
    row: &Document,
    renames: &BTreeMap<String, String>,
    columns: &BTreeSet<String>,
) -> Document {
    let now = row.iter().filter_map(|(name, value)| {
        let name = renames.get(name).unwrap_or(name);
        columns
            .contains(name)
            .then(|| (name.clone(), value.clone()))
    });
    now.collect()
}

pub(super) fn not_connected() -> Trouble {
    Trouble::new(
        Code::Unreachable,
        "mongodb: not connected",
        "It is tried again.",
    )
}
