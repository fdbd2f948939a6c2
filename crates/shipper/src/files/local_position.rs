//! The position as this server remembers it, in a file beside its identity. The truth is in Kafka; this copy notices when
//! Kafka has lost it, and says how far the WAL has nothing more to send.

use std::io;

use change::position::lsn_as_text;
use serde::{Deserialize, Serialize};

use super::durable;

pub const FILE: &str = "pg_cdc/position.json";

/// What this server knows of the position in Kafka. The slot never goes beyond `restart_lsn`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LocalPosition {
    pub cluster_id: String,
    pub epoch: u64,
    pub timeline: u32,
    /// Recorded in Kafka: it never has less.
    #[serde(with = "lsn_as_text")]
    pub commit_lsn: u64,
    /// After that there is nothing of ours in the WAL before this LSN.
    #[serde(with = "lsn_as_text")]
    pub restart_lsn: u64,
}

impl LocalPosition {
    /// Before anything was sent: the slot holds the WAL from `restart_lsn` on.
    pub fn first(timeline: u32, restart_lsn: u64) -> LocalPosition {
        LocalPosition {
            timeline,
            restart_lsn,
            ..LocalPosition::default()
        }
    }

    /// Whether Kafka ever had a position of this source, as far as this server knows.
    pub fn was_recorded(&self) -> bool {
        self.epoch > 0
    }

    /// None before the first position was written.
    pub fn read() -> io::Result<Option<LocalPosition>> {
        durable::read(FILE)
    }

    pub fn write(&self) -> io::Result<()> {
        durable::replace(FILE, |_| Ok(self))
    }

    /// Whoever adopts this server begins without one.
    pub fn forget() -> io::Result<()> {
        durable::remove(FILE)
    }

    /// The order in which positions are newer.
    pub fn rank(&self) -> (u64, u32, u64) {
        (self.epoch, self.timeline, self.commit_lsn)
    }
}
