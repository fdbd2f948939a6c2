//! Commands on customers.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{post, put};
use axum::{Json, Router};
use deadpool_postgres::Pool;
use serde::Deserialize;
use serde_json::{Value, json};
use service::address::InPath;
use service::body::Body;
use service::caller::Caller;
use service::problem::Problem;

use crate::shop::{Shop, found};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Customer {
    name: String,
    email: String,
}

pub(crate) fn routes() -> Router<Shop> {
    Router::new()
        .route("/customers", post(create))
        .route("/customers/{id}", put(change).delete(delete))
}

async fn create(
    caller: Caller,
    State(pool): State<Pool>,
    Body(customer): Body<Customer>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let insert = "INSERT INTO customer (name, email) VALUES ($1, $2) RETURNING id";
    let created = transaction
        .query_one(insert, &[&customer.name, &customer.email])
        .await?;
    transaction.commit().await?;
    let created = json!({"customerId": created.get::<_, i64>(0)});
    Ok((StatusCode::CREATED, Json(created)))
}

async fn change(
    caller: Caller,
    State(pool): State<Pool>,
    InPath(id): InPath<i64>,
    Body(customer): Body<Customer>,
) -> Result<StatusCode, Problem> {
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let update = "UPDATE customer SET name = $2, email = $3 WHERE id = $1";
    let updated = transaction
        .execute(update, &[&id, &customer.name, &customer.email])
        .await?;
    found("customer", id, updated)?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One with orders stays: the database refuses.
async fn delete(
    caller: Caller,
    State(pool): State<Pool>,
    InPath(id): InPath<i64>,
) -> Result<StatusCode, Problem> {
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let delete = "DELETE FROM customer WHERE id = $1";
    found("customer", id, transaction.execute(delete, &[&id]).await?)?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
