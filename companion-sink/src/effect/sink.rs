//! The side of a sink of effects that the course of delivery knows: takes batches, and says how far it is.

use std::collections::{BTreeMap, HashMap};
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use change::trouble::Trouble;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{EffectBegin, EffectSettings, Kind, Loaded};
use crate::delivery::runner::{Context, Shared, ended, stopped};
use crate::delivery::watermark::Complete;
use crate::effect::beginning::beginnings;
use crate::effect::choice::Choice;
use crate::effect::lock::Lock;
use crate::effect::pending::Accepted;
use crate::effect::state::content::{Change, EffectState};
use crate::effect::state::journal::{Journal, blocking};
use crate::effect::state::topics::{EffectTopics, read_state};
use crate::effect::state::unfinished::Unfinished;
use crate::effect::target::Target;
use crate::effect::worker::{Task, Tools, Worker};
use crate::error::{Code, Result, log};
use crate::kafka::client;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::sink::batch::{Applied, Batch, Move, Position};
use crate::sink::{NotShared, Positions, Sink};
use crate::status::{SinkStatus, State};
use crate::timestamp::now_us;

/// Kafka gives the sink to an instance within this, if no other one has it.
const GIVEN_WITHIN: Duration = Duration::from_secs(5);
/// For reading the state.
const MEMORY_BYTES: u64 = 8 << 20;
/// Batches that wait for the worker.
const TASKS_WAITING: usize = 4;

/// A sink whose events have effects.
pub(crate) struct Effects {
    config: Arc<Loaded>,
    topics: EffectTopics,
    /// The topics to follow.
    followed: Vec<String>,
    kind: Kind,
    settings: EffectSettings,
    shared: Arc<Shared>,
    status: SinkStatus,
    live: Live,
    refusals: Arc<Mutex<RefusalLimit>>,
    /// None before it is connected.
    connected: Option<Connected>,
}

/// What a sink has while it is connected.
struct Connected {
    choice: Choice,
    positions: HashMap<TopicPartition, Position>,
    tasks: mpsc::Sender<Task>,
    /// Why the worker ended, when it has.
    failed: watch::Receiver<Option<Trouble>>,
    /// Bytes that wait.
    waiting: watch::Receiver<u64>,
    worker: JoinHandle<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl Effects {
    /// The sink that `context` describes, with the settings of its kind.
    pub(crate) fn new(
        config: Arc<Loaded>,
        context: &Context,
        settings: EffectSettings,
        live: Live,
        refusals: RefusalLimit,
    ) -> Effects {
        Effects {
            topics: EffectTopics::of(&config.name, &context.name),
            config,
            followed: context.config.topics.clone(),
            kind: context.config.kind.clone(),
            settings,
            shared: Arc::clone(&context.shared),
            status: context.status.clone(),
            live,
            refusals: Arc::new(Mutex::new(refusals)),
            connected: None,
        }
    }

    async fn wait_for_lock(&self) -> Result<Lock> {
        let base = client::base(&self.config);
        let mut lock = Lock::ask(&base, &self.topics.orders, &self.topics.state)?;
        if timeout(GIVEN_WITHIN, lock.held()).await.is_err() {
            let error = Trouble::new(
                Code::OtherInstance,
                format!("another instance of sink {} is active", self.status.name),
                "Nothing to do: this one takes over when the other is gone.",
            );
            self.status.set_error(&error);
            log(&error, &self.status.name);
            self.status.set_state(State::Standby);
            lock.held().await;
        }
        Ok(lock)
    }

    async fn read_state(&self) -> Result<EffectState> {
        let client = client::consumer(&self.config, &self.topics.state, MEMORY_BYTES);
        let topic = self.topics.state.clone();
        let state = blocking(move || read_state(&client, &topic)).await?;
        Ok(state.unwrap_or_default())
    }

    /// Notes where the topics that are there now begin: topics that come later are read from their beginnings.
    async fn begin_now(&self, state: &mut EffectState, journal: &Journal) -> Result<()> {
        let mut changes = vec![Change::begun()];
        if self.settings.begin == EffectBegin::Now {
            let (config, shared) = (&self.config, &self.shared);
            let begin = beginnings(config, shared, &self.followed);
            for (at, next_offset) in begin.await? {
                let position = Position {
                    next_offset,
                    version: String::new(),
                };
                changes.push(Change::position(&at, &position));
                state.positions.insert(at, position);
            }
        }
        journal.write(changes).await
    }

    fn connected(&mut self) -> Result<&mut Connected> {
        self.connected.as_mut().ok_or_else(|| ended("the sink"))
    }

    /// Waits until there is room for more events; not when the process is to end.
    async fn wait_for_room(&mut self) -> Result<()> {
        let limit = self.settings.max_waiting;
        let mut stop = self.shared.stop.clone();
        let connected = self.connected()?;
        let mut waiting = connected.waiting.clone();
        let is_over = tokio::select! {
            room = waiting.wait_for(|bytes| *bytes < limit) => room.is_err(),
            () = stopped(&mut stop) => false,
        };
        match is_over {
            true => Err(connected.failure().await),
            false => Ok(()),
        }
    }

    /// Has the worker keep changes and events.
    async fn keep(&mut self, changes: Vec<Change>, events: Vec<Unfinished>) -> Result<()> {
        let connected = self.connected()?;
        let (done, kept) = oneshot::channel();
        let accepted = Accepted {
            changes,
            events,
            done,
        };
        let sent = connected.tasks.send(Task::Accept(accepted)).await;
        match sent.is_ok() && kept.await.is_ok() {
            true => Ok(()),
            false => Err(connected.failure().await),
        }
    }
}

impl Connected {
    /// Why the worker ended, which it has, or is about to.
    async fn failure(&self) -> Trouble {
        failure(self.failed.clone()).await
    }
}

async fn failure(mut failed: watch::Receiver<Option<Trouble>>) -> Trouble {
    let known = failed.wait_for(Option::is_some).await;
    let known = known.ok().and_then(|known| known.clone());
    known.unwrap_or_else(|| ended("the worker"))
}

impl Positions for Effects {
    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        let positions = &self.connected()?.positions;
        let known = wanted.iter().map(|at| positions.get(at).cloned());
        Ok(known.collect())
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        let mut changes = Vec::with_capacity(starts.len());
        for (at, next_offset) in starts {
            let position = Position {
                next_offset: *next_offset,
                version: String::new(),
            };
            changes.push(Change::position(at, &position));
            self.connected()?.positions.insert(at.clone(), position);
        }
        self.keep(changes, Vec::new()).await
    }
}

impl Sink for Effects {
    async fn connect(&mut self) -> Result<()> {
        self.connected = None;
        let name = self.status.name.clone();
        let target = Target::open(&self.kind, &self.live.url(&name))?;
        let target = target.ok_or_else(|| ended("the sink"))?;
        let choice = Choice::new(&name, &self.settings, self.live.clone())?;
        let base = client::base(&self.config);
        self.topics.make(&base).await?;
        let lock = self.wait_for_lock().await?;
        let journal = Journal::open(&base, &self.topics.state, &name).await?;
        // NotShared else writes from here on.
        let mut state = self.read_state().await?;
        if !state.has_begun {
            self.begin_now(&mut state, &journal).await?;
        }
        tracing::info!(sink = name, unfinished = state.events.len(), "effects");
        let tools = Tools {
            status: self.status.clone(),
            kind: self.kind.clone(),
            settings: self.settings.clone(),
            target: Arc::new(target),
            journal,
            lock,
            shared: Arc::clone(&self.shared),
            live: self.live.clone(),
            refusals: Arc::clone(&self.refusals),
        };
        let (tells, waiting) = watch::channel(0);
        let worker = Worker::new(tools, state.events.into_values(), tells);
        let (tasks, inbox) = mpsc::channel(TASKS_WAITING);
        let (fails, failed) = watch::channel(None);
        let worker = tokio::spawn(async move {
            if let Err(error) = worker.run(inbox).await {
                fails.send_replace(Some(error));
            }
        });
        self.connected = Some(Connected {
            choice,
            positions: state.positions,
            tasks,
            failed,
            waiting,
            worker,
        });
        Ok(())
    }

    async fn apply(&mut self, batch: &Batch, dead_letters: &DeadLetters) -> Result<Applied> {
        self.wait_for_room().await?;
        let name = self.status.name.clone();
        let position = self.shared.position.clone();
        let connected = self.connected()?;
        let mut events = Vec::new();
        let mut refused: Vec<(&Record, Failure)> = Vec::new();
        let rows = batch
            .records
            .iter()
            .filter(|record| !record.is_about_table());
        let sent = position.borrow().clone();
        let is_of_table = |topic: &str| {
            let ends = sent.as_ref().and_then(|sent| sent.ends.get(topic));
            ends.is_some_and(|ends| ends.control.is_some())
        };
        for record in rows {
            match (connected.choice).has_effect(record, is_of_table(&record.topic)) {
                Ok(true) => events.push(Unfinished::new(record.clone(), now_us())),
                Ok(false) => {}
                Err(failure) => refused.push((record, failure)),
            }
        }
        self.count(&refused)?;
        let letters: Vec<(&Record, &Failure)> = refused
            .iter()
            .map(|(record, failure)| (*record, failure))
            .collect();
        dead_letters.send(&name, &letters).await?;
        // The last move of a partition counts.
        let moved: BTreeMap<&TopicPartition, Position> = batch.moves.iter().map(moved).collect();
        let changes = moved
            .iter()
            .map(|(at, position)| Change::position(at, position));
        self.keep(changes.collect(), events).await?;
        let positions = &mut self.connected()?.positions;
        positions.extend(
            moved
                .into_iter()
                .map(|(at, position)| (at.clone(), position)),
        );
        Ok(Applied {
            dead_letters: refused
                .into_iter()
                .map(|(_, failure)| failure.reason)
                .collect(),
            ..Applied::default()
        })
    }

    async fn decided(&self) {
        // Orders come to the worker.
        pending().await
    }

    async fn resumed(&mut self) {
        pending().await
    }

    async fn carry_out(&mut self, _: &DeadLetters) -> Result<u64> {
        Ok(0)
    }

    async fn note_complete(&mut self, _: &Complete) -> Result<()> {
        Ok(())
    }

    fn no_answer(&self, _: &SinkStatus) -> impl Future<Output = Trouble> + Send + 'static {
        let failed = self
            .connected
            .as_ref()
            .map(|connected| connected.failed.clone());
        async move {
            match failed {
                Some(failed) => failure(failed).await,
                None => pending().await,
            }
        }
    }

    async fn rest(&mut self, _: bool) {
        self.connected = None;
    }

    async fn finish(&mut self) {
        let Some(mut connected) = self.connected.take() else {
            return;
        };
        if connected.tasks.send(Task::Finish).await.is_ok() {
            // What is under way has so long, and some for Kafka to know of it.
            let limit = self.settings.timeout + GIVEN_WITHIN;
            let _ = timeout(limit, &mut connected.worker).await;
        }
    }

    fn takes_emitted(&self) -> bool {
        true
    }

    fn waits_together(&self, _: &Record) -> bool {
        false
    }

    async fn apply_together(&mut self, _: &Record, _: &[Move]) -> Result<()> {
        Ok(())
    }

    type Shared = NotShared;

    fn shared(&self) -> Option<&NotShared> {
        None
    }

    fn shared_mut(&mut self) -> Option<&mut NotShared> {
        None
    }
}

impl Effects {
    fn count(&self, refused: &[(&Record, Failure)]) -> Result<()> {
        let refusals = self.refusals.lock();
        let mut refusals = refusals.unwrap_or_else(std::sync::PoisonError::into_inner);
        refusals.count(refused.iter().map(|(_, failure)| failure))
    }
}

fn moved(moved: &Move) -> (&TopicPartition, Position) {
    let position = Position {
        next_offset: moved.end,
        version: moved.version.clone(),
    };
    (&moved.at, position)
}
