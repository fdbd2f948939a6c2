//! What is in topics over HTTP: `crate::topic`, as the command has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Path, State as Extract};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use change::trouble::Trouble;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Loaded;
use crate::error::{Code, Result};
use crate::http::parameters::Parameters;
use crate::http::problem::{JsonAnswer, Problem};
use crate::progress::Progress;
use crate::topic::asked::{NoTopic, TopicBounds, ask};
use crate::topic::entry::Entry;
use crate::topic::filter::{TopicFilter, Wanted};
use crate::topic::json::line;
use crate::topic::list::{Overview, overview};
use crate::topic::tail::TailSearch;
use crate::topic::told::ToldRecord;

const EVENTS: u32 = 10;
const EVENTS_MAX: u32 = 1000;
/// Each has a client of Kafka of its own, and a thread that waits for it.
const AT_ONCE: usize = 4;
/// Less than half of the connections.
const FOLLOWING_MAX: usize = 24;

type AskedKafka = Extract<Arc<TopicState>>;

/// What the requests need.
pub(crate) struct TopicState {
    pub(crate) config: Loaded,
    at_once: Semaphore,
    following: Arc<Semaphore>,
}

impl TopicState {
    /// Those of a configuration.
    pub(crate) fn new(config: &Loaded) -> TopicState {
        TopicState {
            config: config.clone(),
            at_once: Semaphore::new(AT_ONCE),
            following: Arc::new(Semaphore::new(FOLLOWING_MAX)),
        }
    }

    /// A place among those whose page follows what comes: each keeps a connection.
    pub(crate) fn follower(&self) -> std::result::Result<OwnedSemaphorePermit, Problem> {
        let place = Arc::clone(&self.following).try_acquire_owned();
        place.map_err(|_| Problem::too_many_follow())
    }

    /// The topics that `pattern` matches, or those of the configuration.
    pub(crate) async fn overview(&self, pattern: Option<&str>) -> Result<Vec<Overview>> {
        let _turn = self.at_once.acquire().await;
        overview(&self.config, pattern).await
    }
}

/// Everything below `/v1/topics`.
pub(crate) fn router(state: Arc<TopicState>) -> Router {
    Router::new()
        .route("/v1/topics", get(listed))
        .route("/v1/topics/{topic}/tail", get(tail))
        .with_state(state)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TopicNames {
    /// `*` stands for any text.
    pattern: Option<String>,
}

/// Which events are meant, as the command has it.
#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TailParameters {
    pub(crate) n: Option<u32>,
    pub(crate) key: Option<String>,
    pub(crate) op: Option<String>,
    pub(crate) actor: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
}

async fn listed(
    Extract(state): AskedKafka,
    Parameters(names): Parameters<TopicNames>,
) -> JsonAnswer {
    let found = state.overview(names.pattern.as_deref()).await?;
    let topics: Vec<Value> = found.iter().map(|one| one.json()).collect();
    Ok(Json(json!({ "topics": topics })))
}

async fn tail(
    Extract(state): AskedKafka,
    Path(topic): Path<String>,
    Parameters(newest): Parameters<TailParameters>,
) -> std::result::Result<Response, Problem> {
    let (entries, _) = newest_entries(&state, &topic, &newest).await?;
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| line(&ToldRecord::of(entry)))
        .collect();
    // Numbers are as the events have them, which JSON that is read and written again has not.
    let body = format!("{{\"events\":[{}]}}", lines.join(","));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

impl TailParameters {
    /// What is wanted.
    pub(crate) fn filter(&self) -> Result<TopicFilter> {
        TopicFilter::new(Wanted {
            key: self.key.as_deref(),
            ops: self.op.as_deref(),
            actor: self.actor.as_deref(),
            since: self.since.as_deref(),
            until: self.until.as_deref(),
            id: None,
        })
    }
}

/// The newest records of a topic that are wanted, and where its partitions end.
pub(crate) async fn newest_entries(
    state: &Arc<TopicState>,
    topic: &str,
    newest: &TailParameters,
) -> std::result::Result<(Vec<Entry>, TopicBounds), Problem> {
    let filter = newest.filter()?;
    let limit = newest.n.unwrap_or(EVENTS).clamp(1, EVENTS_MAX) as usize;
    let _turn = state.at_once.acquire().await;
    let stop = StopOnDrop::default();
    let (stopped, asking, topic) = (Arc::clone(&stop.0), Arc::clone(state), topic.to_owned());
    let search = tokio::task::spawn_blocking(move || {
        search(&asking.config, &topic, filter, limit, &stopped)
    });
    // A filter that finds little may have the whole topic read: who waits for that is told when it takes too long.
    let found = search.await.unwrap_or_else(|error| {
        Err(Trouble::new(
            Code::Unreachable,
            format!("kafka: {error}"),
            "Ask again.",
        ))
    })?;
    found.map_err(|none| Problem::no_topic(&none.text()))
}

/// Waits for Kafka.
fn search(
    config: &Loaded,
    topic: &str,
    mut filter: TopicFilter,
    limit: usize,
    stop: &AtomicBool,
) -> Result<std::result::Result<(Vec<Entry>, TopicBounds), NoTopic>> {
    let asked = match ask(config, topic)? {
        Ok(asked) => asked,
        Err(none) => return Ok(Err(none)),
    };
    let mut search = TailSearch {
        asked: &asked,
        filter: &mut filter,
        limit,
        stop,
        progress: Progress::nowhere(),
    };
    let bounds = asked.bounds()?;
    let found = search.run(&bounds)?.unwrap_or_default();
    match filter.trouble().filter(|_| found.is_empty()) {
        Some(trouble) => Err(trouble),
        None => Ok(Ok((found, bounds))),
    }
}

/// Nobody reads on for who has gone.
#[derive(Default)]
pub(crate) struct StopOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
