//! The figures: what `crate::statistics` counts, as a target of events.
//!
//! One instance counts (`statistics::copy::owner`), the others keep their stores up to what it writes. A batch is a transaction of the
//! changelog first, then one of the store; where a crash came between, the store is brought on by the changelog.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use tokio::task::block_in_place;

use crate::config::{Loaded, StatisticsSettings};
use crate::delivery::watermark::Complete;
use crate::error::{Code, Result, misconfigured};
use crate::event::Op;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::{Failure, NotApplied};
use crate::reload::Live;
use crate::rule::Rules;
use crate::sink::batch::{Applied, Batch, Move, Position};
use crate::sink::{NotShared, Positions, Sink};
use crate::statistics::copy::changelog::{Changelog, ChangelogPlace};
use crate::statistics::copy::owner::Ownership;
use crate::statistics::copy::restore::Restore;
use crate::statistics::count::counter::Counter;
use crate::statistics::count::design::Design;
use crate::statistics::count::topics::{Topics, position_bytes, read_position};
use crate::statistics::kept::changes::Changes;
use crate::statistics::kept::keys;
use crate::statistics::kept::shelf::{OpenStore, Shelf};
use crate::statistics::kept::store::{Mark, Store, Written};
use crate::status::SinkStatus;
use crate::timestamp::now_us;

/// How long the first group's members are waited for.
const FIRST_WAIT: Duration = Duration::from_secs(8);
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The sink of kind `statistics`.
pub(crate) struct Statistics {
    name: String,
    folder: String,
    place: ChangelogPlace,
    counter: Counter,
    rules: Rules,
    shelf: Shelf,
    status: SinkStatus,
    open: Option<Arc<OpenStore>>,
    ownership: Option<Ownership>,
    changelog: Option<Changelog>,
    told_at: Option<Instant>,
}

impl Statistics {
    /// The sink `name`, which puts its store on `shelf`.
    pub(crate) fn new(
        config: &Loaded,
        name: &str,
        settings: &StatisticsSettings,
        live: Live,
        shelf: Shelf,
        status: SinkStatus,
    ) -> Result<Self> {
        let design = Design::new(settings).map_err(|why| {
            misconfigured(format!("sink.{name}.where: {why}"), "Change it there.")
        })?;
        Ok(Statistics {
            name: name.to_owned(),
            folder: settings.store.clone(),
            place: ChangelogPlace::new(config, name),
            counter: Counter::new(design),
            rules: Rules::new(name, live),
            shelf,
            status,
            open: None,
            ownership: None,
            changelog: None,
            told_at: None,
        })
    }

    fn open(&self) -> Result<&Arc<OpenStore>> {
        self.open.as_ref().ok_or_else(not_connected)
    }

    /// Opens the store, unless it is open and works.
    fn open_store(&mut self) -> Result<Arc<OpenStore>> {
        if let Some(open) = &self.open
            && open.store.mark().is_ok()
        {
            return Ok(Arc::clone(open));
        }
        self.shelf.remove(&self.name);
        self.open = None;
        let store = block_in_place(|| Store::open(&self.folder, &self.name))?;
        let open = OpenStore::new(store);
        self.shelf.put(&self.name, &open);
        self.open = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Another instance counts, or this one from now on.
    async fn become_owner(&mut self) -> Result<bool> {
        let ownership = match &mut self.ownership {
            Some(ownership) => return Ok(ownership.is_mine()),
            None => self.ownership.insert(Ownership::start(&self.place)?),
        };
        Ok(ownership.wait(FIRST_WAIT).await)
    }

    /// Brings the store to what the changelog says. It ends between two steps, where the process ends.
    async fn restore(&self, open: &OpenStore) -> Result<()> {
        let mut restore = block_in_place(|| Restore::begin(&self.place, &open.store))?;
        while !block_in_place(|| restore.step())? {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Fails where the store has other figures than the configuration asks for.
    fn check_design(&self, open: &OpenStore) -> Result<()> {
        let known = open.store.snapshot()?.get(keys::DESIGN)?;
        let is_same = |known: &Vec<u8>| *known == self.counter.design.text.as_bytes();
        if known.as_ref().is_none_or(is_same) {
            return Ok(());
        }
        Err(misconfigured(
            format!(
                "sink {} has counted by another time, period, group_by, where or values",
                self.name
            ),
            format!(
                "Change them back; or let a sink of another name count anew; or delete the topic {} and the file of the sink in {}, and restart.",
                self.place.topic, self.folder
            ),
        ))
    }

    fn changes(&self) -> Result<Changes> {
        Ok(Changes::new(self.open()?.store.snapshot()?))
    }

    /// Has a batch move the positions of partitions.
    fn move_positions(&mut self, changes: &mut Changes, moves: &[Move]) -> Result<()> {
        for moved in moves {
            let topic = self.counter.topics.of(changes, &moved.at.topic)?;
            let key = keys::position(topic.number, moved.at.partition);
            let known = changes.get(&key)?;
            let known = known.as_deref().map(read_position).transpose()?;
            if known.is_some_and(|known| known.next_offset != moved.begin) {
                return Err(other_instance());
            }
            let position = Position {
                next_offset: moved.end,
                version: moved.version.clone(),
            };
            changes.set(key, position_bytes(&position));
        }
        Ok(())
    }

    /// Writes what a batch changes: to the changelog, then to the store.
    fn write(&mut self, written: &Written) -> Result<()> {
        let is_mine = self.ownership.as_ref().is_some_and(Ownership::is_mine);
        if !is_mine {
            return Err(other_instance());
        }
        let open = Arc::clone(self.open()?);
        let changelog = self.changelog.as_mut().ok_or_else(not_connected)?;
        block_in_place(|| {
            if let Some(next_offset) = changelog.write(written)? {
                let mark = Mark {
                    next_offset,
                    read_at_ms: now_us() / 1000,
                };
                open.store.write(written, mark)?;
            }
            Ok(())
        })?;
        if self.told_at.is_none_or(|at| at.elapsed() > TELL_EVERY) {
            self.told_at = Some(Instant::now());
            self.tell_size(&open)?;
        }
        Ok(())
    }

    fn tell_size(&self, open: &OpenStore) -> Result<()> {
        let keys = open.store.keys()?;
        let mut figures = self.status.figures();
        figures.store_keys = Some(keys);
        figures.store_bytes = Some(open.store.size_bytes());
        Ok(())
    }

    /// Counts the events of a batch; those that are refused, with the reasons.
    fn count<'b>(
        &mut self,
        changes: &mut Changes,
        batch: &'b Batch,
    ) -> Result<Vec<(&'b Record, Failure)>> {
        let mut refused = Vec::new();
        for record in &batch.records {
            let refusal = self.refusal(record);
            match self.counter.count(changes, record, refusal) {
                Ok(()) => {}
                Err(NotApplied::Refused(failure)) => refused.push((record, failure)),
                Err(NotApplied::Failed(error)) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// What a rule says against an event of a row.
    fn refusal(&mut self, record: &Record) -> Option<Failure> {
        if !record.op().is_some_and(Op::is_row) {
            return None;
        }
        let topic = self.counter.topics.get(&record.topic);
        let types = |column: &str| match topic {
            Some(topic) => topic.type_of(column),
            None => std::borrow::Cow::Owned(crate::event::pg_type::PgType::Plain),
        };
        self.rules.check(record, &types).err()
    }
}

impl Positions for Statistics {
    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        let store = self.open()?.store.snapshot()?;
        let position = |at: &TopicPartition| {
            let Some(topic) = self.counter.topics.get(&at.topic) else {
                return Ok(None);
            };
            let known = store.get(&keys::position(topic.number, at.partition))?;
            known.as_deref().map(read_position).transpose()
        };
        wanted.iter().map(position).collect()
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        let mut changes = self.changes()?;
        let design = self.counter.design.text.clone().into_bytes();
        changes.set(keys::DESIGN.to_vec(), design);
        for (at, next_offset) in starts {
            let topic = self.counter.topics.of(&mut changes, &at.topic)?;
            let key = keys::position(topic.number, at.partition);
            let position = Position {
                next_offset: *next_offset,
                version: String::new(),
            };
            changes.set(key, position_bytes(&position));
        }
        self.write(&changes.finish())
    }
}

impl Sink for Statistics {
    async fn connect(&mut self) -> Result<()> {
        self.changelog = None;
        self.place.ensure_topic().await?;
        let open = self.open_store()?;
        let is_mine = self.become_owner().await?;
        if is_mine {
            self.changelog = Some(block_in_place(|| Changelog::open(&self.place))?);
        }
        self.restore(&open).await?;
        self.tell_size(&open)?;
        if !is_mine {
            return Err(other_instance());
        }
        self.check_design(&open)?;
        self.counter.topics = Topics::read(&open.store.snapshot()?)?;
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch, dead_letters: &DeadLetters) -> Result<Applied> {
        let mut changes = self.changes()?;
        self.counter.unknown_rows = 0;
        let refused = block_in_place(|| self.count(&mut changes, batch))?;
        self.move_positions(&mut changes, &batch.moves)?;
        if !refused.is_empty() {
            let letters: Vec<_> = refused.iter().map(|(record, why)| (*record, why)).collect();
            dead_letters.send(&self.name, &letters).await?;
        }
        self.write(&changes.finish())?;
        Ok(Applied {
            dead_letters: refused.into_iter().map(|(_, why)| why.reason).collect(),
            parked_keys: 0,
            unknown_rows: self.counter.unknown_rows,
        })
    }

    async fn decided(&self) {
        // Nothing is parked.
        pending().await
    }

    async fn resumed(&mut self) {
        pending().await
    }

    async fn carry_out(&mut self, _: &DeadLetters) -> Result<u64> {
        Ok(0)
    }

    async fn note_complete(&mut self, complete: &Complete) -> Result<()> {
        self.open()?.note_complete(Some(complete.clone()));
        Ok(())
    }

    /// Another instance counts from now on: this one is told, though it may have nothing to write.
    fn no_answer(&self, _: &SinkStatus) -> impl Future<Output = Trouble> + Send + 'static {
        let mine = self.ownership.as_ref().map(Ownership::watch);
        async move {
            match mine {
                Some(mine) => Ownership::lost(mine).await,
                None => pending().await,
            }
            other_instance()
        }
    }

    async fn rest(&mut self, _: bool) {
        self.changelog = None;
        if let Some(open) = &self.open {
            // What others count it hears from the changelog, and not how far they are.
            open.note_complete(None);
        }
    }

    fn takes_emitted(&self) -> bool {
        true
    }

    fn waits_together(&self, record: &Record) -> bool {
        matches!(record.op(), Some(Op::Truncate | Op::Snapshot))
    }

    async fn apply_together(&mut self, record: &Record, moves: &[Move]) -> Result<()> {
        let mut changes = self.changes()?;
        match record.op() {
            Some(Op::Truncate) => {
                block_in_place(|| self.counter.empty(&mut changes, record))?;
            }
            Some(Op::Snapshot) => {
                let gone = block_in_place(|| self.counter.note_snapshot(&mut changes, record))?;
                if gone > 0 {
                    tracing::info!(
                        sink = self.name,
                        topic = &*record.topic,
                        rows = gone,
                        "rows are gone at the source"
                    );
                }
            }
            _ => {}
        }
        self.move_positions(&mut changes, moves)?;
        self.write(&changes.finish())
    }

    type Shared = NotShared;

    fn shared(&self) -> Option<&NotShared> {
        None
    }

    fn shared_mut(&mut self) -> Option<&mut NotShared> {
        None
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        self.shelf.remove(&self.name);
    }
}

fn other_instance() -> Trouble {
    Trouble::new(
        Code::OtherInstance,
        "another instance counts",
        "Nothing to do: this one takes over when that is gone, and keeps its store up to the changelog meanwhile.",
    )
}

fn not_connected() -> Trouble {
    Trouble::new(
        Code::Unreachable,
        "the store of the figures is not open",
        "It is tried again.",
    )
}
