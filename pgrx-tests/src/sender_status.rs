//! What `cdc_status()` says of the sender.

use std::time::Duration;

use postgres::Client;

use crate::wait::assert_stays;
use crate::wait_until;

/// How long a state may take: a broker that has to come back, a timeout of the sender.
const TIMEOUT: Duration = Duration::from_secs(90);

/// What `cdc_status()` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderStatus {
    /// `streaming`, `halted` and so on.
    pub state: String,
    /// The code of the last error.
    pub code: Option<String>,
    /// The last error; empty if there is none.
    pub error: String,
    /// What to do about it; empty if there is no error.
    pub hint: String,
    /// What the sender waits for.
    pub waiting_for: Option<String>,
    /// The WAL that is gone, from and to, in state `gap`.
    pub gap: Option<(String, String)>,
    /// The sender's process.
    pub pid: Option<i32>,
}

impl SenderStatus {
    /// As it is now.
    ///
    /// # Panics
    /// When the server does not tell.
    pub fn of(client: &mut Client) -> SenderStatus {
        let query = "SELECT state, error_code, coalesce(error_message, '') AS error, coalesce(error_hint, '') AS hint, waiting_for,
                gap_from::text, gap_to::text, pid FROM cdc_status()";
        let row = client.query_one(query, &[]).expect("cdc_status");
        let gap_from: Option<String> = row.get("gap_from");
        SenderStatus {
            state: row.get("state"),
            code: row.get("error_code"),
            error: row.get("error"),
            hint: row.get("hint"),
            waiting_for: row.get("waiting_for"),
            gap: gap_from.zip(row.get("gap_to")),
            pid: row.get("pid"),
        }
    }
}

/// Waits until the sender has a state, with the error's code and a hint, or without an error.
///
/// # Panics
/// When that takes longer than a minute and a half, with what it says instead.
pub fn wait_for_state(client: &mut Client, state: &str, code: Option<&str>) -> SenderStatus {
    wait_until(&format!("state {state}, {code:?}"), TIMEOUT, || {
        let seen = SenderStatus::of(client);
        let has_hint = code.is_none() || !seen.hint.is_empty();
        if seen.state == state && seen.code.as_deref() == code && has_hint {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    })
}

/// Checks that the sender has a state for a while.
///
/// # Panics
/// When it leaves the state, with what it says then.
pub fn assert_state_stays(client: &mut Client, state: &str, duration: Duration) {
    assert_stays(state, duration, || {
        let seen = SenderStatus::of(client);
        if seen.state == state {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
}
