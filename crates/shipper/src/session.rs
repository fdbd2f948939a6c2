//! What the threads of one session are given, and share.

use std::sync::Arc;

use change::mac_key::MacKey;

use super::board::Board;
use super::client::KafkaSettings;
use super::host::Host;
use super::position::Owner;
use super::progress::Progresses;

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
