//! What the services of the examples share: settings from the environment, who calls and why, addresses, bodies and
//! problems, a pool of connections to PostgreSQL, and the way they listen and stop.
//!
//! A request carries `Authorization: Bearer TOKEN` (who; the file of tokens says whose it is), and may carry `X-Reason` (why)
//! and `X-Request-Id`. [`caller::Caller::begin`] gives all three to PostgreSQL with `cdc_context`, so that pg_cdc records
//! them with each change of the transaction.

pub mod address;
pub mod body;
pub mod caller;
pub mod database;
pub mod listen;
pub mod problem;
pub mod setting;
