//! Effects that are not done, what became of the others, and forms to decide.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::response::Redirect;
use serde_json::{Value, json};

use crate::config::topic_pattern::follows;
use crate::effect::listing::{Decider, WaitState};
use crate::effect::order::Wanted;
use crate::http::effects::{self, EffectFilter};
use crate::http::page::layout::{PageAnswer, PageHead, Section};
use crate::http::page::login::visitor::{SentForm, Visitor};
use crate::http::page::pages::Pages;
use crate::http::page::urls::path_part;
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::topic::json::indented;

const EFFECTS: u32 = 200;

type AskedPages = Extract<Arc<Pages>>;
type EffectPath = Path<(String, String)>;
type Decided = Result<Redirect, Problem>;

/// All of them.
pub(crate) async fn list(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Parameters(wanted): Parameters<EffectFilter>,
) -> PageAnswer {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (sink, state) = (given(wanted.sink), given(wanted.state));
    let filter = EffectFilter {
        sink: sink.clone(),
        state: state.clone(),
        limit: Some(EFFECTS),
        after: None,
    };
    let asked = Extract(Arc::clone(&pages.effects));
    let Json(mut answer) = effects::listed(asked, Parameters(filter)).await?;
    for effect in answer["effects"].as_array_mut().into_iter().flatten() {
        effect["address"] = address_of(effect).into();
        effect["look"] = look(effect).into();
    }
    let head = PageHead::new(Section::Effects, "Effects");
    let content = json!({
        "effects": answer["effects"], "total": answer["total"], "sink": sink, "state": state,
        "sinks": pages.sinks_of(|kind| kind.effect().is_some()), "states": WaitState::ALL.map(WaitState::name),
        "done": done(&pages),
    });
    pages.page(visitor.logged_in.as_ref(), &head, "effects.html", &content)
}

/// What became of the effects of each sink that runs here, and where those are that were refused for good.
fn done(pages: &Pages) -> Value {
    let topics = pages
        .shared
        .cluster
        .borrow()
        .topics
        .clone()
        .unwrap_or_default();
    let sinks = pages.shared.sinks.iter().filter_map(|status| {
        let settings = pages.config.sinks.get(&status.name)?;
        settings.kind.effect()?;
        let figures = serde_json::to_value(&status.figures().effects).ok()?;
        let letters = topics.keys().filter(|topic| {
            let of = topic.strip_suffix(".dlq");
            of.is_some_and(|of| follows(&settings.topics, of))
        });
        let letters = letters.map(|topic| {
            json!({ "topic": topic, "address": format!("/topics/{}", path_part(topic)) })
        });
        Some(json!({
            "sink": status.name, "kind": status.kind, "figures": figures, "letters": letters.collect::<Vec<_>>(),
        }))
    });
    sinks.collect()
}

/// One that is not done.
pub(crate) async fn shown(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Path((sink, id)): EffectPath,
) -> PageAnswer {
    let effect = effects::one(&pages.effects, Some(&sink), &id).await?;
    let mut json = effect.json();
    json["look"] = look(&json).into();
    let value = effect.event.record.value().unwrap_or_default();
    let body = indented(&String::from_utf8_lossy(value));
    let head = PageHead::new(Section::Effects, effect.id());
    let content = json!({ "effect": json, "address": address_of(&json), "body": body });
    pages.page(visitor.logged_in.as_ref(), &head, "effect.html", &content)
}

/// Tries it at once.
pub(crate) async fn retry(Extract(pages): AskedPages, path: EffectPath, form: SentForm) -> Decided {
    decide(&pages, &path, &form, Wanted::Retry, None).await
}

/// Leaves it out.
pub(crate) async fn skip(Extract(pages): AskedPages, path: EffectPath, form: SentForm) -> Decided {
    let reason = form.wanted("reason", "the reason")?;
    decide(&pages, &path, &form, Wanted::Skip, Some(reason)).await
}

async fn decide(
    pages: &Pages,
    Path((sink, id)): &EffectPath,
    form: &SentForm,
    order: Wanted,
    reason: Option<&str>,
) -> Decided {
    let effect = effects::one(&pages.effects, Some(sink), id).await?;
    let effects = std::slice::from_ref(&effect);
    let by = form.visitor.name();
    pages
        .effects
        .order(effects, order, &Decider { by: &by, reason })
        .await?;
    let outcome = pages
        .effects
        .outcomes(effects)
        .await?
        .pop()
        .unwrap_or_default();
    if let Some(who) = &form.visitor.logged_in {
        let notice = format!(
            "{} of the effect of event {}: {outcome}.",
            order.name(),
            effect.id()
        );
        pages.sessions.tell(who, notice);
    }
    Ok(Redirect::to("/effects"))
}

fn look(effect: &Value) -> &'static str {
    match effect["state"].as_str() {
        Some("retrying") => "warn",
        _ => "idle",
    }
}

fn address_of(effect: &Value) -> String {
    let text = |name: &str| path_part(effect[name].as_str().unwrap_or_default());
    format!("/effects/{}/{}", text("sink"), text("id"))
}
