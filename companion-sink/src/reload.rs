//! The configuration of a running process. SIGHUP has it read again: rules and secrets take effect at once, all else with the
//! next start.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;
use crate::error::Result;
use crate::kafka::client;

/// The configuration as it is now.
#[derive(Clone)]
pub struct Live(watch::Receiver<Arc<Config>>);

impl Live {
    /// Whether there is one that [`Live::newest`] was not asked for.
    pub fn has_changed(&self) -> bool {
        // One that nobody reads again stays as it is.
        self.0.has_changed().unwrap_or(false)
    }

    /// From now on, [`Live::read_again`] waits for the next time.
    pub fn wait_anew(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until the configuration is read again, whether it differs or not.
    pub async fn read_again(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who would.
            pending().await
        }
    }

    /// The configuration that is valid now.
    pub fn newest(&mut self) -> Arc<Config> {
        Arc::clone(&self.0.borrow_and_update())
    }

    /// Where the target of `sink` is, with its secrets, as they are now.
    pub fn url(&self, sink: &str) -> String {
        let config = self.0.borrow();
        let sink = config.sinks.get(sink);
        sink.map_or_else(String::new, |sink| sink.url.clone())
    }
}

/// Reads the configuration again.
pub struct Reloader {
    file: Option<PathBuf>,
    current: watch::Sender<Arc<Config>>,
}

impl Reloader {
    /// Begins with `config`, which was read from `file` (or from the usual places).
    pub fn new(config: &Config, file: Option<PathBuf>) -> Self {
        let (current, _) = watch::channel(Arc::new(config.clone()));
        Reloader { file, current }
    }

    /// What the sinks follow.
    pub fn live(&self) -> Live {
        Live(self.current.subscribe())
    }

    /// Reads the file again: the configuration that is valid from now on. One that is wrong changes nothing.
    pub fn reload(&self) -> Arc<Config> {
        match self.read() {
            Ok(next) => {
                tracing::info!(rules = next.rules.len(), "configuration read again");
                self.current.send_replace(Arc::new(next));
            }
            Err(error) => {
                tracing::error!(code = %error.code, hint = %error.hint, "the configuration stays as it was: {}", error.what);
            }
        }
        Arc::clone(&self.current.borrow())
    }

    fn read(&self) -> Result<Config> {
        let read = Config::load(self.file.as_deref())?;
        let next = self.current.borrow().with_live_parts_of(&read);
        if next.kafka != self.current.borrow().kafka {
            client::asking(&next)?;
        }
        if next != read {
            tracing::warn!(
                hint = "Restart companion-sink to apply them.",
                "other keys than rules and files with secrets were changed, too"
            );
        }
        Ok(next)
    }
}
