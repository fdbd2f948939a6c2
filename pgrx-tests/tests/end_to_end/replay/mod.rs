//! `companion-sink replay`: what was damaged by hand is as the topics say again, and readers see no step of it.

mod bank;
mod command;
mod history;
mod snapshot;
mod topics;
