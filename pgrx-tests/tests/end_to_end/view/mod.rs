//! Views: documents that are made of rows of several tables are what the tables say, whatever happens to those and to the sink.

mod changes;
mod kills;
mod own_events;
mod rebuild;
mod shop;
