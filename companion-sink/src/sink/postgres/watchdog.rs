//! Whether a target that answers a statement for long is still there. A long statement, or one that waits for a lock, is let be;
//! a server that hangs takes new connections no more, or says nothing on them.

use std::time::Duration;

use change::trouble::Trouble;
use tokio::time::{sleep, timeout};

use crate::error::Code;
use crate::reload::Live;
use crate::sink::postgres::connection;
use crate::status::SinkStatus;

/// A sink that has applied nothing for so long, though events wait, asks.
const ASKS_AFTER_SECONDS: f64 = 20.0;
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long the server has for an answer, after it has taken the connection.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Waits until the target of the sink that `status` is of does not answer; the error that says so (CDC1003).
pub(crate) async fn no_answer(live: Live, status: SinkStatus) -> Trouble {
    loop {
        sleep(ASK_EVERY).await;
        let unmoved = status.figures().unmoved_seconds;
        if unmoved.is_none_or(|seconds| seconds < ASKS_AFTER_SECONDS) {
            continue;
        }
        let name = &status.name;
        let key = format!("sink.{name}.url");
        let asked = async {
            let client = connection::open(&live.url(name), name, &key).await?;
            let answered = client.batch_execute("SELECT").await;
            answered.map_err(|error| {
                crate::sink::postgres::failure::classify("asking the server", &error)
            })
        };
        match timeout(ANSWERS_WITHIN, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.code != Code::Unreachable => {}
            Ok(Err(error)) => return error,
            Err(_) => {
                return Trouble::new(
                    Code::Unreachable,
                    "postgres: the server does not answer",
                    "See whether the target's server is overloaded or stopped; it is tried again.",
                );
            }
        }
    }
}
