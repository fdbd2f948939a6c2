//! Drives a course to its goal, and tells how far it is.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use change::trouble::Trouble;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::topic_pattern::follows;
use crate::delivery::runner::{Context, Course, Ended, Shared};
use crate::error::{Code, Recovery, Result, log};
use crate::kafka::client;
use crate::kafka::discovery::Discovery;
use crate::kafka::discovery::Topics;
use crate::kafka::positions;
use crate::progress::Progress;
use crate::rejected::dead_letter::DeadLetters;
use crate::replay::Order;
use crate::status::SinkStatus;
use crate::timestamp::now_us;

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(1);
/// Failures without anything applied in between, after which it is given up.
const FAILURES_MAX: u32 = 10;
/// How long Kafka may take to tell what is there.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The consumer group of a replay: nobody else is in it.
pub(crate) fn group(order: &Order<'_>) -> String {
    format!("{}.{}.replay", order.config.name, order.name)
}

/// What a course needs; `position` is what it takes for the sender's newest one.
pub(crate) fn context(order: &Order<'_>, position: positions::Newest) -> Result<Context> {
    let discovery = Discovery::start(order.config)?;
    let dead_letters = DeadLetters::new(order.config, discovery.cluster());
    Ok(Context {
        name: order.name.to_owned(),
        config: order.sink.clone(),
        client: client::consumer(order.config, &group(order), order.config.kafka.fetch_memory),
        shared: Arc::new(Shared {
            discovery,
            position,
            dead_letters,
            stop: order.stop.clone(),
            started_ms: now_us() / 1000,
        }),
        status: SinkStatus::new(order.name, order.sink.kind_name()),
        goal: None,
    })
}

/// The topics that a sink follows, with their numbers of partitions.
pub(crate) async fn topics(context: &Context) -> Result<Topics> {
    let mut cluster = context.shared.discovery.cluster();
    let known = cluster.wait_for(|cluster| cluster.topics.is_some() || cluster.error.is_some());
    let cluster = match tokio::time::timeout(ANSWER_MAX, known).await {
        Ok(Ok(cluster)) => cluster.clone(),
        _ => return Err(silent("which topics there are")),
    };
    let Some(topics) = cluster.topics else {
        return Err(cluster
            .error
            .unwrap_or_else(|| silent("which topics there are")));
    };
    let followed = topics
        .iter()
        .filter(|(topic, _)| follows(&context.config.topics, topic));
    Ok(followed
        .map(|(topic, partitions)| (topic.clone(), *partitions))
        .collect())
}

/// Waits for a position of the sender that `counts`.
pub(crate) async fn position(
    newest: &mut positions::Newest,
    counts: impl Fn(&change::position::Position) -> bool,
) -> Result<Arc<change::position::Position>> {
    let is_there = newest.wait_for(|newest| newest.as_deref().is_some_and(&counts));
    let found = match tokio::time::timeout(ANSWER_MAX, is_there).await {
        Ok(Ok(found)) => found.clone(),
        _ => None,
    };
    found.ok_or_else(|| silent("a position of the sender"))
}

fn silent(what: &str) -> Trouble {
    Trouble::new(
        Code::Unreachable,
        format!("kafka: the brokers did not report {what}"),
        "Check [kafka] brokers and source_name, and that the sender has run; then replay again.",
    )
}

/// Runs a course until it has reached the context's goal. What passes is tried again. `applied` says how many records are.
pub(crate) async fn drive(
    course: &mut impl Course,
    context: &Context,
    progress: &mut Progress,
    applied: impl AsyncFn() -> Result<u64>,
) -> Result<Ended> {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    let mut batches = 0;
    loop {
        let error = {
            let mut run = pin!(course.run(context));
            loop {
                tokio::select! {
                    ended = &mut run => match ended {
                        Ok(ended) => {
                            progress.show(applied().await?);
                            return Ok(ended);
                        }
                        Err(error) => break error,
                    },
                    _ = ticks.tick() => progress.show(applied().await?),
                }
            }
        };
        let applied_batches = context.status.figures().batches;
        failures = match applied_batches > batches {
            true => 1,
            false => failures + 1,
        };
        batches = applied_batches;
        let passes = matches!(error.code.recovery(), Recovery::Retry | Recovery::StandBy);
        if !passes || failures > FAILURES_MAX {
            return Err(error);
        }
        log(&error, &context.name);
        sleep(PAUSE).await;
    }
}

/// A watch that holds what the course is to come to.
pub(crate) fn goals() -> (
    watch::Sender<Option<Arc<change::position::Position>>>,
    positions::Newest,
) {
    watch::channel(None)
}
