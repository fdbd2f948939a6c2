//! From a source to its replica and its history.

mod consistent;
mod demo;
mod follow;
mod history;
mod replay;
mod snapshot;
mod snapshot_jobs;
mod stopped_definitions;
mod table_names;
mod timeline;
mod topics;
mod tpcb;
mod view;
