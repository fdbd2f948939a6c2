//! `companion-sink run`

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, Consistency, Kind};
use crate::dead_letter::DeadLetters;
use crate::discovery::Discovery;
use crate::error::{Error, Result};
use crate::http;
use crate::kafka_client;
use crate::live::Reloader;
use crate::positions;
use crate::sink::by_partition::ByPartition;
use crate::sink::in_commit_order::InCommitOrder;
use crate::sink::mongo_history::MongoHistory;
use crate::sink::postgres::Postgres;
use crate::sink::refusal_limit::RefusalLimit;
use crate::sink::runner::{Context, Runner, Shared};
use crate::source::Source;
use crate::status::SinkStatus;

/// Runs the sinks until SIGTERM or SIGINT; each finishes its batch. SIGHUP has the configuration read again.
pub async fn run(config: &Config, reloader: Reloader, names: &[String]) -> Result<()> {
    let chosen = choose(config, names)?;
    let mut signals = Signals::new()?;
    let (stop, stopped) = watch::channel(false);
    let discovery = Discovery::start(config)?;
    let dead_letters = DeadLetters::new(config, discovery.cluster())?;
    let position = positions::follow(config)?;
    let shared = Arc::new(Shared {
        discovery,
        position: position.clone(),
        dead_letters,
        stop: stopped.clone(),
    });
    let memory_bytes = config.kafka.fetch_memory / chosen.len().max(1) as u64;

    let mut statuses = Vec::new();
    let mut runs = JoinSet::new();
    for (name, sink) in chosen {
        let status = SinkStatus::new(name, sink.kind_name());
        statuses.push(status.clone());
        let group = format!("{}.{name}", config.name);
        let client = kafka_client::consumer(config, &group, memory_bytes)?;
        let context = Context {
            name: name.to_owned(),
            config: sink.clone(),
            client,
            shared: Arc::clone(&shared),
            status,
            goal: None,
        };
        let refusals = RefusalLimit::new(config.dead_letters.max_parked_keys_per_minute);
        match &sink.kind {
            Kind::MongoHistory(settings) => {
                let history = MongoHistory::new(
                    &config.name,
                    name,
                    reloader.live(),
                    &config.kafka.source,
                    settings.clone(),
                    refusals,
                );
                runs.spawn(Runner::new(context, ByPartition::new(history)).run());
            }
            Kind::Postgres(settings) => {
                let live = reloader.live();
                let replica = Postgres::new(&config.name, name, live, settings.clone(), refusals);
                match settings.consistency {
                    Consistency::Transaction => {
                        runs.spawn(Runner::new(context, InCommitOrder::new(replica)).run())
                    }
                    Consistency::Row => {
                        runs.spawn(Runner::new(context, ByPartition::new(replica)).run())
                    }
                };
            }
        }
    }
    let http = http::Server::start(
        config,
        statuses,
        shared.discovery.cluster(),
        position,
        Source::new(&config.source.url),
        stopped,
    )
    .await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        sinks = runs.len(),
        "started"
    );

    signals.wait_for_end(&reloader).await;
    tracing::info!("stopping: the current batches are finished");
    // The receivers live in `shared`, so this reaches every sink.
    let _ = stop.send(true);
    while let Some(ended) = runs.join_next().await {
        if let Err(error) = ended {
            return Err(Error::new(
                crate::error::Code::TargetRefuses,
                format!("a sink ended abnormally: {error}"),
                "Report this with the log.",
            ));
        }
    }
    http.finish().await;
    tracing::info!("stopped");
    Ok(())
}

/// The enabled sinks, or those named.
pub fn choose<'c>(
    config: &'c Config,
    names: &[String],
) -> Result<Vec<(&'c str, &'c crate::config::Sink)>> {
    for name in names {
        if !config.sinks.contains_key(name) {
            let known: Vec<_> = config.sinks.keys().map(String::as_str).collect();
            return Err(Error::configuration(
                format!("no sink \"{name}\" in the configuration"),
                format!("Known: {}.", known.join(", ")),
            ));
        }
    }
    let chosen = config.sinks.iter().filter(|(name, sink)| match names {
        [] => sink.enabled,
        names => names.contains(name),
    });
    let chosen: Vec<_> = chosen.map(|(name, sink)| (name.as_str(), sink)).collect();
    if chosen.is_empty() {
        return Err(Error::configuration(
            "no sink is enabled",
            "Set enabled = true, or name one with --sink.",
        ));
    }
    Ok(chosen)
}

/// What people tell the process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on they are waited for.
    pub fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error: std::io::Error| {
                Error::configuration(
                    format!("cannot wait for signals: {error}"),
                    "Look at the limits of this process.",
                )
            })
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits until the process is to end, and has the configuration read again meanwhile.
    pub async fn wait_for_end(&mut self, reloader: &Reloader) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reloader.reload(),
            }
        }
    }
}
