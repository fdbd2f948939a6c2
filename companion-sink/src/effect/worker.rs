//! Has the effects of a sink: writes down what is to be done, tries it, and writes down what came of it.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use change::trouble::Trouble;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config::{EffectSettings, Kind};
use crate::delivery::runner::{Shared, ended};
use crate::effect::lock::{Lock, OrderRecord};
use crate::effect::order::{Order, Wanted};
use crate::effect::pause::{chance, pause};
use crate::effect::pending::{Accepted, Pending};
use crate::effect::queue::Queue;
use crate::effect::state::content::Change;
use crate::effect::state::event_place::EventPlace;
use crate::effect::state::journal::Journal;
use crate::effect::state::unfinished::Unfinished;
use crate::effect::target::Target;
use crate::effect::target::outcome::Outcome;
use crate::error::{Code, Result, log};
use crate::rejected::failure::Failure;
use crate::rejected::guarded::guarded;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Live;
use crate::status::SinkStatus;
use crate::timestamp::now_us;

/// What a sink wants of its worker.
pub(crate) enum Task {
    /// Events are to be kept, and tried.
    Accept(Accepted),
    /// What is under way is to come to its end, and nothing else.
    Finish,
}

/// What a worker works with.
pub(crate) struct Tools {
    pub(crate) status: SinkStatus,
    pub(crate) kind: Kind,
    pub(crate) settings: EffectSettings,
    pub(crate) target: Arc<Target>,
    pub(crate) journal: Journal,
    pub(crate) lock: Lock,
    pub(crate) shared: Arc<Shared>,
    pub(crate) live: Live,
    pub(crate) refusals: Arc<Mutex<RefusalLimit>>,
}

/// What a task of the worker's came to.
enum Came {
    /// An attempt.
    Of(EventPlace, Outcome),
    /// A dead letter: the event is out.
    Buried(EventPlace, Failure, Result<()>),
}

/// Has the effects of one sink.
pub(crate) struct Worker {
    tools: Tools,
    queue: Queue,
    pending: Pending,
    /// What is being written, and what follows from it.
    writing: Option<(JoinHandle<Result<()>>, Pending)>,
    running: JoinSet<Came>,
    /// Orders that are not carried out.
    orders: VecDeque<OrderRecord>,
    /// The order that has its event left out at present.
    skipping: Option<(EventPlace, Order, i64)>,
    /// Bytes that wait.
    waiting: watch::Sender<u64>,
    is_finishing: bool,
    /// Why it finishes, if not because it was told to.
    halted_by: Option<Trouble>,
}

impl Worker {
    /// A worker that has `events` to try; `waiting` is told how many bytes wait.
    pub(crate) fn new(
        tools: Tools,
        events: impl Iterator<Item = Unfinished>,
        waiting: watch::Sender<u64>,
    ) -> Worker {
        let mut queue = Queue::default();
        events.for_each(|event| queue.push(event));
        Worker {
            tools,
            queue,
            pending: Pending::default(),
            writing: None,
            running: JoinSet::new(),
            orders: VecDeque::new(),
            skipping: None,
            waiting,
            is_finishing: false,
            halted_by: None,
        }
    }

    /// Works until it is told to finish, or until something fails.
    pub(crate) async fn run(mut self, mut tasks: mpsc::Receiver<Task>) -> Result<()> {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tools.live.wait_anew();
        loop {
            self.obey();
            self.start_attempts();
            self.start_writing();
            self.tell();
            if self.is_finishing && self.is_idle() {
                return self.halted_by.map_or(Ok(()), Err);
            }
            tokio::select! {
                task = tasks.recv(), if !self.is_finishing => match task {
                    Some(Task::Accept(accepted)) => self.pending.accept(accepted),
                    Some(Task::Finish) | None => self.is_finishing = true,
                },
                Some(came) = self.running.join_next() => match came {
                    Ok(came) => self.take(came)?,
                    Err(error) => return Err(ended(&format!("an attempt: {error}"))),
                },
                written = written(&mut self.writing) => {
                    written?;
                    self.follow_up();
                }
                order = self.tools.lock.next() => match order {
                    Some(order) => self.orders.push_back(order),
                    None => return Err(self.taken_over()),
                },
                () = until(self.queue.next_us()), if self.has_room() => {}
                _ = second.tick() => self.tell_oldest(),
                () = self.tools.live.read_again() => self.read_again(),
            }
        }
    }

    fn has_room(&self) -> bool {
        !self.is_finishing && self.running.len() < self.tools.settings.concurrency as usize
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.pending.is_empty() && self.writing.is_none()
    }

    fn start_attempts(&mut self) {
        while self.has_room()
            && let Some(event) = self.queue.start(now_us())
        {
            let target = Arc::clone(&self.tools.target);
            let limit = self.tools.settings.timeout;
            self.running.spawn(async move {
                let place = event.place();
                Came::Of(place, attempt(&target, &event, limit).await)
            });
        }
    }

    fn start_writing(&mut self) {
        if self.writing.is_some() || self.pending.is_empty() {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        let changes = std::mem::take(&mut pending.changes);
        let journal = self.tools.journal.clone();
        let writing = tokio::spawn(async move {
            match changes.is_empty() {
                true => Ok(()),
                false => journal.write(changes).await,
            }
        });
        self.writing = Some((writing, pending));
    }

    /// What was to be written is written.
    fn follow_up(&mut self) {
        let Some((_, pending)) = self.writing.take() else {
            return;
        };
        let written = pending.written();
        for event in written.events {
            self.queue.push(event);
        }
        for tell in written.tell {
            // A sink that does not wait any more is about to end.
            let _ = tell.send(());
        }
        if let Some(offset) = written.orders_done {
            self.tools.lock.done_before(offset);
        }
    }

    fn take(&mut self, came: Came) -> Result<()> {
        match came {
            Came::Of(place, Outcome::Done) => {
                self.figures(|effects| effects.sent += 1);
                self.tools.status.works();
                self.finish(place);
            }
            Came::Of(place, Outcome::Again { why, not_before }) => {
                self.again(&place, &why, not_before);
            }
            Came::Of(place, Outcome::Refused(failure)) => {
                let refusals = self.tools.refusals.lock();
                let mut refusals = refusals.unwrap_or_else(PoisonError::into_inner);
                let counted = refusals.count(std::iter::once(&failure));
                drop(refusals);
                match counted {
                    Ok(()) => self.bury(place, failure),
                    // What was decided until now is written down first.
                    Err(error) => {
                        self.is_finishing = true;
                        self.halted_by.get_or_insert(error);
                    }
                }
            }
            Came::Buried(place, failure, sent) => {
                sent?;
                self.buried(place, failure);
            }
        }
        Ok(())
    }

    fn again(&mut self, place: &EventPlace, why: &str, not_before: Option<Duration>) {
        let attempts = self
            .queue
            .get(place)
            .map_or(0, |event| event.tried.attempts);
        let retry = &self.tools.settings.retry;
        let pause = pause(retry, attempts.saturating_add(1), chance(), not_before);
        let pause_us = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
        let next_us = now_us().saturating_add(pause_us);
        let why = why.replace(char::is_control, " ");
        tracing::debug!(
            sink = %self.tools.status.name, topic = &*place.topic, partition = place.partition,
            offset = place.offset, pause_ms = pause.as_millis(), "tried again: {why}"
        );
        self.figures(|effects| {
            effects.retried += 1;
            effects.last_failure = Some(why.clone());
        });
        if let Some(event) = self.queue.again(place, why, next_us) {
            let change = Change::unfinished(event);
            self.pending.add(change);
        }
    }

    fn finish(&mut self, place: EventPlace) {
        self.queue.finish(&place);
        self.pending.add(Change::done(place));
    }

    /// Sends the event to the dead letters.
    fn bury(&mut self, place: EventPlace, failure: Failure) {
        let Some(event) = self.queue.get(&place).cloned() else {
            return;
        };
        let (shared, name) = (
            Arc::clone(&self.tools.shared),
            self.tools.status.name.clone(),
        );
        self.running.spawn(async move {
            let letter = [(&event.record, &failure)];
            let sent = shared.dead_letters.send(&name, &letter).await;
            Came::Buried(place, failure, sent)
        });
    }

    /// The dead letters have the event.
    fn buried(&mut self, place: EventPlace, failure: Failure) {
        let of_order = self.skipping.take_if(|(skipped, ..)| *skipped == place);
        if let Some((_, order, offset)) = &of_order {
            tracing::info!(
                sink = %self.tools.status.name, topic = &*place.topic, partition = place.partition,
                offset = place.offset, "skipped {}", order.told()
            );
            self.pending.carries_out(*offset);
        }
        self.figures(|effects| match of_order {
            Some(_) => effects.skipped += 1,
            None => effects.refused += 1,
        });
        let mut figures = self.tools.status.figures();
        *figures.dead_letters.entry(failure.reason).or_default() += 1;
        drop(figures);
        self.finish(place);
    }

    /// Carries out what people want, one order after the other.
    fn obey(&mut self) {
        while self.skipping.is_none() && !self.is_finishing {
            let Some(OrderRecord { order, offset }) = self.orders.front() else {
                return;
            };
            let offset = *offset;
            let Some(order) = order.clone() else {
                let sink = &self.tools.status.name;
                tracing::warn!(%sink, offset, "an order cannot be read, and is ignored");
                self.orders.pop_front();
                self.pending.carries_out(offset);
                continue;
            };
            if self.queue.is_running(&order.event) {
                // What comes of the attempt is waited for.
                return;
            }
            self.orders.pop_front();
            match order.order {
                Wanted::Retry => {
                    if self.queue.hurry(&order.event).is_some() {
                        tracing::info!(
                            sink = %self.tools.status.name, topic = &*order.event.topic,
                            partition = order.event.partition, offset = order.event.offset,
                            "tried at once {}", order.told()
                        );
                    }
                    self.pending.carries_out(offset);
                }
                Wanted::Skip if self.queue.hold(&order.event).is_some() => {
                    let failure = Failure::effect_skipped(&order.told());
                    self.bury(order.event.clone(), failure);
                    self.skipping = Some((order.event.clone(), order, offset));
                }
                // It was done, or left out, before.
                Wanted::Skip => self.pending.carries_out(offset),
            }
        }
    }

    /// The configuration was read again: secrets and templates are what they are now.
    fn read_again(&mut self) {
        let url = self.tools.live.url(&self.tools.status.name);
        match Target::open(&self.tools.kind, &url) {
            Ok(Some(target)) => self.tools.target = Arc::new(target),
            Ok(None) => {}
            Err(error) => log(&error, &self.tools.status.name),
        }
    }

    fn taken_over(&self) -> Trouble {
        Trouble::new(
            Code::OtherInstance,
            format!(
                "another instance of sink {} has taken over",
                self.tools.status.name
            ),
            "Nothing to do: this one stands by.",
        )
    }

    fn figures(&self, change: impl FnOnce(&mut crate::status::EffectFigures)) {
        let mut figures = self.tools.status.figures();
        change(figures.effects.get_or_insert_default());
    }

    /// How much waits.
    fn tell(&self) {
        let waiting = self.queue.len() as u64;
        self.figures(|effects| effects.waiting = waiting);
        let bytes = self.queue.size_bytes();
        self.waiting
            .send_if_modified(|known| std::mem::replace(known, bytes) != bytes);
    }

    /// How long the oldest one has waited.
    fn tell_oldest(&self) {
        let oldest = self.queue.oldest_us();
        let seconds = oldest.map(|us| now_us().saturating_sub(us).max(0) as f64 / 1e6);
        self.figures(|effects| effects.oldest_waiting_seconds = seconds.unwrap_or_default());
    }
}

/// Tries to have the effect of an event, for so long.
async fn attempt(target: &Target, event: &Unfinished, limit: Duration) -> Outcome {
    let tried = guarded(async { Ok::<_, Failure>(target.attempt(event).await) });
    match timeout(limit, tried).await {
        Ok(outcome) => outcome.unwrap_or_else(Outcome::Refused),
        Err(_) => Outcome::again("no answer in time"),
    }
}

/// Waits for what is being written; for ever where nothing is.
async fn written(writing: &mut Option<(JoinHandle<Result<()>>, Pending)>) -> Result<()> {
    match writing {
        Some((writing, _)) => {
            let written = writing.await;
            written.unwrap_or_else(|error| Err(ended(&format!("the writing of effects: {error}"))))
        }
        None => pending().await,
    }
}

/// Waits until a time, in microseconds since 1970; for ever without one.
async fn until(at_us: Option<i64>) {
    match at_us {
        Some(at_us) => {
            let left = at_us.saturating_sub(now_us()).max(0);
            sleep(Duration::from_micros(left as u64)).await;
        }
        None => pending().await,
    }
}
