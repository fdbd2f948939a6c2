//! What the threads of one session are given, and share.

use std::sync::Arc;

use change::mac_key::MacKey;

use crate::board::Board;
use crate::files::local_position::LocalPosition;
use crate::host::Host;
use crate::kafka::settings::KafkaSettings;
use crate::progress::Progresses;

/// Who writes the position.
#[derive(Debug, Clone)]
pub struct Owner {
    pub source_id: String,
    pub generation: u16,
    pub node: String,
    /// Where the server's timeline began.
    pub timeline_start: u64,
    /// What the server remembers of the position.
    pub remembered: Option<LocalPosition>,
}

/// From settings to the first failure. Each thread has a copy: what they share is behind the [`Arc`]s and in the [`Host`].
#[derive(Clone)]
pub struct Session {
    /// As chunks of snapshots name it.
    pub number: u64,
    pub settings: KafkaSettings,
    /// Of a batch: less than the settings have where a topic is known to take less.
    pub max_batch_bytes: usize,
    pub owner: Owner,
    /// Seals positions.
    pub key: MacKey,
    pub board: Arc<Board>,
    pub progresses: Arc<Progresses>,
    pub host: Host,
}

impl Session {
    /// The session failed, or was asked to end.
    pub(crate) fn is_over(&self) -> bool {
        self.board.stopping() || self.board.has_failed()
    }

    pub(crate) fn position_topic(&self) -> String {
        format!("{}.cdc_positions", self.settings.source_name)
    }

    /// Of the producer that writes the position.
    pub(crate) fn transactional_id(&self) -> String {
        format!("pg_cdc.{}", self.settings.source_name)
    }
}
