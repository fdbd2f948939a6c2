//! How soon a session is followed by the next one, and when by none.

use std::time::Duration;

use change::backoff::Backoff;
use change::trouble::Trouble;

/// Between a failed delivery and the next try.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Panics in a row, without anything acknowledged in between, after which it is not tried again.
const MOST_PANICS: u32 = 5;

/// What is known of the sessions that have ended by themselves, one after the other.
#[derive(Debug)]
pub struct Restarts {
    backoff: Backoff,
    panics: u32,
    /// Commit record of the newest transaction that was ever acknowledged.
    acknowledged_lsn: u64,
}

impl Default for Restarts {
    fn default() -> Self {
        Restarts {
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            panics: 0,
            acknowledged_lsn: 0,
        }
    }
}

impl Restarts {
    /// How far a session has come that is over. What was acknowledged before, and again, is no progress.
    pub fn session_acknowledged(&mut self, lsn: u64) {
        if lsn > self.acknowledged_lsn {
            self.acknowledged_lsn = lsn;
            self.begin_anew();
        }
    }

    /// Somebody has acted, or something was acknowledged.
    pub fn begin_anew(&mut self) {
        self.backoff.reset();
        self.panics = 0;
    }

    /// A session must be followed by another: how long to wait before.
    pub fn pause(&mut self) -> Duration {
        self.backoff.pause()
    }

    /// A thread has panicked: how long to wait before the next try, or what to halt with.
    pub fn panicked(&mut self, trouble: Trouble) -> Result<Duration, Trouble> {
        self.panics += 1;
        if self.panics < MOST_PANICS {
            return Ok(self.backoff.pause());
        }
        Err(Trouble {
            remedy: "Report this with the server log. SELECT cdc_resume() tries again.".to_owned(),
            ..trouble
        })
    }
}

#[cfg(test)]
mod tests {
    use change::code::Code;

    use super::*;

    fn panicked(restarts: &mut Restarts) -> Result<Duration, Code> {
        let trouble = Trouble::new(Code::SenderPanicked, "a thread panicked", "Nothing.");
        restarts.panicked(trouble).map_err(|trouble| trouble.code)
    }

    #[test]
    fn pauses_grow_until_something_is_acknowledged() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.pause(), FIRST_PAUSE);
        assert_eq!(restarts.pause(), FIRST_PAUSE * 2);
        for _ in 0..10 {
            assert!(restarts.pause() <= LONGEST_PAUSE);
        }
        assert_eq!(restarts.pause(), LONGEST_PAUSE);
        restarts.session_acknowledged(100);
        assert_eq!(restarts.pause(), FIRST_PAUSE);
    }

    #[test]
    fn panics_without_progress_halt() {
        let mut restarts = Restarts::default();
        for _ in 1..MOST_PANICS {
            // Sent again, acknowledged again.
            restarts.session_acknowledged(100);
            assert!(panicked(&mut restarts).is_ok());
        }
        restarts.session_acknowledged(100);
        assert_eq!(panicked(&mut restarts), Err(Code::SenderPanicked));
        restarts.begin_anew();
        assert_eq!(panicked(&mut restarts), Ok(FIRST_PAUSE));
    }

    #[test]
    fn panics_with_progress_in_between_do_not_halt() {
        let mut restarts = Restarts::default();
        for lsn in 1..100 {
            restarts.session_acknowledged(lsn);
            assert_eq!(panicked(&mut restarts), Ok(FIRST_PAUSE));
        }
    }
}
