//! `companion-sink run`

use std::sync::Arc;

use change::trouble::Trouble;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Consistency, Kind, Loaded, MailSettings, SinkSettings, WebhookSettings};
use crate::delivery::by_partition::ByPartition;
use crate::delivery::in_commit_order::InCommitOrder;
use crate::delivery::runner::{Context, Runner, Shared};
use crate::effect::sink::Effects;
use crate::error::{Result, misconfigured};
use crate::http;
use crate::http::Listener;
use crate::kafka::client;
use crate::kafka::discovery::Discovery;
use crate::kafka::positions;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::{Live, Reloader};
use crate::sink::mongo_history::MongoHistory;
use crate::sink::mongo_view::MongoView;
use crate::sink::postgres::Postgres;
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::settings::Settings;
use crate::sink::statistics::Statistics;
use crate::statistics::kept::shelf::Shelf;
use crate::status::SinkStatus;
use crate::status::lag;
use crate::timestamp::now_us;

/// Runs the sinks until SIGTERM or SIGINT; each finishes its batch. SIGHUP has the configuration read again.
pub(crate) async fn run(config: &Loaded, reloader: Reloader, names: &[String]) -> Result<()> {
    let started_ms = now_us() / 1000;
    let mut signals = Signals::new()?;
    let listener = Listener::bind(config).await?;
    let mut config = Arc::new(config.clone());
    loop {
        let running = Running::start(config, &reloader, names, listener.as_ref(), started_ms)?;
        match running.until_told(&mut signals, &reloader).await? {
            Some(changed) => config = changed,
            None => break,
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// All that works with one set of Kafka's properties.
struct Running<'l> {
    config: Arc<Loaded>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    statuses: Vec<SinkStatus>,
    runs: JoinSet<()>,
    shelf: Shelf,
    listener: Option<&'l Listener>,
    http: Option<http::Server>,
}

impl<'l> Running<'l> {
    fn start(
        config: Arc<Loaded>,
        reloader: &Reloader,
        names: &[String],
        listener: Option<&'l Listener>,
        started_ms: i64,
    ) -> Result<Self> {
        let chosen = choose(&config, names)?;
        let (stop, stopped) = watch::channel(false);
        let discovery = Discovery::start(&config)?;
        let shared = Arc::new(Shared {
            dead_letters: DeadLetters::new(&config, discovery.cluster()),
            discovery,
            position: positions::follow(&config)?,
            stop: stopped,
            started_ms,
        });
        let memory_bytes = config.kafka.fetch_memory / chosen.len().max(1) as u64;

        let mut statuses = Vec::new();
        let mut runs = JoinSet::new();
        let shelf = Shelf::default();
        for (name, sink) in chosen {
            let status = SinkStatus::new(name, sink.kind_name());
            statuses.push(status.clone());
            let group = format!("{}.{name}", config.name);
            let context = Context {
                name: name.to_owned(),
                config: sink.clone(),
                client: client::consumer(&config, &group, memory_bytes),
                shared: Arc::clone(&shared),
                status,
                goal: None,
            };
            run_sink(&mut runs, &config, context, reloader.live(), &shelf)?;
        }
        lag::watch(
            &config,
            &statuses,
            shared.discovery.cluster(),
            shared.stop.clone(),
        )?;
        let mut running = Running {
            config,
            shared,
            stop,
            statuses,
            runs,
            shelf,
            listener,
            http: None,
        };
        running.serve()?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            sinks = running.runs.len(),
            "started"
        );
        Ok(running)
    }

    fn serve(&mut self) -> Result<()> {
        let serve = |listener| {
            http::Server::start(
                listener,
                &self.config,
                self.statuses.clone(),
                self.shared.discovery.cluster(),
                self.shared.position.clone(),
                &self.shelf,
            )
        };
        self.http = self.listener.map(serve).transpose()?;
        Ok(())
    }

    /// Runs until the process is to end, or until Kafka's properties have changed: then with which configuration to go on.
    async fn until_told(
        mut self,
        signals: &mut Signals,
        reloader: &Reloader,
    ) -> Result<Option<Arc<Loaded>>> {
        let next = loop {
            if signals.next().await == Signalled::End {
                break None;
            }
            let read = reloader.reload();
            if read.kafka_files != self.config.kafka_files {
                break Some(read);
            }
            let before = std::mem::replace(&mut self.config, read);
            let secrets_changed = before.token != self.config.token
                || before.source != self.config.source
                || before.sinks != self.config.sinks;
            if secrets_changed {
                // The sinks see to theirs, where they connect anew.
                self.finish_http().await;
                self.serve()?;
            }
        };
        match next {
            None => tracing::info!("stopping: the current batches are finished"),
            Some(_) => tracing::info!("kafka's properties changed: the sinks start anew"),
        }
        // The receivers live in `shared`, so this reaches every sink.
        let _ = self.stop.send(true);
        while let Some(ended) = self.runs.join_next().await {
            if let Err(error) = ended {
                return Err(Trouble::new(
                    crate::error::Code::TargetRefuses,
                    format!("a sink ended abnormally: {error}"),
                    "Report this with the log.",
                ));
            }
        }
        self.finish_http().await;
        Ok(next)
    }

    async fn finish_http(&mut self) {
        if let Some(http) = self.http.take() {
            http.finish().await;
        }
    }
}

/// The enabled sinks, or those named.
pub(crate) fn choose<'c>(
    config: &'c Loaded,
    names: &[String],
) -> Result<Vec<(&'c str, &'c SinkSettings)>> {
    for name in names {
        if !config.sinks.contains_key(name) {
            let known: Vec<_> = config.sinks.keys().map(String::as_str).collect();
            return Err(misconfigured(
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
        return Err(misconfigured(
            "no sink is enabled",
            "Set enabled = true, or name one with --sink.",
        ));
    }
    Ok(chosen)
}

/// Runs a sink as a task of its own.
fn run_sink(
    runs: &mut JoinSet<()>,
    config: &Arc<Loaded>,
    context: Context,
    live: Live,
    shelf: &Shelf,
) -> Result<()> {
    let name = context.name.clone();
    let refusals = RefusalLimit::new(config.dead_letters.max_parked_keys_per_minute);
    match &context.config.kind {
        Kind::MongoHistory(settings) => {
            let history = MongoHistory::new(
                &config.name,
                &name,
                live.clone(),
                &config.kafka.source_name,
                settings.clone(),
                refusals,
            );
            runs.spawn(Runner::new(context, ByPartition::new(history), live).run());
        }
        Kind::MongoView(settings) => {
            let view = MongoView::new(config, &name, live.clone(), settings, refusals)?;
            runs.spawn(Runner::new(context, InCommitOrder::new(view), live).run());
        }
        Kind::Postgres(settings) => {
            let settings = Settings::new(config, settings);
            let consistency = settings.consistency;
            let replica = Replica::new(&config.name, &name, live.clone(), settings, refusals);
            match consistency {
                Consistency::Transaction => {
                    runs.spawn(Runner::new(context, InCommitOrder::new(replica), live).run())
                }
                Consistency::Row => {
                    let delivery = ByPartition::new(Postgres::new(replica));
                    runs.spawn(Runner::new(context, delivery, live).run())
                }
            };
        }
        Kind::Webhook(WebhookSettings { effect, .. }) | Kind::Mail(MailSettings { effect, .. }) => {
            let effect = effect.clone();
            let config = Arc::clone(config);
            let effects = Effects::new(config, &context, effect, live.clone(), refusals);
            runs.spawn(Runner::new(context, ByPartition::new(effects), live).run());
        }
        Kind::Statistics(settings) => {
            let (shelf, status) = (shelf.clone(), context.status.clone());
            let statistics = Statistics::new(config, &name, settings, live.clone(), shelf, status)?;
            runs.spawn(Runner::new(context, ByPartition::new(statistics), live).run());
        }
    }
    Ok(())
}

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signalled {
    /// SIGTERM or SIGINT: finish and end.
    End,
    /// SIGHUP: read the configuration again.
    ReadAgain,
}

/// What people tell the process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on they are waited for.
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error: std::io::Error| {
                misconfigured(
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

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.terminate.recv() => Signalled::End,
            _ = self.interrupt.recv() => Signalled::End,
            _ = self.hang_up.recv() => Signalled::ReadAgain,
        }
    }
}
