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
struct Filter {
    sink: Option<String>,
    state: Option<String>,
    limit: Option<u32>,
    /// `next` of the page before.
    after: Option<String>,
}

async fn listed(
    Extract(sinks): AskedEffects,
    Parameters(filter): Parameters<Filter>,
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
    let found = sinks.find(wish.sink.as_deref(), &wish.id).await?;
    let effect = match found.as_slice() {
        [] => return Err(Problem::no_effect(&wish.id)),
        [effect] => effect,
        several_found => return Err(Problem::conflict(several(&wish.id, several_found))),
    };
    let by = wish.decider(by);
    sinks
        .order(&found, order, &Decider { by: &by, reason })
        .await?;
    // The active instance carries it out.
    let mut answer = effect.json();
    answer["decision"] = order.name().into();
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
