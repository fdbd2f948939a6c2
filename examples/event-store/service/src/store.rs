//! The materialised store of a partition: a file with the accounts, and the events by account, as the topics say. It is only ever
//! what [`Step::fold`] makes of records, whether they were read or have just been written, so a lost file is made again.
//!
//! A file for each partition: it goes with the partition, and what was deleted stays in no copy that nobody looks after.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use redb::{
    Builder, Database, Durability, Error, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use serde::de::DeserializeOwned;

use crate::account::{Account, Event, Id};
use crate::topics::Topic;

/// By id.
const ACCOUNTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("accounts");
/// By account and offset: those of an account stand together, in the order in which they were published.
const EVENTS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("events");
/// The offset of each event, by the key of its record.
const OFFSETS: TableDefinition<'_, &str, u64> = TableDefinition::new("offsets");
/// The key at each offset: what retention has removed is found from the front.
const KEYS: TableDefinition<'_, u64, &str> = TableDefinition::new("keys");
/// The offset that comes next, by topic.
const NEXT: TableDefinition<'_, &str, u64> = TableDefinition::new("next");
/// When something was written to the topics only to have them compacted.
const ROLLED_AT: &str = "rolled_at_seconds";
const CACHE_BYTES: usize = 8 << 20;

/// Events that lists have looked at, in this process.
pub(crate) static EVENTS_LOOKED_AT: AtomicU64 = AtomicU64::new(0);

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The file of a partition, open.
pub(crate) struct Store {
    database: Database,
}

/// What is changed at once, or not at all.
pub(crate) struct Step(WriteTransaction);

/// The store as it was at one moment.
pub(crate) struct View(ReadTransaction);

/// The file of a partition in the folder of an instance.
pub(crate) fn file(folder: &Path, partition: i32) -> PathBuf {
    folder.join(format!("account-{partition}.redb"))
}

/// When something was last written to a file; long ago where there is none.
pub(crate) fn age(file: &Path) -> Duration {
    let changed = std::fs::metadata(file).and_then(|file| file.modified());
    let age = changed.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
    age.unwrap_or(Duration::MAX)
}

impl Store {
    /// Opens a file, or makes it.
    pub(crate) fn open(file: &Path) -> Result<Store> {
        let mut builder = Builder::new();
        Store::with_tables(builder.set_cache_size(CACHE_BYTES).create(file)?)
    }

    fn with_tables(database: Database) -> Result<Store> {
        let tables = database.begin_write()?;
        tables.open_table(ACCOUNTS)?;
        tables.open_table(EVENTS)?;
        tables.open_table(OFFSETS)?;
        tables.open_table(KEYS)?;
        tables.open_table(NEXT)?;
        tables.commit()?;
        Ok(Store { database })
    }

    /// Begins a change.
    pub(crate) fn begin(&self) -> Result<Step> {
        Ok(Step(self.database.begin_write()?))
    }

    /// As it is now.
    pub(crate) fn view(&self) -> Result<View> {
        Ok(View(self.database.begin_read()?))
    }
}

impl Step {
    /// The offset from which on it has nothing of a topic; none of a new one.
    pub(crate) fn next(&self, topic: Topic) -> Result<Option<u64>> {
        let table = self.0.open_table(NEXT)?;
        let next = table.get(topic.name())?;
        Ok(next.map(|next| next.value()))
    }

    /// It has everything of the topic before this offset.
    pub(crate) fn set_next(&self, topic: Topic, offset: u64) -> Result<()> {
        self.0.open_table(NEXT)?.insert(topic.name(), offset)?;
        Ok(())
    }

    /// When [`Step::set_rolled_at`] was called last, in seconds since 1970.
    pub(crate) fn rolled_at(&self) -> Result<u64> {
        let table = self.0.open_table(NEXT)?;
        let seconds = table.get(ROLLED_AT)?;
        Ok(seconds.map_or(0, |seconds| seconds.value()))
    }

    /// Something was written to the topics only to have them compacted.
    pub(crate) fn set_rolled_at(&self, seconds: u64) -> Result<()> {
        self.0.open_table(NEXT)?.insert(ROLLED_AT, seconds)?;
        Ok(())
    }

    /// What a record changes: the only thing that changes a store. Done twice, it is as if done once.
    pub(crate) fn fold(
        &self,
        topic: Topic,
        offset: u64,
        key: &str,
        value: Option<&[u8]>,
    ) -> Result<()> {
        match topic {
            Topic::Account => {
                let mut accounts = self.0.open_table(ACCOUNTS)?;
                match value {
                    Some(value) => accounts.insert(key, value)?,
                    None => accounts.remove(key)?,
                };
            }
            Topic::Event => {
                // None has a key that is not ours.
                let account = key.split_once('/').map_or(key, |(account, _)| account);
                self.forget_event(account, key)?;
                if let Some(value) = value {
                    self.0
                        .open_table(EVENTS)?
                        .insert((account, offset), value)?;
                    self.0.open_table(OFFSETS)?.insert(key, offset)?;
                    self.0.open_table(KEYS)?.insert(offset, key)?;
                }
            }
        }
        self.set_next(topic, offset + 1)
    }

    /// Forgets the events before an offset, which retention has removed from the topic; whether there were any.
    pub(crate) fn forget_events_before(&self, first: u64) -> Result<bool> {
        let mut forgotten = false;
        loop {
            let oldest = {
                let keys = self.0.open_table(KEYS)?;
                let oldest = keys.first()?;
                oldest.map(|(offset, key)| (offset.value(), key.value().to_owned()))
            };
            match oldest {
                Some((offset, key)) if offset < first => {
                    let account = key.split_once('/').map_or(key.as_str(), |(of, _)| of);
                    self.forget_event(account, &key)?;
                    forgotten = true;
                }
                _ => return Ok(forgotten),
            }
        }
    }

    fn forget_event(&self, account: &str, key: &str) -> Result<()> {
        let mut offsets = self.0.open_table(OFFSETS)?;
        let offset = offsets.remove(key)?.map(|offset| offset.value());
        if let Some(offset) = offset {
            self.0.open_table(EVENTS)?.remove((account, offset))?;
            self.0.open_table(KEYS)?.remove(offset)?;
        }
        Ok(())
    }

    /// An account.
    pub(crate) fn account(&self, id: &Id) -> Result<Option<Account>> {
        let found = self.0.open_table(ACCOUNTS)?;
        let found = found.get(id.as_str())?;
        Ok(found.and_then(|found| read(found.value())))
    }

    /// An event, by the key of its record.
    pub(crate) fn event(&self, account: &Id, key: &str) -> Result<Option<Event>> {
        let offsets = self.0.open_table(OFFSETS)?;
        let Some(offset) = offsets.get(key)?.map(|offset| offset.value()) else {
            return Ok(None);
        };
        let events = self.0.open_table(EVENTS)?;
        let found = events.get((account.as_str(), offset))?;
        Ok(found.and_then(|found| read(found.value())))
    }

    /// The keys of the records of all events of an account.
    pub(crate) fn event_keys(&self, account: &Id) -> Result<Vec<String>> {
        let events = self.0.open_table(EVENTS)?;
        let keys = self.0.open_table(KEYS)?;
        let mut found = Vec::new();
        for event in events.range((account.as_str(), 0)..=(account.as_str(), u64::MAX))? {
            let key = keys.get(event?.0.value().1)?;
            found.extend(key.map(|key| key.value().to_owned()));
        }
        Ok(found)
    }

    /// Makes the change; `durably` waits for the disk. Without it a crash may undo the change, and the topics bring it again.
    pub(crate) fn commit(mut self, durably: bool) -> Result<()> {
        if !durably {
            self.0.set_durability(Durability::None)?;
        }
        Ok(self.0.commit()?)
    }
}

impl View {
    /// An account.
    pub(crate) fn account(&self, id: &Id) -> Result<Option<Account>> {
        let accounts = self.0.open_table(ACCOUNTS)?;
        let found = accounts.get(id.as_str())?;
        Ok(found.and_then(|found| read(found.value())))
    }

    /// So many accounts, in the order of their ids, behind `after`.
    pub(crate) fn accounts(&self, after: &str, limit: usize) -> Result<Vec<Account>> {
        let accounts = self.0.open_table(ACCOUNTS)?;
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let mut page = Vec::new();
        for found in accounts.range::<&str>(behind)? {
            page.extend(read::<Account>(found?.1.value()));
            if page.len() >= limit {
                break;
            }
        }
        Ok(page)
    }

    /// So many events of an account, each with its offset, from the offset `from` on. No other event is looked at.
    pub(crate) fn events(&self, of: &Id, from: u64, limit: usize) -> Result<Vec<(u64, Event)>> {
        let events = self.0.open_table(EVENTS)?;
        let mut page = Vec::new();
        for found in events.range((of.as_str(), from)..=(of.as_str(), u64::MAX))? {
            let (key, value) = found?;
            EVENTS_LOOKED_AT.fetch_add(1, Ordering::Relaxed);
            page.extend(read(value.value()).map(|event| (key.value().1, event)));
            if page.len() >= limit {
                break;
            }
        }
        Ok(page)
    }

    /// How many accounts and events there are.
    pub(crate) fn counts(&self) -> Result<(u64, u64)> {
        let accounts = self.0.open_table(ACCOUNTS)?.len()?;
        Ok((accounts, self.0.open_table(EVENTS)?.len()?))
    }
}

/// None of what another program wrote in another form.
fn read<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        let backend = redb::backends::InMemoryBackend::new();
        let database = Builder::new().create_with_backend(backend);
        Store::with_tables(database.expect("a store")).expect("its tables")
    }

    fn event(id: &str) -> Vec<u8> {
        let json = serde_json::json!({"id": id, "account": "a", "time": "2026-11-28T00:00:00Z", "type": "t", "amount_cents": 1});
        json.to_string().into_bytes()
    }

    fn ids(store: &Store) -> Vec<String> {
        let account = Id::try_from("a".to_owned()).expect("an id");
        let view = store.view().expect("a view");
        let events = view.events(&account, 0, 100).expect("events").into_iter();
        events
            .map(|(_, event)| event.id.as_str().to_owned())
            .collect()
    }

    #[test]
    fn a_record_may_be_read_again_and_retention_and_tombstones_take_events() {
        let store = store();
        for _ in 0..2 {
            let step = store.begin().expect("a step");
            for (offset, id) in [(3, "x"), (4, "y"), (6, "z")] {
                let (key, value) = (format!("a/{id}"), event(id));
                step.fold(Topic::Event, offset, &key, Some(&value))
                    .expect("a fold");
            }
            step.fold(Topic::Event, 7, "b/x", Some(&event("x")))
                .expect("a fold");
            step.commit(true).expect("a commit");
        }
        assert_eq!(ids(&store), ["x", "y", "z"]);
        let step = store.begin().expect("a step");
        assert_eq!(step.next(Topic::Event).expect("an offset"), Some(8));
        assert_eq!(step.next(Topic::Account).expect("none"), None);
        assert!(step.forget_events_before(4).expect("retention"));
        assert!(!step.forget_events_before(4).expect("retention"));
        step.fold(Topic::Event, 8, "a/z", None)
            .expect("a tombstone");
        step.commit(true).expect("a commit");
        assert_eq!(ids(&store), ["y"]);
        assert_eq!(
            store.view().expect("a view").counts().expect("counts"),
            (0, 2)
        );
    }
}
