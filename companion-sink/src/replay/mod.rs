//! Builds the content of a sink from the topics once more: a replica beside the one that readers use, which then takes its
//! place; a history in place, for what is missing or different there.

pub(crate) mod beginning;
mod changed_definition;
mod delivery;
pub(crate) mod history;
mod middle;
pub(crate) mod replica;
mod start;
pub(crate) mod view;

use std::future::Future;
use std::pin::pin;

use tokio::sync::watch;

use crate::config;
use crate::config::Loaded;
use crate::delivery::runner::stopped;
use crate::error::Result;
use crate::replay::beginning::From;
use crate::sink::changes::Changes;

/// What is to be replayed.
pub(crate) struct Order<'c> {
    /// The configuration.
    pub(crate) config: &'c Loaded,
    /// The sink's name.
    pub(crate) name: &'c str,
    /// Its part of the configuration.
    pub(crate) sink: &'c config::SinkSettings,
    /// Where to begin.
    pub(crate) from: From,
    /// Nothing is changed, only compared.
    pub(crate) is_dry_run: bool,
    /// Becomes true when somebody interrupts it.
    pub(crate) stop: watch::Receiver<bool>,
}

/// What a replay has done.
pub(crate) struct Report {
    /// Where it began, for people.
    pub(crate) begun_at: String,
    /// Records that were read.
    pub(crate) records: u64,
    /// The rows, or documents, that differed, by table or collection.
    pub(crate) changes: Vec<Changes>,
}

/// The outcome of `work`, or `None` if somebody interrupts it.
pub(crate) async fn unless_stopped<T>(
    stop: &watch::Receiver<bool>,
    work: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    let mut stop = stop.clone();
    let work = pin!(work);
    tokio::select! {
        biased;
        () = stopped(&mut stop) => Ok(None),
        done = work => done.map(Some),
    }
}
