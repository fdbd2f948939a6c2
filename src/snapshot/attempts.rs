//! How often a chunk was begun and never ended: a crash of the worker restarts the whole server, and nothing that the
//! transaction wrote is left to say so. A small file per database says which chunk is being read. Of a worker that ends
//! in any orderly way none is left.

use std::fs;
use std::io::ErrorKind;

/// Where work on snapshots is noted, below the data directory, which is the server's working directory.
pub(crate) const DIRECTORY: &str = "pg_cdc/snapshots";
/// A chunk is tried so often before its snapshot has failed.
pub(crate) const MOST: u32 = 5;

fn file_of(database: u32) -> String {
    format!("{DIRECTORY}/{database}.attempt")
}

/// Notes that a chunk is about to be read; returns which try it is, from 1. Not durable: after a crash of the machine it
/// begins anew.
pub(crate) fn begin(database: u32, job: i64, chunk: u64) -> u32 {
    let path = file_of(database);
    let before = fs::read_to_string(&path).unwrap_or_else(|error| {
        if error.kind() != ErrorKind::NotFound {
            pgrx::log!("pg_cdc: {path} cannot be read: {error}");
        }
        String::new()
    });
    let attempt = 1 + tries_of(&before, job, chunk);
    if let Err(error) = fs::write(&path, format!("{job} {chunk} {attempt}")) {
        pgrx::log!("pg_cdc: {path} cannot be written: {error}");
    }
    attempt
}

/// The chunk was read, or its reading ended with an error that was told.
pub(crate) fn end(database: u32) {
    match fs::remove_file(file_of(database)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            pgrx::log!("pg_cdc: {} cannot be removed: {error}", file_of(database));
        }
        _ => {}
    }
}

/// Whether a chunk of this database was begun and never ended.
pub(crate) fn is_open(database: u32) -> bool {
    fs::exists(file_of(database)).unwrap_or(false)
}

fn tries_of(text: &str, job: i64, chunk: u64) -> u32 {
    let mut words = text.split(' ');
    let is_this = words.next().and_then(|word| word.parse().ok()) == Some(job)
        && words.next().and_then(|word| word.parse().ok()) == Some(chunk);
    let tries = words.next().and_then(|word| word.parse().ok());
    tries.filter(|_| is_this).unwrap_or(0)
}
