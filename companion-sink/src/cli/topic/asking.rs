//! How a topic is asked: in a thread that may wait for Kafka, until it answers or somebody interrupts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use change::trouble::Trouble;

use crate::cli::printable;
use crate::cli::run::{Signalled, Signals};
use crate::config::Loaded;
use crate::error::{Code, Result};
use crate::topic::asked::{self, AskedTopic};

/// The topic of that name; says so where there is none.
pub(super) fn find(config: &Loaded, topic: &str) -> Result<Option<AskedTopic>> {
    Ok(match asked::ask(config, topic)? {
        Ok(asked) => Some(asked),
        Err(none) => {
            eprintln!("companion-sink: {}", printable(&none.text()));
            None
        }
    })
}

/// Set when somebody does not want to wait any more.
pub(super) fn stopped_by_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        // Nothing that is read again would change anything here.
        while signals.next().await == Signalled::ReadAgain {}
        stopped.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// Does what waits for Kafka.
pub(super) async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Trouble::new(
            Code::Unreachable,
            format!("kafka: {error}"),
            "Try again.",
        ))
    })
}
