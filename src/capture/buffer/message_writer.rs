//! Sections as sealed messages in the WAL.

use std::ffi::CStr;

use change::mac_key::MacKey;
use change::wal::body::{Head, head_capacity, put_head};
use change::wal::message::{self, Compressor, Header, MESSAGE_PREFIX, Manifest};
use pgrx::pg_sys;

use super::sections::{Sections, Start};
use crate::catalog::database_name;
use crate::cluster_secret::message_key;
use crate::reserve::reserve;
use crate::settings::{self, Compression};
use crate::{ffi, shared};

const MESSAGE_PREFIX_C: &CStr = c"pg_cdc";

/// Names of the database, as every message has them.
#[derive(Default)]
struct Names {
    database: String,
    prefix: String,
    /// `cdc.topic_prefix`, from which `prefix` was made.
    setting: Vec<u8>,
}

impl Names {
    /// Follows the setting. The database keeps its name while this backend is connected to it.
    fn refresh(&mut self) {
        let setting = settings::raw(&settings::TOPIC_PREFIX);
        if self.database.is_empty() || self.setting != setting {
            self.database = database_name();
            self.prefix = settings::topic_prefix(&self.database);
            self.setting = setting.to_vec();
        }
    }
}

/// Writes the messages of one transaction after the other.
#[derive(Default)]
pub(super) struct MessageWriter {
    pub nonce: [u8; 16],
    next_message: u32,
    first_lsn: u64,
    names: Names,
    body: Vec<u8>,
    sealed: Vec<u8>,
    compressor: Option<Compressor>,
    mac_key: Option<MacKey>,
}

impl MessageWriter {
    /// Whether a message of this transaction is in the WAL.
    pub(super) fn has_written(&self) -> bool {
        self.next_message > 0
    }

    /// Where the first message of this transaction is; 0 for none.
    pub(super) fn first_lsn(&self) -> u64 {
        self.first_lsn
    }

    /// The transaction is over. Only forgets.
    pub(super) fn reset(&mut self) {
        self.next_message = 0;
        self.first_lsn = 0;
    }

    /// Writes the section that begins at `start`, with the manifest of the whole transaction if it is the last one.
    pub(super) fn write(
        &mut self,
        sections: &Sections,
        start: &Start,
        manifest: Option<&Manifest>,
    ) {
        self.names.refresh();
        let head = Head {
            database: &self.names.database,
            prefix: &self.names.prefix,
            base: start.state,
            contexts: (sections.contexts.count, &sections.contexts.blobs),
            relations: (sections.relations.count, &sections.relations.blobs),
        };
        let rows = &sections.data[start.data_len..];
        self.body.clear();
        reserve(&mut self.body, head_capacity(&head) + rows.len());
        put_head(&mut self.body, &head);
        self.body.extend_from_slice(rows);
        self.sealed.clear();
        reserve(&mut self.sealed, message::sealed_capacity(self.body.len()));

        // SAFETY: inside a transaction; both calls assign ids where there are none yet. The record that follows carries
        // the current (sub)transaction's id.
        let (record_xid, xid8, database_oid) = unsafe {
            let record_xid = pg_sys::GetCurrentTransactionId();
            (
                u32::from(record_xid),
                pg_sys::GetTopFullTransactionId().value,
                pg_sys::MyDatabaseId.to_u32(),
            )
        };
        let header = Header {
            xid8,
            record_xid,
            number: self.next_message,
            nonce: self.nonce,
            database_oid,
        };
        let compressor = match settings::MESSAGE_COMPRESSION.get() {
            Compression::Lz4 => Some(self.compressor.get_or_insert_default()),
            Compression::None => None,
        };
        let key = self.mac_key.get_or_insert_with(message_key);
        message::seal(
            &mut self.sealed,
            key,
            &header,
            manifest,
            &self.body,
            compressor,
        );
        // SAFETY: inside a transaction. MESSAGE_PREFIX has no zero byte; the constant beside it is the same text.
        unsafe {
            debug_assert_eq!(MESSAGE_PREFIX.as_bytes(), MESSAGE_PREFIX_C.to_bytes());
            ffi::log_transactional_message(MESSAGE_PREFIX_C, &self.sealed);
            if self.first_lsn == 0 {
                self.first_lsn = pg_sys::ProcLastRecPtr;
            }
            // Of a large transaction the sender has then read most when it commits.
            if let Some(shared) = shared::shared() {
                shared.tell_of_wal(pg_sys::XactLastRecEnd);
            }
        }
        self.next_message += 1;
    }

    /// Gives back memory beyond `kept_bytes`.
    pub(super) fn shrink(&mut self, kept_bytes: usize) {
        shrink(&mut self.body, kept_bytes);
        shrink(&mut self.sealed, kept_bytes);
    }
}

/// Gives back memory beyond `kept_bytes`; the content goes.
pub(super) fn shrink(buffer: &mut Vec<u8>, kept_bytes: usize) {
    if buffer.capacity() > kept_bytes {
        buffer.clear();
        buffer.shrink_to(kept_bytes);
    }
}
