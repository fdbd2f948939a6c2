//! Where a session begins: what it reads, and what of it is in Kafka already.

use change::position::{Position, lsn_text};

use crate::files::local_position::LocalPosition;
use crate::trouble::Trouble;

/// The server, as it is when a session begins.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    pub source_id: &'a str,
    pub generation: u16,
    pub timeline: u32,
    pub flush_lsn: u64,
    /// Where the WAL that is held begins.
    pub slot_lsn: u64,
    /// What it remembers of the position.
    pub remembered: Option<&'a LocalPosition>,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartingPoint {
    /// Reading begins here.
    pub start_lsn: u64,
    /// What committed up to here is in Kafka; 0 if nothing is.
    pub done_lsn: u64,
    /// A transaction that is there in part: where it committed, and how many of its events are there.
    pub part: Option<(u64, u64)>,
}

impl StartingPoint {
    /// After the position that was found, if any.
    ///
    /// # Errors
    /// CDC0407 where the position is not of this server's history.
    pub fn after(
        position: Option<&Position>,
        server: &Server<'_>,
    ) -> Result<StartingPoint, Trouble> {
        let known = server.remembered;
        let known = known.filter(|known| known.timeline == server.timeline);
        let (start_lsn, done_lsn) = match position {
            // Nothing was ever sent: from where the WAL was first held.
            None => (known.map_or(server.slot_lsn, |known| known.restart_lsn), 0),
            Some(position) if is_in_history(position, server) => {
                match known.filter(|known| known.acknowledged_lsn >= position.commit_lsn) {
                    Some(known) => (
                        known.restart_lsn.max(position.restart_lsn),
                        known.acknowledged_lsn,
                    ),
                    None => (position.restart_lsn, position.complete_lsn()),
                }
            }
            // Somebody said that this server is the source all the same.
            Some(position) if position.generation < server.generation => (server.slot_lsn, 0),
            Some(position) => return Err(foreign(position, server)),
        };
        let part = position
            .filter(|position| done_lsn != 0 && done_lsn < position.commit_lsn)
            .map(|position| (position.commit_lsn, position.events.done));
        Ok(StartingPoint {
            start_lsn,
            done_lsn,
            part,
        })
    }
}

/// Whether this server wrote what the position was recorded for.
fn is_in_history(position: &Position, server: &Server<'_>) -> bool {
    position.timeline == server.timeline
        && position.commit_lsn <= server.flush_lsn
        && position.restart_lsn <= server.flush_lsn
}

/// CDC0407.
fn foreign(position: &Position, server: &Server<'_>) -> Trouble {
    Trouble {
        code: "CDC0407",
        message: format!(
            "position {} on timeline {} is not in this server's history, which ends at {} on timeline {}",
            lsn_text(position.commit_lsn),
            position.timeline,
            lsn_text(server.flush_lsn),
            server.timeline
        ),
        remedy: format!(
            "The server was restored to an earlier moment or failed over: see CDC0407 in docs/errors, then SELECT cdc_adopt('{}').",
            server.source_id
        ),
    }
}
