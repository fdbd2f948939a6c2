//! What people ordered the sender to do: to pause, to drain, which gaps are accepted, which events are given up.
//!
//! The orders are a file of the data directory, so that they outlive every restart and say who gave them. SQL functions
//! write it and call the sender, which reads it again; the sender notes in it what is done.

use std::io;

use change::position::lsn_as_text;
use change::trouble::Trouble;
use serde::{Deserialize, Serialize};

use super::durable;

const FILE: &str = "pg_cdc/orders.json";
/// Accepted gaps and skips that are kept, for people to read.
const KEPT: usize = 100;

/// Who ordered something, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct By {
    pub role: String,
    /// ISO 8601.
    pub at: String,
    pub reason: Option<String>,
}

/// Why nothing is sent though it could be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Hold {
    Pause {
        by: By,
    },
    /// Everything before `up_to` is sent first.
    Drain {
        #[serde(with = "lsn_as_text")]
        up_to: u64,
        drop_slot: bool,
        done: bool,
        by: By,
    },
}

/// WAL that is gone, and known to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    #[serde(with = "lsn_as_text")]
    pub from: u64,
    #[serde(with = "lsn_as_text")]
    pub to: u64,
    pub by: By,
}

/// Events of one topic that are not sent: those of transactions whose commit record is at `up_to` or before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    pub topic: String,
    #[serde(with = "lsn_as_text")]
    pub up_to: u64,
    pub by: By,
}

/// A topic that cannot take an event: nothing of it is sent from there on, until somebody says so. The others go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    pub topic: String,
    /// Commit record of the first transaction of which something is not sent.
    #[serde(with = "lsn_as_text")]
    pub from: u64,
    /// Oid of the database that wrote it.
    pub database: u32,
    /// Microseconds since 2000-01-01.
    pub since_us: i64,
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// A topic that is to have more partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repartition {
    pub topic: String,
    pub partitions: i32,
    pub by: By,
}

/// A person's word that this server is the source that its identity names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    pub by: By,
}

/// Everything that holds at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Orders {
    /// Rises with every change.
    pub number: u64,
    pub hold: Option<Hold>,
    #[serde(default)]
    pub gaps: Vec<Gap>,
    #[serde(default)]
    pub skips: Vec<Skip>,
    /// Noted by the sender itself.
    #[serde(default)]
    pub asides: Vec<Aside>,
    #[serde(default)]
    pub repartitions: Vec<Repartition>,
    #[serde(default)]
    pub adoption: Option<Adoption>,
}

impl Orders {
    /// As they are now; none given if there is no file.
    pub fn read() -> io::Result<Orders> {
        Ok(durable::read(FILE)?.unwrap_or_default())
    }

    /// Changes them, durably, while nobody else does. `passed_lsn` is the commit record of the newest transaction that is
    /// sent. Returns the number of the change.
    pub fn change(passed_lsn: u64, change: impl FnOnce(&mut Orders)) -> io::Result<u64> {
        let mut orders = Orders::read()?;
        change(&mut orders);
        orders.number += 1;
        let excess = orders.gaps.len().saturating_sub(KEPT);
        orders.gaps.drain(..excess);
        // One that still counts is never dropped.
        let mut excess = orders.skips.len().saturating_sub(KEPT);
        orders.skips.retain(|skip| {
            let drop_it = excess > 0 && skip.up_to < passed_lsn;
            excess -= usize::from(drop_it);
            !drop_it
        });
        durable::replace(FILE, |_| Ok(&orders))?;
        Ok(orders.number)
    }

    /// The accepted gap in which `lsn` lies.
    pub fn gap_at(&self, lsn: u64) -> Option<&Gap> {
        self.gaps
            .iter()
            .rev()
            .find(|gap| (gap.from..gap.to).contains(&lsn))
    }

    /// Whether a transaction that began at `first_lsn` lost chunks in an accepted gap.
    pub fn is_lost(&self, first_lsn: u64) -> bool {
        first_lsn != 0 && self.gaps.iter().any(|gap| first_lsn < gap.to)
    }

    /// Events that are still to be given up.
    pub fn active_skips(&self, passed_lsn: u64) -> impl Iterator<Item = &Skip> {
        let skips = self.skips.iter();
        skips.filter(move |skip| skip.up_to > passed_lsn)
    }

    /// Whether a topic is put aside.
    pub fn aside(&self, topic: &str) -> Option<&Aside> {
        self.asides.iter().find(|aside| aside.topic == topic)
    }

    /// Whether the sender is to end its session where everything that it has taken on is acknowledged.
    pub fn wants_stop(&self, read_lsn: u64) -> bool {
        match &self.hold {
            None => false,
            Some(Hold::Pause { .. }) => true,
            Some(Hold::Drain { up_to, .. }) => read_lsn >= *up_to,
        }
    }
}
