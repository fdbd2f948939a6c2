//! What came of a decision: the active instance carries it out a moment later.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::dlq::Held;
use crate::error::Result;

/// As long is waited for it.
pub(crate) const WAIT: Duration = Duration::from_secs(3);
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The event is no longer aside: it was applied, or skipped.
    Done,
    /// It was refused once more: why.
    Refused(String),
    /// It is noted, and nothing has carried it out yet.
    Noted,
}

impl Outcome {
    /// For people; `decision` is the name of what was decided.
    pub(crate) fn text(&self, decision: &str) -> String {
        match self {
            Outcome::Done if decision == "skip" => "skipped".to_owned(),
            Outcome::Done => "applied".to_owned(),
            Outcome::Refused(why) => format!("refused again: {why}"),
            Outcome::Noted => {
                "noted, nothing runs that carries it out (`companion-sink status`)".to_owned()
            }
        }
    }
}

/// Waits until `until` for what came of the decision about an event.
pub(crate) async fn outcome(held: &Held<'_>, until: Instant) -> Result<Outcome> {
    loop {
        match held.now().await? {
            None => return Ok(Outcome::Done),
            Some(event) if event.decision.is_none() => {
                let why = event.failure.map(|failure| failure.message);
                return Ok(Outcome::Refused(why.unwrap_or_default()));
            }
            Some(_) if Instant::now() >= until => return Ok(Outcome::Noted),
            Some(_) => sleep(LOOK_PAUSE).await,
        }
    }
}
