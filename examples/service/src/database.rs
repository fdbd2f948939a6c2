//! Connections to PostgreSQL.

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::NoTls;

use crate::setting;

/// A pool of connections to the database that the variable `DATABASE_URL` names.
pub fn pool_from_environment(connections: usize) -> Pool {
    let url = setting::required("DATABASE_URL");
    let url = url.parse::<tokio_postgres::Config>();
    let url = url.unwrap_or_else(|error| setting::wrong(&format!("DATABASE_URL: {error}")));
    let config = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let pool = Pool::builder(Manager::from_config(url, NoTls, config)).max_size(connections);
    pool.build()
        .unwrap_or_else(|error| setting::wrong(&error.to_string()))
}
