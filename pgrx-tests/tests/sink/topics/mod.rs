//! `companion-sink topic`: what is in topics, whoever wrote it, with nothing but `[kafka]` in the configuration.

mod any_topic;
mod filters;
mod following;
mod holes;
mod looker;
