//! The command side of the shop: every command is a transaction in PostgreSQL. It answers with what the database decided, such as
//! an order's total, and never reads for others.

mod customers;
mod money;
mod orders;
mod products;
mod shop;

use axum::Router;
use service::caller::Tokens;
use service::{database, listen};

use shop::Shop;

/// Connections to PostgreSQL, over all requests.
const CONNECTIONS: usize = 16;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let shop = Shop {
        pool: database::pool_from_environment(CONNECTIONS),
        tokens: Tokens::from_environment(),
    };
    let routes = Router::new()
        .merge(customers::routes())
        .merge(products::routes())
        .merge(orders::routes());
    listen::serve(routes.with_state(shop)).await
}
