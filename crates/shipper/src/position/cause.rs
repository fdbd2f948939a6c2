//! What a failed write means for the session: a sender that was replaced is told from one whose transaction a broker has
//! ended. Only the first finds the position of a newer one.

use std::time::{Duration, Instant};

use change::backoff::Backoff;

use super::reader;
use super::write_error::WriteError;
use crate::session::Session;

/// Of a sender that has not taken over yet.
pub(crate) const NO_EPOCH: u64 = 0;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Between attempts to write the position, or to read it.
pub(crate) const fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Shows the trouble and waits; false if the session is over. `epoch` is the writer's.
pub(crate) fn wait_out(
    session: &Session,
    epoch: u64,
    error: WriteError,
    backoff: &mut Backoff,
) -> bool {
    let board = &session.board;
    let trouble = match cause(session, epoch, error) {
        WriteError::Again(trouble) => trouble,
        // Nobody took over: brokers end a transaction that lasts too long in the same way.
        WriteError::Fenced => return !session.is_over(),
        lasting @ (WriteError::Never(_) | WriteError::Replaced(_)) => {
            board.fail(lasting.into_failure());
            return false;
        }
    };
    board.set_trouble(Some(trouble));
    let (pause, start) = (backoff.pause(), Instant::now());
    while start.elapsed() < pause && !session.is_over() {
        board.sleep_while(pause.saturating_sub(start.elapsed()), || true);
    }
    !session.is_over()
}

/// What an error comes to.
pub(crate) fn cause(session: &Session, epoch: u64, error: WriteError) -> WriteError {
    let WriteError::Fenced = error else {
        return error;
    };
    let mut backoff = backoff();
    loop {
        match reader::read(session) {
            Ok(found) if found.own.iter().any(|own| own.epoch > epoch) => {
                return WriteError::replaced(session);
            }
            Ok(_) => return WriteError::Fenced,
            // Until that is known nobody may be fenced in turn.
            Err(again) => {
                if !wait_out(session, epoch, again, &mut backoff) {
                    return WriteError::Fenced;
                }
            }
        }
    }
}
