//! Who gets what sinks of effects send.

pub mod mail_server;
pub mod request_server;
pub mod webhook_receiver;

use std::path::Path;
use std::time::Duration;

use crate::wait_until;

/// Waits until a server that works in `folder` has somebody waiting for its answer.
fn wait_until_hanging(folder: &Path) {
    let hangs = folder.join("hangs");
    let _ = std::fs::remove_file(&hangs);
    wait_until(
        "somebody to wait",
        Duration::from_secs(60),
        || match hangs.exists() {
            true => Ok(()),
            false => Err("nobody does"),
        },
    );
}
