//! What the threads of the sender have to tell, as it is now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::code::Code;
use change::position::{Position, lsn_text};
use change::trouble::Trouble;

use crate::files::local_position::LocalPosition;
use crate::files::orders::Aside;
use crate::trouble::Failure;

/// The first of several reasons is shown for so long, and a failure is logged once in it. librdkafka repeats what lasts
/// every 30 seconds.
const CAUSE_KEPT: Duration = Duration::from_secs(60);
/// Afterwards nothing is known of connections any more.
const CAUSE_VALID: Duration = Duration::from_secs(120);
/// Different failures within a minute of which the log is kept free.
const MAX_LOGGED: usize = 50;
/// A position in Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// Number of the progress that it records, counted since the session began.
    pub number: u64,
    pub cluster_id: String,
    pub epoch: u64,
    pub timeline: u32,
    pub commit_lsn: u64,
    pub restart_lsn: u64,
}

impl Durable {
    /// What the server is to remember of it.
    pub fn to_local(&self) -> LocalPosition {
        LocalPosition {
            cluster_id: self.cluster_id.clone(),
            epoch: self.epoch,
            timeline: self.timeline,
            commit_lsn: self.commit_lsn,
            restart_lsn: self.restart_lsn,
        }
    }

    /// The order in which positions are newer.
    pub fn rank(&self) -> (u64, u32, u64) {
        (self.epoch, self.timeline, self.commit_lsn)
    }
}

/// The facts.
#[derive(Debug, Default)]
pub struct Facts {
    /// Set once the position topic was read: the position found, if any, and the epoch of this sender.
    pub start: Option<(Option<Box<Position>>, u64)>,
    /// Transactions acknowledged by Kafka, counted since the session began.
    pub acknowledged: u64,
    /// Of the newest of them: where its commit record begins and ends.
    pub acknowledged_lsn: (u64, u64),
    /// Commit time of the oldest transaction that is produced and not acknowledged, 0 for none.
    pub oldest_unacknowledged_us: i64,
    /// The newest position that this session made durable in Kafka.
    pub durable: Option<Durable>,
    pub failure: Option<Failure>,
    /// A topic that is to be put aside: the Kafka thread waits until that is noted.
    pub aside_wanted: Option<Box<Aside>>,
    /// Topics that are put aside, durably, and since which commit, as positions name them.
    pub asides: Arc<BTreeMap<String, String>>,
    /// What Kafka is waited for with, if anything.
    pub trouble: Option<Trouble>,
    /// What the newest event is held back by, if anything. Stays while other things work.
    pub blocked: Option<Trouble>,
    /// What a connection failed of, and when that was said.
    cause: Option<(Trouble, Instant)>,
    /// Failures that the log has, and since when.
    logged: Vec<(String, Instant)>,
    /// Why events are not acknowledged, though the client says nothing.
    pub stall: Option<Trouble>,
    pub events: u64,
    pub bytes: u64,
    pub transactions: u64,
    pub unacknowledged_events: u64,
    pub topics: u32,
    pub brokers_up: u32,
    pub brokers_down: u32,
    /// How long brokers make the client wait for a quota, on average over the last statistics.
    pub throttle_ms: u32,
    /// Lines for the server log.
    pub log: Vec<String>,
}

impl Facts {
    /// The topics that are put aside, as the orders have them.
    pub fn put_aside(&mut self, asides: &[Aside]) {
        let asides = asides
            .iter()
            .map(|aside| (aside.topic.clone(), lsn_text(aside.from)));
        self.asides = Arc::new(asides.collect());
    }

    /// Something went through: what was waited for before is over, and what connections failed of is of no interest.
    pub fn went_through(&mut self) {
        self.trouble = None;
        self.cause = None;
    }

    /// What the sender waits with, if anything: what is certain before what a call that was in vain makes of it.
    pub fn waits_with(&self) -> Option<&Trouble> {
        let trouble = self.trouble.as_ref();
        let certain = trouble.filter(|trouble| trouble.code != Code::BrokersUnreachable);
        let blocked = self.blocked.as_ref();
        blocked.or(certain).or(self.stall.as_ref()).or(trouble)
    }

    /// A call that was in vain knows less of Kafka than the connections do.
    pub(crate) fn traced(&self, trouble: Trouble) -> Trouble {
        match (trouble.code, &self.cause) {
            (Code::BrokersUnreachable | Code::AuthenticationFailed, Some((cause, said)))
                if said.elapsed() < CAUSE_VALID =>
            {
                cause.clone()
            }
            _ => trouble,
        }
    }

    /// A connection failed of this. It may be one of several: it is shown only with something that waits. A broker that
    /// refuses us says more than one that is not there.
    pub(crate) fn connection_failed(&mut self, cause: Trouble) {
        let keep = self.cause.as_ref().is_some_and(|(known, said)| {
            said.elapsed() < CAUSE_KEPT
                && (known.code == Code::AuthenticationFailed || known.code == cause.code)
        });
        if !keep {
            self.cause = Some((cause, Instant::now()));
        }
    }

    /// Connections will fail of this.
    pub(crate) fn cause_found(&mut self, cause: Trouble) {
        self.cause = Some((cause, Instant::now()));
    }

    /// Whether the log has not had this failure for a while.
    pub(crate) fn is_news(&mut self, failure: &str) -> bool {
        self.logged
            .retain(|(_, since)| since.elapsed() < CAUSE_KEPT);
        let known = self.logged.iter().any(|(logged, _)| logged == failure);
        if !known && self.logged.len() < MAX_LOGGED {
            self.logged.push((failure.to_owned(), Instant::now()));
        }
        !known
    }
}
