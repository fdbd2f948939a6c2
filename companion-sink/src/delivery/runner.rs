//! Runs one sink until the process ends, and decides what an error means for it. How events reach the sink is its course:
//! each partition by itself (`by_partition`), or all of them in the source's order of commits (`in_commit_order`).

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::backoff::Backoff;
use change::trouble::Trouble;
use rdkafka::ClientConfig;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config;
use crate::error::{Code, Recovery, Result, log};
use crate::kafka::discovery::Discovery;
use crate::kafka::positions;
use crate::kafka::reader::TopicPartition;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::guarded::guarded_sink;
use crate::reload::Live;
use crate::status::{SinkStatus, State};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
const STANDBY_RETRY: Duration = Duration::from_secs(1);
const REPEAT_WARNING: Duration = Duration::from_secs(30);

/// What a runner shares with the rest of the process.
pub(crate) struct Shared {
    /// The cluster's topics.
    pub(crate) discovery: Discovery,
    /// The sender's newest position.
    pub(crate) position: positions::Newest,
    /// Where bad events go.
    pub(crate) dead_letters: DeadLetters,
    /// Becomes true when the process is to end.
    pub(crate) stop: watch::Receiver<bool>,
    /// When the process started, milliseconds since 1970.
    pub(crate) started_ms: i64,
}

/// What a course needs to know of its sink.
pub(crate) struct Context {
    /// The sink's name.
    pub(crate) name: String,
    /// Its part of the configuration.
    pub(crate) config: config::SinkSettings,
    /// How it reads.
    pub(crate) client: ClientConfig,
    /// What all sinks share.
    pub(crate) shared: Arc<Shared>,
    /// Its figures.
    pub(crate) status: SinkStatus,
    /// Where the course ends by itself, if it does: a consistent replica at the position that it is given, all others when
    /// these offsets come next.
    pub(crate) goal: Option<HashMap<TopicPartition, i64>>,
}

/// How events reach a sink.
pub(crate) trait Course: Send {
    /// Connects and applies events until the process stops or something fails. Then it may be called again.
    fn run(&mut self, context: &Context) -> impl Future<Output = Result<Ended>> + Send;

    /// Waits until somebody has decided about an event of a halted sink, which is then worth another attempt.
    fn resumed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Runs one sink until the process ends.
pub(crate) struct Runner<C> {
    context: Context,
    course: C,
    live: Live,
}

/// Why a course ended without an error.
pub(crate) enum Ended {
    /// The process stops.
    Stopped,
    /// It is at its goal.
    Reached,
}

impl<C: Course> Runner<C> {
    /// A runner of the sink that `context` describes.
    pub(crate) fn new(context: Context, course: C, live: Live) -> Self {
        Runner {
            context,
            course,
            live,
        }
    }

    /// Runs until the process stops. Errors end in a new attempt, in standing by, or in a halt until somebody has decided about
    /// an event, or has the configuration read again.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut warned: Option<(Code, Instant)> = None;
        loop {
            let started = Instant::now();
            self.live.wait_anew();
            let batches_before = self.context.status.figures().batches;
            let error = match guarded_sink(self.course.run(&self.context)).await {
                Ok(Ended::Stopped | Ended::Reached) => break,
                Err(error) => error,
            };
            self.context.status.set_error(&error);
            let repeated = warned
                .is_some_and(|(code, at)| code == error.code && at.elapsed() < REPEAT_WARNING);
            if !repeated {
                log(&error, &self.context.name);
                warned = Some((error.code, Instant::now()));
            }
            match error.code.recovery() {
                Recovery::Retry => {
                    self.context.status.set_state(State::Retrying);
                    let worked = self.context.status.figures().batches > batches_before
                        || started.elapsed() > LONGEST_RETRY;
                    if worked {
                        backoff.reset();
                    }
                    self.context.status.figures().retries += 1;
                    if self.stopped_within(backoff.pause()).await {
                        break;
                    }
                }
                Recovery::StandBy => {
                    self.context.status.set_state(State::Standby);
                    if self.stopped_within(STANDBY_RETRY).await {
                        break;
                    }
                }
                Recovery::Halt | Recovery::SetAside | Recovery::Refuse | Recovery::Warn => {
                    self.context.status.set_state(State::Halted);
                    let mut stop = self.context.shared.stop.clone();
                    tokio::select! {
                        () = stopped(&mut stop) => break,
                        () = self.course.resumed() => {}
                        () = self.live.read_again() => {}
                    }
                    warned = None;
                }
            }
        }
        if self.context.status.figures().state != State::Halted {
            self.context.status.set_state(State::Stopped);
        }
    }

    async fn stopped_within(&self, pause: Duration) -> bool {
        let mut stop = self.context.shared.stop.clone();
        timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok()
    }
}

/// Waits until the process is to end; a sender that is gone means the same.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A part of this process ended.
pub(crate) fn ended(what: &str) -> Trouble {
    Trouble::new(
        Code::Unreachable,
        format!("{what} ended"),
        "It is started again.",
    )
}
