//! Where a session begins: what it reads, and what of it is in Kafka already.

use change::code::Code;
use change::position::{Position, lsn_text};
use change::trouble::Trouble;

use crate::files::local_position::LocalPosition;

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
                match known.filter(|known| known.commit_lsn >= position.commit_lsn) {
                    Some(known) => (
                        known.restart_lsn.max(position.restart_lsn),
                        known.commit_lsn,
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
    Trouble::new(
        Code::PositionForeign,
        format!(
            "position {} on timeline {} is not in this server's history, which ends at {} on timeline {}",
            lsn_text(position.commit_lsn),
            position.timeline,
            lsn_text(server.flush_lsn),
            server.timeline
        ),
        format!(
            "The server was restored to an earlier moment or failed over: see {} in docs/errors, then SELECT cdc_adopt('{}').",
            Code::PositionForeign,
            server.source_id
        ),
    )
}

#[cfg(test)]
mod tests {
    use change::position::Events;

    use super::*;

    fn position(commit_lsn: u64, done: u64, of: u64) -> Position {
        Position {
            format: change::position::FORMAT,
            record: change::position::Record::Full,
            source: "s".to_owned(),
            name: "pg".to_owned(),
            generation: 1,
            epoch: 1,
            timeline: 2,
            timeline_start: 0,
            commit_lsn,
            restart_lsn: commit_lsn - 50,
            nonce: String::new(),
            events: Events { done, of },
            effective_ts_us: 0,
            sent_ts_us: 0,
            heartbeat_ms: 0,
            node: String::new(),
            cluster_id: String::new(),
            ends: Default::default(),
            aside: Default::default(),
            part: None,
            full: None,
            mac: String::new(),
        }
    }

    fn known(timeline: u32, commit_lsn: u64, restart_lsn: u64) -> LocalPosition {
        LocalPosition {
            timeline,
            commit_lsn,
            restart_lsn,
            ..LocalPosition::default()
        }
    }

    /// Where reading begins, what is done, and the part.
    type Found = (u64, u64, Option<(u64, u64)>);

    fn after(
        position: Option<&Position>,
        remembered: Option<&LocalPosition>,
        generation: u16,
    ) -> Result<Found, Trouble> {
        let server = Server {
            source_id: "s",
            generation,
            timeline: 2,
            flush_lsn: 1000,
            slot_lsn: 10,
            remembered,
        };
        let point = StartingPoint::after(position, &server)?;
        Ok((point.start_lsn, point.done_lsn, point.part))
    }

    #[test]
    fn without_a_position_nothing_is_done_and_reading_begins_where_wal_was_first_held() {
        assert_eq!(after(None, None, 1), Ok((10, 0, None)));
        assert_eq!(after(None, Some(&known(2, 0, 70)), 1), Ok((70, 0, None)));
        // Of another timeline.
        assert_eq!(after(None, Some(&known(1, 0, 70)), 1), Ok((10, 0, None)));
    }

    #[test]
    fn a_position_says_what_is_done_and_where_reading_begins() {
        let whole = position(500, 3, 3);
        assert_eq!(after(Some(&whole), None, 1), Ok((450, 500, None)));
        let part = position(500, 2, 3);
        assert_eq!(after(Some(&part), None, 1), Ok((450, 499, Some((500, 2)))));
    }

    #[test]
    fn what_the_server_remembers_counts_on_this_timeline_only() {
        let whole = position(500, 3, 3);
        // There was nothing to send behind it.
        let newer = known(2, 500, 590);
        assert_eq!(after(Some(&whole), Some(&newer), 1), Ok((590, 500, None)));
        let older = known(2, 400, 390);
        assert_eq!(after(Some(&whole), Some(&older), 1), Ok((450, 500, None)));
        let other = known(1, 500, 590);
        assert_eq!(after(Some(&whole), Some(&other), 1), Ok((450, 500, None)));
    }

    #[test]
    fn a_position_of_another_history_halts_until_somebody_adopts_the_server() {
        let beyond = position(2000, 3, 3);
        let mut elsewhere = position(500, 3, 3);
        elsewhere.timeline = 3;
        for foreign in [beyond, elsewhere] {
            let refused = after(Some(&foreign), None, 1);
            assert_eq!(
                refused.map_err(|trouble| trouble.code),
                Err(Code::PositionForeign)
            );
            assert_eq!(after(Some(&foreign), None, 2), Ok((10, 0, None)));
        }
    }
}
