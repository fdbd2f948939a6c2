//! The questions that read models answer.

use axum::Json;
use axum::extract::State;
use mongodb::Database;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use service::address::{InPath, InQuery};
use service::problem::Problem;

use crate::money;
use crate::reading::{Page, all, one, page, shown};

type Answer = Result<Json<Value>, Problem>;

pub(crate) async fn customers(
    State(database): State<Database>,
    InQuery(which): InQuery<Page>,
) -> Answer {
    page(&database, "customers", doc! {}, &which)
        .await
        .map(Json)
}

pub(crate) async fn customer(State(database): State<Database>, InPath(id): InPath<i64>) -> Answer {
    one(&database, "customers", "customer", id).await.map(Json)
}

pub(crate) async fn orders_of_a_customer(
    State(database): State<Database>,
    InPath(id): InPath<i64>,
    InQuery(which): InQuery<Page>,
) -> Answer {
    let filter = doc! { "customerId": id };
    page(&database, "orders", filter, &which).await.map(Json)
}

pub(crate) async fn products(
    State(database): State<Database>,
    InQuery(which): InQuery<Page>,
) -> Answer {
    page(&database, "products", doc! {}, &which).await.map(Json)
}

pub(crate) async fn product(State(database): State<Database>, InPath(id): InPath<i64>) -> Answer {
    one(&database, "products", "product", id).await.map(Json)
}

/// Those that are sold out first.
pub(crate) async fn products_low_in_stock(State(database): State<Database>) -> Answer {
    let filter = doc! { "stockStatus": { "$in": ["sold out", "low"] } };
    let order = doc! { "stock": 1, "_id": 1 };
    let found = all(&database, "products", filter, order, None).await?;
    let found: Vec<Value> = found.into_iter().map(shown).collect();
    Ok(Json(json!({ "products": found })))
}

/// A page of the sales, and what all of them come to.
pub(crate) async fn sales_of_a_product(
    State(database): State<Database>,
    InPath(id): InPath<i64>,
    InQuery(which): InQuery<Page>,
) -> Answer {
    let filter = doc! { "productId": id };
    let mut answer = page(&database, "product_sold", filter.clone(), &which).await?;
    let sales = all(&database, "product_sold", filter, doc! {}, None).await?;
    let amounts = sales
        .iter()
        .map(|sale| sale.get_str("productTotalPrice").unwrap_or_default());
    let quantities = sales.iter().map(quantity);
    answer["productId"] = id.into();
    answer["quantitySold"] = quantities.sum::<i64>().into();
    answer["revenue"] = money::sum(amounts).into();
    Ok(Json(answer))
}

fn quantity(sale: &Document) -> i64 {
    sale.get_i32("quantitySold").map_or(0, i64::from)
}

pub(crate) async fn orders(
    State(database): State<Database>,
    InQuery(which): InQuery<Page>,
) -> Answer {
    page(&database, "orders", doc! {}, &which).await.map(Json)
}

pub(crate) async fn order(State(database): State<Database>, InPath(id): InPath<i64>) -> Answer {
    one(&database, "orders", "order", id).await.map(Json)
}
