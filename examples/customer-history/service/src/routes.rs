//! The requests.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Map, Value};
use service::address::{InPath, InQuery};
use service::body::Body;
use service::caller::Caller;
use service::problem::Problem;

use crate::customer::{Customer, missing};
use crate::shared::Shared;

type Answer = Result<Response, Problem>;

/// All of them.
pub(crate) fn routes() -> Router<Shared> {
    let one = get(read).put(replace).patch(change).delete(delete);
    Router::new()
        .route("/customers", get(list).post(create))
        .route("/customers/import", post(import))
        .route("/customers/{id}", one)
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Page {
    limit: i64,
    after: i64,
}

impl Default for Page {
    fn default() -> Page {
        Page {
            limit: 50,
            after: 0,
        }
    }
}

/// Customers in the order of their ids, and where the next page begins.
async fn list(
    _: Caller,
    State(shared): State<Shared>,
    InQuery(Page { limit, after }): InQuery<Page>,
) -> Answer {
    if !(1..=500).contains(&limit) {
        return Err(Problem::unprocessable("limit must be 1 to 500"));
    }
    let query = "SELECT jsonb_build_object('customers', coalesce(jsonb_agg(c ORDER BY id), '[]'),
                 'next', CASE WHEN count(*) = $2 THEN max(id) END)::text
             FROM (SELECT * FROM customer WHERE id > $1 ORDER BY id LIMIT $2) c";
    let client = shared.pool.get().await?;
    let page = client.query_one(query, &[&after, &limit]).await?;
    Ok(json(StatusCode::OK, page.get(0)))
}

async fn read(_: Caller, State(shared): State<Shared>, InPath(id): InPath<i64>) -> Answer {
    let query = "SELECT to_jsonb(c)::text FROM customer c WHERE id = $1";
    let client = shared.pool.get().await?;
    let row = client.query_opt(query, &[&id]).await?;
    Ok(json(StatusCode::OK, row.ok_or_else(|| missing(id))?.get(0)))
}

async fn create(
    caller: Caller,
    State(shared): State<Shared>,
    Body(customer): Body<Customer>,
) -> Answer {
    let mut client = shared.pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let (id, created) = customer.insert(&transaction).await?;
    transaction.commit().await?;
    let location = [(header::LOCATION, format!("/customers/{id}"))];
    Ok((location, json(StatusCode::CREATED, created)).into_response())
}

/// All or none: where one is refused, the others are rolled back.
async fn import(
    caller: Caller,
    State(shared): State<Shared>,
    Body(customers): Body<Vec<Customer>>,
) -> Answer {
    let mut client = shared.pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let mut ids = Vec::with_capacity(customers.len());
    for customer in &customers {
        ids.push(customer.insert(&transaction).await?.0);
    }
    transaction.commit().await?;
    let imported = serde_json::json!({"imported": ids});
    Ok(json(StatusCode::CREATED, imported.to_string()))
}

async fn replace(
    caller: Caller,
    State(shared): State<Shared>,
    InPath(id): InPath<i64>,
    Body(customer): Body<Customer>,
) -> Answer {
    let mut client = shared.pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let replaced = customer.replace(id, &transaction).await?;
    transaction.commit().await?;
    Ok(json(StatusCode::OK, replaced))
}

async fn change(
    caller: Caller,
    State(shared): State<Shared>,
    InPath(id): InPath<i64>,
    Body(changes): Body<Map<String, Value>>,
) -> Answer {
    let mut client = shared.pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let customer = Customer::changed(id, changes, &transaction).await?;
    let changed = customer.replace(id, &transaction).await?;
    transaction.commit().await?;
    Ok(json(StatusCode::OK, changed))
}

async fn delete(caller: Caller, State(shared): State<Shared>, InPath(id): InPath<i64>) -> Answer {
    let mut client = shared.pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let deleted = transaction
        .execute("DELETE FROM customer WHERE id = $1", &[&id])
        .await?;
    transaction.commit().await?;
    match deleted {
        0 => Err(missing(id)),
        _ => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// What PostgreSQL has made JSON of.
fn json(status: StatusCode, text: String) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (status, content_type, text).into_response()
}
