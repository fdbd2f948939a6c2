//! Who gets what sinks of effects send.

pub mod mail_server;
pub mod webhook_receiver;
