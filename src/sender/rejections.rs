//! Forged messages in the log: anybody who can connect may write them into the WAL, so many of them share a line.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use change::code::Code;
use change::trouble::Trouble;
use change::wal::assembly::Rejected;

use crate::report::Raise;

/// A database has one line in this time.
const ONE_LINE_EVERY: Duration = Duration::from_secs(1);

/// What was rejected and is not in the log yet.
#[derive(Default)]
pub(crate) struct Rejections {
    by_database: HashMap<u32, Since>,
}

/// Since the database's last line.
struct Since {
    told_at: Instant,
    count: u64,
    newest: String,
}

impl Rejections {
    /// Says so in the log, or counts it for the next line.
    pub(crate) fn tell(&mut self, rejected: &Rejected) {
        match self.by_database.get_mut(&rejected.database_oid) {
            // Without words: there may be millions.
            Some(since) if since.told_at.elapsed() < ONE_LINE_EVERY => {
                if since.count == 0 {
                    since.newest = rejected.to_string();
                }
                since.count += 1;
            }
            _ => {
                let before = self.by_database.insert(
                    rejected.database_oid,
                    Since {
                        told_at: Instant::now(),
                        count: 0,
                        newest: String::new(),
                    },
                );
                let count = before.map_or(0, |since| since.count);
                log(count + 1, &rejected.to_string());
            }
        }
    }

    /// Says what was counted and has waited long enough; forgets databases of which nothing more came.
    pub(crate) fn tend(&mut self) {
        if self.by_database.is_empty() {
            return;
        }
        self.by_database.retain(|_, since| {
            if since.told_at.elapsed() < ONE_LINE_EVERY {
                return true;
            }
            let (count, newest) = (since.count, std::mem::take(&mut since.newest));
            (since.told_at, since.count) = (Instant::now(), 0);
            if count > 0 {
                log(count, &newest);
            }
            count > 0
        });
    }
}

/// CDC0205.
fn log(count: u64, one: &str) {
    let message = match count {
        1 => "forged or replayed message ignored".to_owned(),
        _ => format!("{count} forged or replayed messages ignored"),
    };
    Trouble::new(
        Code::MessageForged,
        message,
        "Find who calls pg_logical_emit_message with the prefix pg_cdc.",
    )
    .detail(one)
    .log();
}
