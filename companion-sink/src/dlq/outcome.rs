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
pub(crate) enum DecisionOutcome {
    /// The event is no longer aside: it was applied, or skipped.
    Done,
    /// It was refused once more: why.
    Refused(String),
    /// It is noted, and nothing has carried it out yet.
    Noted,
}

impl DecisionOutcome {
    /// For people; `decision` is the name of what was decided.
    pub(crate) fn text(&self, decision: &str) -> String {
        match self {
            DecisionOutcome::Done if decision == "skip" => "skipped".to_owned(),
            DecisionOutcome::Done => "applied".to_owned(),
            DecisionOutcome::Refused(why) => format!("refused again: {why}"),
            DecisionOutcome::Noted => {
                "noted, nothing runs that carries it out (`companion-sink status`)".to_owned()
            }
        }
    }
}

/// Waits until `until` for what came of the decision about an event.
pub(crate) async fn outcome(held: &Held<'_>, until: Instant) -> Result<DecisionOutcome> {
    loop {
        match held.now().await? {
            None => return Ok(DecisionOutcome::Done),
            Some(event) if event.decision.is_none() => {
                let why = event.failure.map(|failure| failure.message);
                return Ok(DecisionOutcome::Refused(why.unwrap_or_default()));
            }
            Some(_) if Instant::now() >= until => return Ok(DecisionOutcome::Noted),
            Some(_) => sleep(LOOK_PAUSE).await,
        }
    }
}
