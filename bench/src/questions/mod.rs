//! One question for each subcommand.

pub(crate) mod capture;
pub(crate) mod effects;
pub(crate) mod history;
pub(crate) mod idle;
pub(crate) mod latency;
pub(crate) mod replica;
pub(crate) mod shapes;
pub(crate) mod ship;
pub(crate) mod snapshot;
pub(crate) mod statistics;
pub(crate) mod view;
