//! The store: one file with everything in the order of its keys, and, beside that, how far of the changelog is in it.
//!
//! What a batch changes is there as a whole or not at all. The disk is waited for once a second only: after a crash the file is
//! as it was then, and what is missing comes from the changelog, which had it first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase,
    ReadableTableMetadata, StorageError, TableDefinition,
};

use crate::error::{Code, Result};
use crate::statistics::kept::codec::Malformed;
use crate::statistics::kept::keys;

const STATE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("state");
const LOCAL: TableDefinition<&str, i64> = TableDefinition::new("local");
const NEXT_OFFSET: &str = "next_offset";
const READ_AT_MS: &str = "read_at_ms";
const CACHE_BYTES: usize = 64 << 20;
const DURABLE_EVERY: Duration = Duration::from_secs(1);

/// How far of the changelog a store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The offset that comes next.
    pub(crate) next_offset: i64,
    /// When the reading began by which that is known, milliseconds since 1970.
    pub(crate) read_at_ms: i64,
}

/// What a batch changes; none for what it takes away.
pub(crate) type Written = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

/// A store that is open. Only one process has it.
pub(crate) struct Store {
    database: Database,
    path: PathBuf,
    durable_at: Mutex<Instant>,
}

/// A store as it was at one moment.
pub(crate) struct Snapshot(ReadOnlyTable<&'static [u8], &'static [u8]>);

/// The file of a sink in its folder.
pub(crate) fn path(folder: &str, sink: &str) -> PathBuf {
    Path::new(folder).join(format!("{sink}.redb"))
}

/// Whether files can be made in a folder; makes it.
pub(crate) fn check_folder(folder: &str) -> Result<()> {
    let failed = |error: std::io::Error| no_folder(folder, &error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let probe = Path::new(folder).join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"").map_err(failed)?;
    std::fs::remove_file(&probe).map_err(failed)
}

fn no_folder(folder: &str, error: &std::io::Error) -> Trouble {
    Trouble::new(
        Code::Configuration,
        format!("cannot write the folder {folder}: {error}"),
        "Let store name a folder that companion-sink may write.",
    )
}

impl Store {
    /// Opens the store of a sink, or makes it.
    pub(crate) fn open(folder: &str, sink: &str) -> Result<Store> {
        std::fs::create_dir_all(folder).map_err(|error| no_folder(folder, &error))?;
        let path = path(folder, sink);
        let opened = Builder::new().set_cache_size(CACHE_BYTES).create(&path);
        let database = opened.map_err(|error| not_opened(&path, error))?;
        Store::with_tables(database, path)
    }

    /// Opens the store of a sink; none where there is none.
    pub(crate) fn open_existing(folder: &str, sink: &str) -> Result<Option<Store>> {
        let path = path(folder, sink);
        if !path.exists() {
            return Ok(None);
        }
        Store::open(folder, sink).map(Some)
    }

    /// One in memory.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Store {
        let backend = redb::backends::InMemoryBackend::new();
        let database = Builder::new().create_with_backend(backend);
        Store::with_tables(database.expect("a store"), PathBuf::new()).expect("a store")
    }

    fn with_tables(database: Database, path: PathBuf) -> Result<Store> {
        let writing = database.begin_write().map_err(failed)?;
        writing.open_table(STATE).map_err(failed)?;
        writing.open_table(LOCAL).map_err(failed)?;
        writing.commit().map_err(failed)?;
        Ok(Store {
            database,
            path,
            durable_at: Mutex::new(Instant::now()),
        })
    }

    /// As it is now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let reading = self.database.begin_read().map_err(failed)?;
        reading.open_table(STATE).map(Snapshot).map_err(failed)
    }

    /// How far of the changelog it has; none of one that is new.
    pub(crate) fn mark(&self) -> Result<Option<Mark>> {
        let reading = self.database.begin_read().map_err(failed)?;
        let local = reading.open_table(LOCAL).map_err(failed)?;
        let number = |name: &str| {
            let found = local.get(name).map_err(failed)?;
            Ok::<_, Trouble>(found.map(|found| found.value()))
        };
        let (next_offset, read_at_ms) = (number(NEXT_OFFSET)?, number(READ_AT_MS)?);
        Ok(next_offset
            .zip(read_at_ms)
            .map(|(next_offset, read_at_ms)| Mark {
                next_offset,
                read_at_ms,
            }))
    }

    /// Writes what a batch changes.
    pub(crate) fn write(&self, written: &Written, mark: Mark) -> Result<()> {
        let mut durable_at = self
            .durable_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_durable = durable_at.elapsed() >= DURABLE_EVERY;
        self.write_as(written, mark, is_durable)?;
        if is_durable {
            *durable_at = Instant::now();
        }
        Ok(())
    }

    /// The same, and waits for the disk.
    pub(crate) fn write_durably(&self, written: &Written, mark: Mark) -> Result<()> {
        self.write_as(written, mark, true)
    }

    fn write_as(&self, written: &Written, mark: Mark, is_durable: bool) -> Result<()> {
        let mut writing = self.database.begin_write().map_err(failed)?;
        let durability = match is_durable {
            true => Durability::Immediate,
            false => Durability::None,
        };
        writing.set_durability(durability).map_err(failed)?;
        {
            let mut state = writing.open_table(STATE).map_err(failed)?;
            for (key, value) in written {
                match value {
                    Some(value) => drop(state.insert(&key[..], &value[..]).map_err(failed)?),
                    None => drop(state.remove(&key[..]).map_err(failed)?),
                }
            }
            let mut local = writing.open_table(LOCAL).map_err(failed)?;
            local
                .insert(NEXT_OFFSET, mark.next_offset)
                .map_err(failed)?;
            local.insert(READ_AT_MS, mark.read_at_ms).map_err(failed)?;
        }
        writing.commit().map_err(failed)
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) -> Result<()> {
        let writing = self.database.begin_write().map_err(failed)?;
        writing.delete_table(STATE).map_err(failed)?;
        writing.delete_table(LOCAL).map_err(failed)?;
        writing.open_table(STATE).map_err(failed)?;
        writing.open_table(LOCAL).map_err(failed)?;
        writing.commit().map_err(failed)
    }

    /// How many keys it has.
    pub(crate) fn keys(&self) -> Result<u64> {
        self.snapshot()?.0.len().map_err(failed)
    }

    /// What its file takes of the disk.
    pub(crate) fn size_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }
}

impl Snapshot {
    /// A value.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.0.get(key).map_err(failed)?;
        Ok(found.map(|found| found.value().to_vec()))
    }

    /// What begins so, in order.
    pub(crate) fn each(
        &self,
        prefix: &[u8],
        see: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.each_between(prefix, &keys::behind(prefix), see)
    }

    /// What lies from one key on and before another one, in order.
    pub(crate) fn each_between(
        &self,
        from: &[u8],
        to: &[u8],
        mut see: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        for found in self.0.range(from..to).map_err(failed)? {
            let (key, value) = found.map_err(failed)?;
            see(key.value(), value.value())?;
        }
        Ok(())
    }

    /// The keys from one on and before another one, with their values, as they are asked for.
    pub(crate) fn between(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> Result<impl Iterator<Item = Result<Entry>>> {
        let range = self.0.range(from..to).map_err(failed)?;
        Ok(range.map(|found| {
            let (key, value) = found.map_err(failed)?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        }))
    }

    /// The first and the last that begin so.
    pub(crate) fn ends(&self, prefix: &[u8]) -> Result<Option<[Entry; 2]>> {
        let end = keys::behind(prefix);
        let mut range = self.0.range(prefix..&end[..]).map_err(failed)?;
        let owned = |found: std::result::Result<_, StorageError>| {
            let (key, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) =
                found.map_err(failed)?;
            Ok::<_, Trouble>((key.value().to_vec(), value.value().to_vec()))
        };
        let first = range.next().map(owned).transpose()?;
        let last = range.next_back().map(owned).transpose()?;
        Ok(first.map(|first| {
            let last = last.unwrap_or_else(|| first.clone());
            [first, last]
        }))
    }
}

/// What stands in the store is not what was written there.
pub(crate) fn damaged(_: Malformed) -> Trouble {
    Trouble::new(
        Code::TargetRefuses,
        "the store of the figures has something that was not written so",
        "Remove its file, which is made again from the changelog, then send SIGHUP. Report this with the log.",
    )
}

fn not_opened(path: &Path, error: DatabaseError) -> Trouble {
    match error {
        DatabaseError::DatabaseAlreadyOpen => Trouble::new(
            Code::OtherInstance,
            format!("another process has {}", path.display()),
            "Nothing to do if that is another instance; else let store name another folder.",
        ),
        error => failed(error),
    }
}

fn failed(error: impl Into<redb::Error>) -> Trouble {
    let error = error.into();
    let what = format!("the store of the figures: {error}");
    match error {
        redb::Error::Io(_) | redb::Error::PreviousIo => Trouble::new(
            Code::Unreachable,
            what,
            "See that the disk has room and works; it is tried again.",
        ),
        _ => Trouble::new(
            Code::TargetRefuses,
            what,
            "Remove its file, which is made again from the changelog, then send SIGHUP.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_there_with_its_mark() {
        let store = Store::in_memory();
        assert_eq!(store.mark().unwrap(), None);
        let mark = Mark {
            next_offset: 7,
            read_at_ms: 1,
        };
        let written = [
            (b"a1", Some(b"x")),
            (b"a2", Some(b"y")),
            (b"b1", Some(b"z")),
        ];
        let written = written.map(|(key, value)| (key.to_vec(), value.map(|v| v.to_vec())));
        store.write(&written.into(), mark).unwrap();
        assert_eq!(store.mark().unwrap(), Some(mark));
        let snapshot = store.snapshot().unwrap();
        let [first, last] = snapshot.ends(b"a").unwrap().unwrap();
        assert_eq!((first.1, last.1), (b"x".to_vec(), b"y".to_vec()));
        let [only, same] = snapshot.ends(b"b").unwrap().unwrap();
        assert_eq!(only, same);
        assert!(snapshot.ends(b"c").unwrap().is_none());
        store
            .write_durably(&[(b"a1".to_vec(), None)].into(), mark)
            .unwrap();
        assert_eq!(store.snapshot().unwrap().get(b"a1").unwrap(), None);
        assert_eq!(
            snapshot.get(b"a1").unwrap().as_deref(),
            Some(&b"x"[..]),
            "as it was"
        );
        assert_eq!(store.keys().unwrap(), 2);
        store.clear().unwrap();
        assert_eq!((store.keys().unwrap(), store.mark().unwrap()), (0, None));
    }
}
