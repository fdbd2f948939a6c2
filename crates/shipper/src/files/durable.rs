//! Small files of the data directory, below `pg_cdc`, replaced whole: a crash leaves the old content or the new one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Below the data directory, which is the working directory of every process of the server.
const DIRECTORY: &str = "pg_cdc";

/// Reads a file; none if it is not there.
pub fn read<T: DeserializeOwned>(path: &str) -> std::io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            std::io::Error::new(ErrorKind::InvalidData, format!("{path}: {error}"))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces a file. `content` is given the new file, whose inode stays.
pub fn replace<T: Serialize>(
    path: &str,
    content: impl FnOnce(&fs::File) -> std::io::Result<T>,
) -> std::io::Result<()> {
    match fs::create_dir(DIRECTORY) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let temporary = format!("{path}.new");
    // A new inode each time: what an old one says of its place must not be found in it.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let content = content(&file)?;
    file.write_all(&serde_json::to_vec_pretty(&content)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(DIRECTORY)?.sync_all()
}

/// Removes a file; nothing if it is not there.
pub fn remove(path: &str) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::File::open(DIRECTORY)?.sync_all(),
    }
}
