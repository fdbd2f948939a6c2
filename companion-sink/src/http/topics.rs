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
use tokio::sync::Semaphore;

use crate::config::Loaded;
use crate::error::{Code, Result};
use crate::http::parameters::Parameters;
use crate::http::problem::{JsonAnswer, Problem};
use crate::progress::Progress;
use crate::topic::asked::{NoTopic, ask};
use crate::topic::entry::Entry;
use crate::topic::filter::{TopicFilter, Wanted};
use crate::topic::json::line;
use crate::topic::list::overview;
use crate::topic::tail::TailSearch;
use crate::topic::told::ToldRecord;

const EVENTS: u32 = 10;
const EVENTS_MAX: u32 = 1000;
/// Each has a client of Kafka of its own, and a thread that waits for it.
const AT_ONCE: usize = 4;

type AskedKafka = Extract<Arc<TopicState>>;

/// What the requests need.
struct TopicState {
    config: Loaded,
    at_once: Semaphore,
}

/// Everything below `/v1/topics`.
pub(crate) fn router(config: &Loaded) -> Router {
    Router::new()
        .route("/v1/topics", get(listed))
        .route("/v1/topics/{topic}/tail", get(tail))
        .with_state(Arc::new(TopicState {
            config: config.clone(),
            at_once: Semaphore::new(AT_ONCE),
        }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TopicNames {
    /// `*` stands for any text.
    pattern: Option<String>,
}

/// Which events are meant, as the command has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TailParameters {
    n: Option<u32>,
    key: Option<String>,
    op: Option<String>,
    actor: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

async fn listed(
    Extract(state): AskedKafka,
    Parameters(names): Parameters<TopicNames>,
) -> JsonAnswer {
    let _turn = state.at_once.acquire().await;
    let found = overview(&state.config, names.pattern.as_deref()).await?;
    let topics: Vec<Value> = found.iter().map(|one| one.json()).collect();
    Ok(Json(json!({ "topics": topics })))
}

async fn tail(
    Extract(state): AskedKafka,
    Path(topic): Path<String>,
    Parameters(newest): Parameters<TailParameters>,
) -> std::result::Result<Response, Problem> {
    let filter = TopicFilter::new(Wanted {
        key: newest.key.as_deref(),
        ops: newest.op.as_deref(),
        actor: newest.actor.as_deref(),
        since: newest.since.as_deref(),
        until: newest.until.as_deref(),
        id: None,
    })?;
    let limit = newest.n.unwrap_or(EVENTS).clamp(1, EVENTS_MAX) as usize;
    let _turn = state.at_once.acquire().await;
    let stop = StopOnDrop::default();
    let (stopped, asking) = (Arc::clone(&stop.0), Arc::clone(&state));
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
    let entries = found.map_err(|none| Problem::no_topic(&none.text()))?;
    let lines: Vec<String> = entries
        .iter()
        .map(|entry| line(&ToldRecord::of(entry)))
        .collect();
    // Numbers are as the events have them, which JSON that is read and written again has not.
    let body = format!("{{\"events\":[{}]}}", lines.join(","));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Waits for Kafka.
fn search(
    config: &Loaded,
    topic: &str,
    mut filter: TopicFilter,
    limit: usize,
    stop: &AtomicBool,
) -> Result<std::result::Result<Vec<Entry>, NoTopic>> {
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
    let found = search.run(&asked.bounds()?)?.unwrap_or_default();
    match filter.trouble().filter(|_| found.is_empty()) {
        Some(trouble) => Err(trouble),
        None => Ok(Ok(found)),
    }
}

/// Nobody reads on for who has gone.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
