//! Commands on orders: functions of the database, which lock and compute.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, post};
use axum::{Json, Router};
use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::address::InPath;
use service::body::Body;
use service::caller::Caller;
use service::problem::Problem;

use crate::shop::Shop;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Order {
    customer_id: i64,
    items: Vec<Item>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Item {
    product_id: i64,
    quantity: i32,
}

pub(crate) fn routes() -> Router<Shop> {
    Router::new()
        .route("/orders", post(place))
        .route("/orders/{id}", delete(take_back))
}

async fn place(
    caller: Caller,
    State(pool): State<Pool>,
    Body(order): Body<Order>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let items = json!(order.items).to_string();
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let place = "SELECT id, total_price::text FROM place_order($1, $2::text::jsonb)";
    let placed = transaction
        .query_one(place, &[&order.customer_id, &items])
        .await?;
    transaction.commit().await?;
    let placed = json!({
        "orderId": placed.get::<_, i64>(0),
        "totalPrice": placed.get::<_, String>(1),
    });
    Ok((StatusCode::CREATED, Json(placed)))
}

async fn take_back(
    caller: Caller,
    State(pool): State<Pool>,
    InPath(id): InPath<i64>,
) -> Result<StatusCode, Problem> {
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let deleted = transaction
        .query_one("SELECT delete_order($1)", &[&id])
        .await?;
    if !deleted.get::<_, bool>(0) {
        return Err(Problem::not_found(format!("there is no order {id}")));
    }
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
