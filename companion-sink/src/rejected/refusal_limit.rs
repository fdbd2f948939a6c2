//! Many refused events in a short time are the target's fault, or a rule's, not the events': the sink halts before it
//! floods the dead letters.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use change::trouble::Trouble;

use crate::error::{Code, Result};
use crate::rejected::failure::Failure;

const MINUTE: Duration = Duration::from_secs(60);

/// Whether the target, or a rule, may be at fault.
fn is_the_targets(code: Code) -> bool {
    matches!(
        code,
        Code::ValueRefused | Code::Rejected | Code::EffectRefused
    )
}

/// Counts the refused events of the last minute.
pub(crate) struct RefusalLimit {
    max_per_minute: usize,
    recent: VecDeque<Instant>,
}

impl RefusalLimit {
    /// Lets `max_per_minute` pass.
    pub(crate) fn new(max_per_minute: u32) -> Self {
        RefusalLimit {
            max_per_minute: max_per_minute as usize,
            recent: VecDeque::new(),
        }
    }

    /// Counts those of a batch; too many halt the sink before the batch is applied.
    pub(crate) fn count<'f>(&mut self, failures: impl Iterator<Item = &'f Failure>) -> Result<()> {
        let refused = failures
            .filter(|failure| is_the_targets(failure.code))
            .count();
        while self.recent.front().is_some_and(|at| at.elapsed() > MINUTE) {
            self.recent.pop_front();
        }
        self.check(refused)?;
        self.recent
            .extend(std::iter::repeat_n(Instant::now(), refused));
        Ok(())
    }

    /// Whether so many more may be refused now.
    pub(crate) fn check(&self, more: usize) -> Result<()> {
        if self.recent.len() + more > self.max_per_minute {
            return Err(Trouble::new(
                Code::TargetRefuses,
                format!(
                    "the target, or a rule, refused more than {} events within a minute",
                    self.max_per_minute
                ),
                "Look at its constraints and types, and at [[rule]]; the last batch was not applied. Correct them and send SIGHUP a minute later, or raise [dead_letters] max_parked_keys_per_minute and restart.",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_refused_events_halt() {
        let refused = vec![Failure::refused(String::new()); 3];
        let malformed = vec![Failure::undecodable(String::new()); 50];
        let mut limit = RefusalLimit::new(5);
        limit.count(malformed.iter()).unwrap();
        limit.count(refused.iter()).unwrap();
        let rejected = vec![Failure::rejected("salary"); 3];
        assert_eq!(
            limit.count(rejected.iter()).unwrap_err().code,
            Code::TargetRefuses
        );
    }
}
