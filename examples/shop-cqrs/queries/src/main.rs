//! The query side of the shop: answers from the read models in MongoDB and the figures that companion-sink keeps, and has no
//! connection to PostgreSQL. It keeps nothing, so any number of it may run beside each other.
//!
//! A read model is what the command side was a moment ago: an order that was just placed is there shortly.

mod figures;
mod money;
mod questions;
mod reading;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::get;
use mongodb::{Client, Database};
use service::{listen, setting};

use figures::Figures;

#[derive(Clone)]
struct Shop {
    database: Database,
    figures: Figures,
}

impl FromRef<Shop> for Database {
    fn from_ref(shop: &Shop) -> Database {
        shop.database.clone()
    }
}

impl FromRef<Shop> for Figures {
    fn from_ref(shop: &Shop) -> Figures {
        shop.figures.clone()
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let url = setting::required("MONGODB_URL");
    let client = Client::with_uri_str(&url).await;
    let client = client.unwrap_or_else(|error| setting::wrong(&format!("MONGODB_URL: {error}")));
    let shop = Shop {
        database: client.database(&setting::required("MONGODB_DATABASE")),
        figures: Figures::from_environment(),
    };
    let routes = Router::new()
        .route("/customers", get(questions::customers))
        .route("/customers/{id}", get(questions::customer))
        .route(
            "/customers/{id}/orders",
            get(questions::orders_of_a_customer),
        )
        .route("/products", get(questions::products))
        .route("/products/low", get(questions::products_low_in_stock))
        .route("/products/{id}", get(questions::product))
        .route("/products/{id}/sales", get(questions::sales_of_a_product))
        .route("/orders", get(questions::orders))
        .route("/orders/{id}", get(questions::order))
        .route("/revenue", get(figures::revenue));
    listen::serve(routes.with_state(shop)).await
}
