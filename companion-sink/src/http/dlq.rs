//! Refused events over HTTP, and decisions about them: `crate::dlq`, as the command has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use change::trouble::Trouble;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::dlq::edit::Set;
use crate::dlq::{Dlq, Found, Held, Store, WantedDecision, find, list};
use crate::http::decision::{
    DecisionBody, DecisionRequest, Retry, SinkParameter, Skip, wrong_body,
};
use crate::http::history::limit_of;
use crate::http::parameters::Parameters;
use crate::http::problem::{JsonAnswer, Problem};
use crate::rejected::page::Page;
use crate::rejected::page::PageCursor;
use crate::rejected::parked_event::Decider;

type DecidedAnswer = Result<(StatusCode, Json<Value>), Problem>;
type AskedDlq = Extract<DlqState>;

/// What the requests need.
#[derive(Clone)]
pub(crate) struct DlqState {
    pub(crate) dlq: Arc<Dlq>,
}

/// Everything below `/v1/dlq`.
pub(crate) fn router(dlq: Arc<Dlq>) -> Router {
    Router::new()
        .route("/v1/dlq", get(listed))
        .route("/v1/dlq/{id}", get(shown))
        .route("/v1/dlq/{id}/retry", post(retry))
        .route("/v1/dlq/{id}/edit", post(edit))
        .route("/v1/dlq/{id}/skip", post(skip))
        .with_state(DlqState { dlq })
}

/// Which events are meant.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RefusedFilter {
    pub(crate) sink: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) limit: Option<u32>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
}

/// Some of them.
pub(crate) async fn listed(
    Extract(shared): AskedDlq,
    Parameters(filter): Parameters<RefusedFilter>,
) -> JsonAnswer {
    let stores = shared.dlq.open(filter.sink.as_deref()).await?;
    let limit = limit_of(filter.limit) as usize;
    let after = filter.after.as_deref().map(PageCursor::parse).transpose()?;
    let page = Page {
        after,
        // One more tells whether there are more.
        limit: limit + 1,
    };
    let mut held = list(&stores, filter.reason.as_deref(), Some(&page)).await?;
    let has_more = held.len() > limit;
    held.truncate(limit);
    let next = held.last().filter(|_| has_more);
    let next = next.map(|held| PageCursor::of(&held.store.sink, &held.event.record).text());
    let events: Vec<Value> = held
        .iter()
        .map(|held| held.event.json(&held.store.sink))
        .collect();
    let mut answer = json!({ "events": events });
    if let Some(next) = next {
        answer["next"] = next.into();
    }
    Ok(Json(answer))
}

/// One of them.
pub(crate) async fn shown(
    Extract(shared): AskedDlq,
    Path(id): Path<String>,
    Parameters(of): Parameters<SinkParameter>,
) -> JsonAnswer {
    let stores = shared.dlq.open(of.sink.as_deref()).await?;
    let held = one(&stores, &id).await?;
    let sink = &held.store.sink;
    Ok(Json(held.whole().await?.json(sink)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    /// Values by `after.COLUMN`.
    set: BTreeMap<String, Box<RawValue>>,
    reason: String,
    by: Option<String>,
}

async fn retry(
    dlq: AskedDlq,
    wish: DecisionRequest,
    DecisionBody(body): DecisionBody<Retry>,
) -> DecidedAnswer {
    decide(dlq, wish, WantedDecision::Retry, body.by, None).await
}

async fn edit(
    dlq: AskedDlq,
    wish: DecisionRequest,
    DecisionBody(body): DecisionBody<Edit>,
) -> DecidedAnswer {
    let set = body.set.iter();
    let set: Result<Vec<Set>, Trouble> = set
        .map(|(path, value)| Set::new(path, value.get().to_owned()))
        .collect();
    let set = set?;
    if set.is_empty() {
        return Err(wrong_body("\"set\" names no column".to_owned()));
    }
    decide(
        dlq,
        wish,
        WantedDecision::Edit(&set),
        body.by,
        Some(&body.reason),
    )
    .await
}

async fn skip(
    dlq: AskedDlq,
    wish: DecisionRequest,
    DecisionBody(body): DecisionBody<Skip>,
) -> DecidedAnswer {
    decide(dlq, wish, WantedDecision::Skip, body.by, Some(&body.reason)).await
}

async fn decide(
    Extract(shared): AskedDlq,
    wish: DecisionRequest,
    order: WantedDecision<'_>,
    by: Option<String>,
    reason: Option<&str>,
) -> DecidedAnswer {
    let stores = shared.dlq.open(wish.sink.as_deref()).await?;
    let by = wish.decider(by);
    let decider = Decider { by: &by, reason };
    let held = note(&stores, &wish.id, order, decider).await?;
    // The active instance carries it out.
    let body = Json(held.event.json(&held.store.sink));
    Ok((StatusCode::ACCEPTED, body))
}

/// Notes what somebody decides about an event.
pub(crate) async fn note<'s>(
    stores: &'s [Store],
    id: &str,
    order: WantedDecision<'_>,
    decider: Decider<'_>,
) -> Result<Held<'s>, Problem> {
    let mut held = one(stores, id).await?;
    let decision = held.decision(order).await?;
    held.decide(decision, decider).await?;
    Ok(held)
}

async fn one<'s>(stores: &'s [Store], id: &str) -> Result<Held<'s>, Problem> {
    match find(stores, id).await? {
        Found::One(held) => Ok(*held),
        Found::Several(error) => Err(Problem::conflict(error)),
        Found::None => Err(Problem::no_event(id)),
    }
}
