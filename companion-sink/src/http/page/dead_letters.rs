//! Refused events, and forms to decide about them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Extract};
use axum::response::Redirect;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::dlq::WantedDecision;
use crate::dlq::edit::Set;
use crate::dlq::outcome::{WAIT, outcome};
use crate::error::misconfigured;
use crate::event::image::Image;
use crate::http::decision::SinkParameter;
use crate::http::dlq::{self, DlqState, RefusedFilter};
use crate::http::page::layout::{PageAnswer, PageHead, Section};
use crate::http::page::login::visitor::{SentForm, Visitor};
use crate::http::page::pages::{Pages, keeps_refused};
use crate::http::page::urls::{path_part, with_parameters};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::rejected::parked_event::Decider;
use crate::topic::header_meaning::meaning;
use crate::topic::json::indented;

const EVENTS: u32 = 50;

type AskedPages = Extract<Arc<Pages>>;
type EventPath = Path<(String, String)>;
type Decided = Result<Redirect, Problem>;

/// All refused events.
pub(crate) async fn list(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Parameters(wanted): Parameters<RefusedFilter>,
) -> PageAnswer {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (sink, reason) = (given(wanted.sink), given(wanted.reason));
    let filter = RefusedFilter {
        sink: sink.clone(),
        reason: reason.clone(),
        limit: Some(EVENTS),
        after: given(wanted.after),
    };
    let Json(mut answer) = dlq::listed(Extract(state(&pages)), Parameters(filter)).await?;
    for event in answer["events"].as_array_mut().into_iter().flatten() {
        event["address"] = address_of(event).into();
    }
    let next = answer["next"].as_str().map(|next| {
        let sink = sink.as_deref().unwrap_or_default();
        let reason = reason.as_deref().unwrap_or_default();
        with_parameters(
            "/dead-letters",
            [("sink", sink), ("reason", reason), ("after", next)],
        )
    });
    let head = PageHead::new(Section::DeadLetters, "Dead letters");
    let content = json!({
        "events": answer["events"], "next": next, "sink": sink, "reason": reason, "sinks": pages.sinks_of(keeps_refused),
    });
    pages.page(
        visitor.logged_in.as_ref(),
        &head,
        "dead_letters.html",
        &content,
    )
}

/// One refused event.
pub(crate) async fn shown(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Path((sink, id)): EventPath,
) -> PageAnswer {
    let of = SinkParameter { sink: Some(sink) };
    let Json(event) = dlq::shown(Extract(state(&pages)), Path(id), Parameters(of)).await?;
    let body = event["body"].as_str().unwrap_or_default();
    let headers = event["headers"].as_object().into_iter().flatten();
    let headers: Vec<Value> = headers
        .map(|(name, value)| {
            let value = value.as_str().unwrap_or_default();
            json!({ "name": name, "value": value, "meaning": meaning(name, value) })
        })
        .collect();
    let columns: Vec<Value> = columns(body)
        .into_iter()
        .map(|(name, json)| json!({ "name": name, "json": json }))
        .collect();
    let id = event["event"].as_str().unwrap_or_default();
    let head = PageHead::new(Section::DeadLetters, id);
    let content = json!({
        "event": event, "address": address_of(&event), "headers": headers, "columns": columns,
        "body": indented(body), "edited_body": event["edited_body"].as_str().map(indented),
    });
    pages.page(
        visitor.logged_in.as_ref(),
        &head,
        "dead_letter.html",
        &content,
    )
}

/// Tries it again.
pub(crate) async fn retry(Extract(pages): AskedPages, path: EventPath, form: SentForm) -> Decided {
    decide(&pages, &path, &form, WantedDecision::Retry, None).await
}

/// Tries it again with other values: those that are not as the event has them.
pub(crate) async fn edit(Extract(pages): AskedPages, path: EventPath, form: SentForm) -> Decided {
    let Path((sink, id)) = &path;
    let reason = form.wanted("reason", "the reason")?;
    let of = SinkParameter {
        sink: Some(sink.clone()),
    };
    let Json(event) = dlq::shown(Extract(state(&pages)), Path(id.clone()), Parameters(of)).await?;
    let known = columns(event["body"].as_str().unwrap_or_default());
    let mut set = Vec::new();
    for (path, value) in form.fields().filter(|(name, _)| name.starts_with("after.")) {
        let column = path.trim_start_matches("after.");
        // Browsers send the ends of lines in another way.
        let value = value.replace("\r\n", "\n");
        if known
            .iter()
            .any(|(name, json)| name == column && *json == value)
        {
            continue;
        }
        let json = match serde_json::from_str::<&RawValue>(&value) {
            Ok(json) => json.get().to_owned(),
            Err(_) => Value::from(value).to_string(),
        };
        set.push(Set::new(path, json)?);
    }
    if set.is_empty() {
        return Err(misconfigured(
            "no value is another one",
            "Change one, or try the event again as it is.",
        )
        .into());
    }
    decide(
        &pages,
        &path,
        &form,
        WantedDecision::Edit(&set),
        Some(reason),
    )
    .await
}

/// Leaves it out.
pub(crate) async fn skip(Extract(pages): AskedPages, path: EventPath, form: SentForm) -> Decided {
    let reason = form.wanted("reason", "the reason")?;
    decide(&pages, &path, &form, WantedDecision::Skip, Some(reason)).await
}

async fn decide(
    pages: &Pages,
    Path((sink, id)): &EventPath,
    form: &SentForm,
    order: WantedDecision<'_>,
    reason: Option<&str>,
) -> Decided {
    let stores = pages.dlq.open(Some(sink)).await?;
    let by = form.visitor.name();
    let held = dlq::note(&stores, id, order, Decider { by: &by, reason }).await?;
    let decision = held
        .event
        .decision
        .as_ref()
        .map_or("", |decision| decision.name());
    let until = Instant::now() + WAIT;
    let outcome = outcome(&held, until).await?;
    if let Some(who) = &form.visitor.logged_in {
        let notice = format!(
            "Event {} of {sink}: {}.",
            held.event.event_id,
            outcome.text(decision)
        );
        pages.sessions.tell(who, notice);
    }
    Ok(match held.now().await? {
        Some(_) => Redirect::to(&address(sink, &held.event.event_id)),
        None => Redirect::to("/dead-letters"),
    })
}

fn state(pages: &Pages) -> DlqState {
    DlqState {
        dlq: Arc::clone(&pages.dlq),
    }
}

fn address_of(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    address(text("sink"), text("event"))
}

fn address(sink: &str, id: &str) -> String {
    format!("/dead-letters/{}/{}", path_part(sink), path_part(id))
}

/// The columns of the row after the change, with their values as the event has them; none of what has no such row.
fn columns(body: &str) -> Vec<(String, String)> {
    let Ok(event) = Image::parse(body.as_bytes()) else {
        return Vec::new();
    };
    let after = event.get("after").map_or("", RawValue::get);
    let Ok(image) = Image::parse(after.as_bytes()) else {
        return Vec::new();
    };
    let columns = image.0.iter();
    columns
        .map(|(name, value)| (name.clone().into_owned(), value.get().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_event_to_the_byte() {
        let body = r#"{"after":{"n":1e400,"a":"x \"y\"","big":9007199254740993},"op":"c"}"#;
        let columns = columns(body);
        let texts: Vec<&str> = columns.iter().map(|(_, json)| json.as_str()).collect();
        assert_eq!(texts, ["1e400", r#""x \"y\"""#, "9007199254740993"]);
        assert!(super::columns("{").is_empty() && super::columns(r#"{"after":null}"#).is_empty());
    }
}
