//! How far a session has read, and the transactions that are open there.

use change::memory::copy_of;
use change::position::lsn_text;
use change::wal::assembly::{Assembly, ChunkPlace, Outcome};
use change::wire::WireError;

use crate::cluster_secret::message_key;
use crate::sender::wal::event::{ThisServer, event_of, our_message};
use crate::sender::wal::reader::{WalError, WalReader};

/// The reading of the WAL, and what it has put together so far.
pub(super) struct Reading {
    pub(super) reader: WalReader,
    pub(super) assembly: Assembly,
    /// Of messages that were too many to be kept.
    again: Option<WalReader>,
    max_cached_bytes: usize,
    pub(super) timeline: u32,
    /// Transactions up to here are in Kafka.
    pub(super) done_lsn: u64,
}

/// Why a message cannot be had.
pub(super) enum Unread {
    Wal(WalError),
    Wire(WireError),
}

impl Reading {
    /// Begins at `start_lsn`, of which transactions up to `done_lsn` are done.
    pub(super) fn new(
        start_lsn: u64,
        done_lsn: u64,
        timeline: u32,
        max_cached_bytes: usize,
    ) -> Reading {
        Reading {
            reader: WalReader::new(start_lsn),
            assembly: Assembly::new(message_key(), max_cached_bytes),
            again: None,
            max_cached_bytes,
            timeline,
            done_lsn,
        }
    }

    /// What the next record comes to; none where there is nothing more to read.
    pub(super) fn next(&mut self) -> Result<Option<Outcome>, WalError> {
        let Some(record) = self.reader.next()? else {
            return Ok(None);
        };
        Ok(Some(match event_of(&record, &self.assembly) {
            Some(event) => self.assembly.take(event, &ThisServer),
            None => Outcome::Nothing,
        }))
    }

    /// Goes on at `lsn`; whatever is open is lost.
    pub(super) fn skip_to(&mut self, lsn: u64) {
        self.reader.seek(lsn);
        self.assembly = Assembly::new(message_key(), self.max_cached_bytes);
    }

    /// From where the WAL has to be read again, were everything acknowledged that was read.
    pub(super) fn restart_lsn(&self) -> u64 {
        self.assembly.restart_lsn(self.reader.position())
    }

    /// Reads a message's record again, for memory was short when it came by.
    pub(super) fn read_again(&mut self, place: &ChunkPlace) -> Result<Vec<u8>, Unread> {
        let reader = self.again.get_or_insert_with(|| {
            let from = lsn_text(place.lsn);
            pgrx::debug1!("pg_cdc: memory is short, a transaction is read again from {from}");
            WalReader::new(place.lsn)
        });
        reader.seek(place.lsn);
        match reader.next() {
            Ok(Some(record)) => match our_message(record.data) {
                Some((_, _, bytes)) => copy_of(bytes).ok_or(Unread::Wire(WireError::OutOfMemory)),
                None => Err(Unread::Wire(WireError::Invalid("record"))),
            },
            Ok(None) => Err(Unread::Wire(WireError::Truncated)),
            Err(error) => Err(Unread::Wal(error)),
        }
    }
}
