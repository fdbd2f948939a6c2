//! Effects that are not done over HTTP, and decisions about them: `crate::effect::listing`, as the command has it.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::effect::listing::{Decider, EffectSinks, ListedEffect, WaitState, several};
use crate::effect::order::Wanted;
use crate::http::decision::{DecisionBody, DecisionRequest, Retry, Skip};
use crate::http::history::limit_of;
use crate::http::parameters::Parameters;
use crate::http::problem::{JsonAnswer, Problem};
use crate::rejected::page::{Page, PageCursor};

type DecidedAnswer = Result<(StatusCode, Json<Value>), Problem>;
type AskedEffects = Extract<Arc<EffectSinks>>;

/// Everything below `/v1/effects`.
pub(crate) fn router(sinks: Arc<EffectSinks>) -> Router {
    Router::new()
        .route("/v1/effects", get(listed))
        .route("/v1/effects/{id}/retry", post(retry))
        .route("/v1/effects/{id}/skip", post(skip))
        .with_state(sinks)
}

/// Which effects are meant.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EffectFilter {
    pub(crate) sink: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) limit: Option<u32>,
    /// `next` of the page before.
    pub(crate) after: Option<String>,
}

/// Some of them.
pub(crate) async fn listed(
    Extract(sinks): AskedEffects,
    Parameters(filter): Parameters<EffectFilter>,
) -> JsonAnswer {
    let state = filter.state.as_deref().map(WaitState::parse).transpose()?;
    let page = Page {
        after: filter.after.as_deref().map(PageCursor::parse).transpose()?,
        limit: limit_of(filter.limit) as usize,
    };
    let listed = sinks.page(filter.sink.as_deref(), state, &page).await?;
    let effects: Vec<Value> = listed.effects.iter().map(ListedEffect::json).collect();
    let mut answer = json!({ "effects": effects, "total": listed.total });
    if let Some(next) = listed.next {
        answer["next"] = next.into();
    }
    Ok(Json(answer))
}

async fn retry(
    sinks: AskedEffects,
    wish: DecisionRequest,
    DecisionBody(body): DecisionBody<Retry>,
) -> DecidedAnswer {
    decide(sinks, wish, Wanted::Retry, body.by, None).await
}

async fn skip(
    sinks: AskedEffects,
    wish: DecisionRequest,
    DecisionBody(body): DecisionBody<Skip>,
) -> DecidedAnswer {
    decide(sinks, wish, Wanted::Skip, body.by, Some(&body.reason)).await
}

async fn decide(
    Extract(sinks): AskedEffects,
    wish: DecisionRequest,
    order: Wanted,
    by: Option<String>,
    reason: Option<&str>,
) -> DecidedAnswer {
    let by = wish.decider(by);
    let effect = one(&sinks, wish.sink.as_deref(), &wish.id).await?;
    let decider = Decider { by: &by, reason };
    sinks
        .order(std::slice::from_ref(&effect), order, &decider)
        .await?;
    // The active instance carries it out.
    let mut answer = effect.json();
    answer["decision"] = order.name().into();
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// The effect of an id, or of its beginning.
pub(crate) async fn one(
    sinks: &EffectSinks,
    sink: Option<&str>,
    id: &str,
) -> Result<ListedEffect, Problem> {
    let mut found = sinks.find(sink, id).await?;
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(Problem::no_effect(id)),
        (Some(effect), true) => Ok(effect),
        (Some(effect), false) => {
            found.push(effect);
            Err(Problem::conflict(several(id, &found)))
        }
    }
}
