//! Commands on products. Nobody sets the stock of a product that is sold meanwhile: a delivery adds to it.

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

use crate::money::Money;
use crate::shop::{Shop, found};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProduct {
    name: String,
    price: Money,
    stock: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Product {
    name: String,
    price: Money,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delivery {
    quantity: i32,
}

pub(crate) fn routes() -> Router<Shop> {
    Router::new()
        .route("/products", post(create))
        .route("/products/{id}", put(change).delete(delete))
        .route("/products/{id}/deliveries", post(deliver))
}

async fn create(
    caller: Caller,
    State(pool): State<Pool>,
    Body(product): Body<NewProduct>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let insert = "INSERT INTO product (name, price, stock) VALUES ($1, $2::text::numeric, $3) RETURNING id, stock_status";
    let created = transaction
        .query_one(insert, &[&product.name, &product.price.0, &product.stock])
        .await?;
    transaction.commit().await?;
    let created = json!({
        "productId": created.get::<_, i64>(0),
        "stockStatus": created.get::<_, String>(1),
    });
    Ok((StatusCode::CREATED, Json(created)))
}

async fn change(
    caller: Caller,
    State(pool): State<Pool>,
    InPath(id): InPath<i64>,
    Body(product): Body<Product>,
) -> Result<StatusCode, Problem> {
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let update = "UPDATE product SET name = $2, price = $3::text::numeric WHERE id = $1";
    let updated = transaction
        .execute(update, &[&id, &product.name, &product.price.0])
        .await?;
    found("product", id, updated)?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn deliver(
    caller: Caller,
    State(pool): State<Pool>,
    InPath(id): InPath<i64>,
    Body(delivery): Body<Delivery>,
) -> Result<Json<Value>, Problem> {
    if delivery.quantity <= 0 {
        return Err(Problem::unprocessable("a delivery has at least one item"));
    }
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let update =
        "UPDATE product SET stock = stock + $2 WHERE id = $1 RETURNING stock, stock_status";
    let now = transaction
        .query_opt(update, &[&id, &delivery.quantity])
        .await?;
    let now = now.ok_or_else(|| Problem::not_found(format!("there is no product {id}")))?;
    transaction.commit().await?;
    let now = json!({"stock": now.get::<_, i32>(0), "stockStatus": now.get::<_, String>(1)});
    Ok(Json(now))
}

/// One that was sold stays: the database refuses.
async fn delete(
    caller: Caller,
    State(pool): State<Pool>,
    InPath(id): InPath<i64>,
) -> Result<StatusCode, Problem> {
    let mut client = pool.get().await?;
    let transaction = caller.begin(&mut client).await?;
    let delete = "DELETE FROM product WHERE id = $1";
    found("product", id, transaction.execute(delete, &[&id]).await?)?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
