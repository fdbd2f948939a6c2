//! The configuration of a running process. SIGHUP has it read again: rules and secrets take effect at once, all else with the
//! next start.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use change::trouble::Trouble;

use crate::config::{Loaded, with_place};
use crate::effect::target;
use crate::error::{Result, misconfigured};
use crate::kafka::client;
use crate::rule::compiled::{Rule, check_conditions, compile};
use crate::rule::condition::Condition;
use crate::sink::mongo_view::configured;

/// Reads the configuration from `file`, or from the usual places, and checks everything.
pub(crate) fn load(file: Option<&Path>) -> Result<Loaded> {
    let config = Loaded::read(file)?;
    let checked = compiled(&config)
        .and_then(|_| check_effects(&config))
        .and_then(|()| configured::check(&config));
    checked.map_err(|error| match &config.file {
        Some(file) => with_place(file, error),
        None => error,
    })?;
    Ok(config)
}

/// Reads the conditions, templates and secrets of the sinks whose events have effects.
fn check_effects(config: &Loaded) -> Result<()> {
    for (name, sink) in &config.sinks {
        let Some(effect) = sink.kind.effect() else {
            continue;
        };
        let checked = Condition::of(effect).and_then(|_| target::check(sink));
        checked.map_err(|error| Trouble {
            message: format!("sink.{name}: {}", error.message),
            ..error
        })?;
    }
    Ok(())
}

fn compiled(config: &Loaded) -> Result<Vec<Rule>> {
    check_conditions(config).map_err(|(sink, why)| {
        misconfigured(
            format!("sink.{sink}.where: {why}"),
            "Change it there: CEL over before, after, value, op and audit.",
        )
    })?;
    compile(config).map_err(|what| {
        let file = config.file.as_deref().map(Path::display);
        let file = file.map_or_else(String::new, |file| format!("{file}: "));
        misconfigured(
            format!("{file}{what}"),
            "Change that [[rule]]; `companion-sink config --defaults` shows its keys.",
        )
    })
}

/// What is valid at a time.
struct Valid {
    config: Arc<Loaded>,
    rules: Vec<Rule>,
}

impl Valid {
    fn new(config: Loaded) -> Result<Arc<Self>> {
        let rules = compiled(&config)?;
        let config = Arc::new(config);
        Ok(Arc::new(Valid { config, rules }))
    }
}

/// The configuration as it is now.
#[derive(Clone)]
pub(crate) struct Live(watch::Receiver<Arc<Valid>>);

impl Live {
    /// Whether there is one that [`Live::newest_rules`] was not asked for.
    pub(crate) fn has_changed(&self) -> bool {
        // One that nobody reads again stays as it is.
        self.0.has_changed().unwrap_or(false)
    }

    /// From now on, [`Live::read_again`] waits for the next time.
    pub(crate) fn wait_anew(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until the configuration is read again, whether it differs or not.
    pub(crate) async fn read_again(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who would.
            pending().await
        }
    }

    /// The rules for `sink` that are valid now.
    pub(crate) fn newest_rules(&mut self, sink: &str) -> Vec<Rule> {
        let valid = self.0.borrow_and_update();
        let of_sink = valid.rules.iter().filter(|rule| rule.is_for(sink));
        of_sink.cloned().collect()
    }

    /// Where the target of `sink` is, with its secrets, as they are now.
    pub(crate) fn url(&self, sink: &str) -> String {
        let valid = self.0.borrow();
        let sink = valid.config.sinks.get(sink);
        sink.map_or_else(String::new, |sink| sink.url.reveal().to_owned())
    }
}

/// Reads the configuration again.
pub(crate) struct Reloader {
    file: Option<PathBuf>,
    current: watch::Sender<Arc<Valid>>,
}

impl Reloader {
    /// Begins with `config`, which was read from `file` (or from the usual places).
    pub(crate) fn new(config: &Loaded, file: Option<PathBuf>) -> Result<Self> {
        let (current, _) = watch::channel(Valid::new(config.clone())?);
        Ok(Reloader { file, current })
    }

    /// What the sinks follow.
    pub(crate) fn live(&self) -> Live {
        Live(self.current.subscribe())
    }

    /// Reads the file again: the configuration that is valid from now on. One that is wrong changes nothing.
    pub(crate) fn reload(&self) -> Arc<Loaded> {
        match self.read() {
            Ok(next) => {
                tracing::info!(rules = next.rules.len(), "configuration read again");
                self.current.send_replace(next);
            }
            Err(error) => {
                tracing::error!(code = %error.code, hint = %error.remedy, "the configuration stays as it was: {}", error.message);
            }
        }
        Arc::clone(&self.current.borrow().config)
    }

    fn read(&self) -> Result<Arc<Valid>> {
        let read = load(self.file.as_deref())?;
        let current = Arc::clone(&self.current.borrow().config);
        let next = current.with_live_parts_of(&read);
        if next.kafka_files != current.kafka_files {
            client::asking(&next)?;
        }
        if next != read {
            tracing::warn!(
                hint = "Restart companion-sink to apply them.",
                "other keys than rules and files with secrets were changed, too"
            );
        }
        Valid::new(next)
    }
}
