//! The events in Kafka: their envelope, key and headers, rendered from captured rows.
//!
//! [`renderer`] takes the rows; [`op`] and [`headers`] are the names that every reader needs.

pub mod commit;
mod emitted;
mod envelope;
pub mod headers;
pub mod op;
mod passed_over;
pub mod record;
pub mod render_options;
pub mod renderer;
mod routing;
mod row_key;
pub mod snapshot_chunk;
pub mod snapshot_window;
