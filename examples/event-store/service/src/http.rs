//! The HTTP interface.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use service::body::Body;
use service::problem::Problem;

use crate::account::{Condition, Happened, Id, Moment, Profile};
use crate::command::{Command, Done, no_account};
use crate::list::{self, Page, Wanted};
use crate::log::BYTES_READ;
use crate::owners::Owners;
use crate::partition::Partitions;
use crate::peers::{at_owner, to_owner};
use crate::statistics::{self, Statistics};
use crate::store::EVENTS_LOOKED_AT;

/// What the handlers have.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) owners: Arc<Owners>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) statistics: Arc<Statistics>,
}

/// The body of `POST /accounts`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAccount {
    id: Option<Id>,
    name: String,
    email: Option<String>,
}

/// The body of `PUT /accounts/{id}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedAccount {
    name: String,
    email: Option<String>,
}

/// The body of `POST /accounts/{id}/events`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEvent {
    id: Option<Id>,
    #[serde(rename = "type")]
    kind: String,
    amount_cents: i64,
    time: Option<Moment>,
}

/// Which events of an account are shown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedEvents {
    from: Option<u64>,
    limit: Option<usize>,
}

type Answer<T> = Result<T, Problem>;

/// All paths. Those of one account are served where its owner is.
pub(crate) fn routes(service: Service) -> Router {
    let of_one = Router::new()
        .route(
            "/accounts/{id}",
            get(read_account).put(put_account).delete(delete_account),
        )
        .route("/accounts/{id}/events", get(list_events).post(publish))
        .route_layer(from_fn_with_state(Arc::clone(&service.owners), to_owner));
    let figures = get(statistics::ask).with_state(Arc::clone(&service.statistics));
    Router::new()
        .route("/accounts", get(list_accounts).post(create_account))
        .route("/statistics", figures)
        .route("/status", get(status))
        .merge(of_one)
        .with_state(service)
}

async fn list_accounts(
    State(service): State<Service>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Json<Page>> {
    let Query(wanted) = wanted.map_err(wrong_query)?;
    let page = list::accounts(&service.owners, &service.partitions, wanted);
    page.await.map(Json)
}

/// Sent on, it is a PUT of one that must not be there, for the id is decided here.
async fn create_account(
    State(service): State<Service>,
    Body(new): Body<NewAccount>,
) -> Answer<Response> {
    let id = new.id.unwrap_or_else(Id::random);
    let profile = Profile {
        name: new.name,
        email: new.email,
    };
    profile.check()?;
    let path = format!("/accounts/{}", id.as_str());
    let request = Request::builder()
        .method(Method::PUT)
        .uri(&path)
        .header(header::IF_NONE_MATCH, "*");
    let request = request.body(()).map_err(Problem::broken)?;
    let body = serde_json::to_vec(&profile).map_err(Problem::broken)?;
    let parts = request.into_parts().0;
    let mut answer = at_owner(&service.owners, &id, &parts, &Bytes::from(body), || {
        let command = Command::Put(id.clone(), profile.clone(), Condition::New);
        let (service, id) = (&service, &id);
        async move { change(service, id, command).await.into_response() }
    })
    .await;
    match answer.status() {
        StatusCode::PRECONDITION_FAILED => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("there is an account {} already", id.as_str()),
        )),
        StatusCode::CREATED => {
            let place = HeaderValue::try_from(path).map_err(Problem::broken)?;
            answer.headers_mut().insert(header::LOCATION, place);
            Ok(answer)
        }
        _ => Ok(answer),
    }
}

async fn read_account(State(service): State<Service>, Path(id): Path<Id>) -> Answer<Response> {
    let partition = service.owners.topics.partition_of(id.as_str());
    let view = service.partitions.look(partition).await?;
    let account = view.account(&id).map_err(Problem::broken)?;
    let account = account.ok_or_else(|| no_account(&id))?;
    let done = Done::account(StatusCode::OK, &account).map_err(Problem::broken)?;
    Ok(done.into_response())
}

async fn put_account(
    State(service): State<Service>,
    Path(id): Path<Id>,
    headers: HeaderMap,
    Body(wanted): Body<WantedAccount>,
) -> Answer<Response> {
    let condition = Condition::of(&headers)?;
    if matches!(condition, Condition::Any) && !headers.contains_key(header::IF_MATCH) {
        let what = "say which version you have read: If-Match with its ETag, or If-None-Match: *";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, what));
    }
    let profile = Profile {
        name: wanted.name,
        email: wanted.email,
    };
    profile.check()?;
    change(&service, &id, Command::Put(id.clone(), profile, condition)).await
}

async fn delete_account(
    State(service): State<Service>,
    Path(id): Path<Id>,
    headers: HeaderMap,
) -> Answer<Response> {
    let command = Command::Delete(id.clone(), Condition::of(&headers)?);
    change(&service, &id, command).await
}

async fn publish(
    State(service): State<Service>,
    Path(account): Path<Id>,
    Body(new): Body<NewEvent>,
) -> Answer<Response> {
    let what = Happened {
        kind: new.kind,
        amount_cents: new.amount_cents,
    };
    what.check()?;
    let command = Command::Publish {
        account: account.clone(),
        id: new.id.unwrap_or_else(Id::random),
        time: new.time,
        what,
    };
    change(&service, &account, command).await
}

async fn list_events(
    State(service): State<Service>,
    Path(account): Path<Id>,
    wanted: Result<Query<WantedEvents>, QueryRejection>,
) -> Answer<Json<Value>> {
    let Query(wanted) = wanted.map_err(wrong_query)?;
    let limit = list::limit(wanted.limit)?;
    let partition = service.owners.topics.partition_of(account.as_str());
    let view = service.partitions.look(partition).await?;
    if view.account(&account).map_err(Problem::broken)?.is_none() {
        return Err(no_account(&account));
    }
    let page = view.events(&account, wanted.from.unwrap_or(0), limit + 1);
    let mut page = page.map_err(Problem::broken)?;
    let next = page.get(limit).map(|(offset, _)| *offset);
    page.truncate(limit);
    let events: Vec<_> = page.into_iter().map(|(_, event)| event).collect();
    Ok(Json(json!({ "events": events, "next": next })))
}

/// What this instance has and has done.
async fn status(State(service): State<Service>) -> Json<Value> {
    let mut partitions = Vec::new();
    service.partitions.each(|number, progress| {
        partitions.push((
            number,
            json!({
                "partition": number,
                "serves": progress.serves.load(Ordering::Relaxed),
                "offsets_read": progress.read.load(Ordering::Relaxed),
                "offsets_to_read": progress.to_read.load(Ordering::Relaxed),
            }),
        ));
    });
    let mut told = Vec::new();
    for (number, mut partition) in partitions {
        if let Ok(view) = service.partitions.look(number).await
            && let Ok((accounts, events)) = view.counts()
        {
            partition["accounts"] = accounts.into();
            partition["events"] = events.into();
        }
        told.push(partition);
    }
    Json(json!({
        "address": service.owners.me,
        "partitions": told,
        "bytes_read_from_topics": BYTES_READ.load(Ordering::Relaxed),
        "events_looked_at": EVENTS_LOOKED_AT.load(Ordering::Relaxed),
    }))
}

async fn change(service: &Service, account: &Id, command: Command) -> Answer<Response> {
    let partition = service.owners.topics.partition_of(account.as_str());
    let done = service.partitions.change(partition, command).await?;
    Ok(done.into_response())
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NO_CONTENT {
            return self.status.into_response();
        }
        let mut answer = (self.status, Json(self.body)).into_response();
        if let Some(tag) = self.tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
            answer.headers_mut().insert(header::ETAG, tag);
        }
        answer
    }
}

fn wrong_query(wrong: QueryRejection) -> Problem {
    Problem::new(wrong.status(), wrong.body_text())
}
