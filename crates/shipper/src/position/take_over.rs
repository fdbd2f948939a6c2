//! What a sender that takes over makes of the positions that it found.

use change::code::Code;
use change::position::{Position, Record, lsn_text};
use change::trouble::Trouble;

use super::write_error::WriteError;
use crate::files::local_position::LocalPosition;
use crate::session::Session;

/// Every position record that was looked at.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) own: Vec<Position>,
    /// Source id and node of another source that writes there.
    pub(crate) stranger: Option<(String, String)>,
}

/// What holds for the new sender.
pub(crate) struct Claim {
    /// The newest position, with the ends of every partition.
    pub(crate) newest: Option<Position>,
    pub(crate) epoch: u64,
}

/// Whether the name is another source's, which must not be fenced: CDC0406.
pub(crate) fn refuse_stranger(session: &Session, found: &Found) -> Result<(), WriteError> {
    let Some((source, node)) = &found.stranger else {
        return Ok(());
    };
    Err(WriteError::Never(Trouble::new(
        Code::SourceNameTaken,
        format!(
            "source name \"{}\" is taken: topic \"{}\" holds positions of source {source} on \"{node}\", this is source {}",
            session.settings.source_name,
            session.position_topic(),
            session.owner.source_id
        ),
        "Give one of the two servers another cdc.source_name and restart it.",
    )))
}

/// The newest position, unless Kafka has lost it, and a higher epoch than any that was there. Earlier senders are fenced:
/// nothing comes after what was `found`.
pub(crate) fn claim(
    session: &Session,
    cluster_id: &str,
    found: &Found,
) -> Result<Claim, WriteError> {
    let newest = newest(&found.own);
    let remembered = session.owner.remembered.as_ref();
    if let Some(why) = remembered.and_then(|known| lost(known, cluster_id, newest.as_ref())) {
        return Err(WriteError::Never(Trouble::new(
            Code::PositionNotTrusted,
            format!("position topic \"{}\" {why}", session.position_topic()),
            format!(
                "Correct cdc.brokers, or restore the topic. If Kafka has really lost it, SELECT cdc_adopt('{}') and repair with cdc_snapshot().",
                session.owner.source_id
            ),
        )));
    }
    let found = found.own.iter().map(|position| position.epoch);
    let highest = found.chain(remembered.map(|known| known.epoch)).max();
    Ok(Claim {
        newest,
        epoch: highest.unwrap_or(0) + 1,
    })
}

/// Why Kafka cannot be the one that the position was written to: it never has less than what is remembered.
fn lost(known: &LocalPosition, cluster_id: &str, newest: Option<&Position>) -> Option<String> {
    let is_another =
        !known.cluster_id.is_empty() && !cluster_id.is_empty() && known.cluster_id != cluster_id;
    match newest {
        _ if is_another => Some(format!(
            "is in cluster {cluster_id}, the position was in cluster {}",
            known.cluster_id
        )),
        None if !known.was_recorded() => None,
        None => Some(format!(
            "has no position, though {} was recorded there",
            lsn_text(known.commit_lsn)
        )),
        Some(newest) if newest.rank() < known.rank() => Some(format!(
            "has gone back: its newest position is {} of epoch {}, {} of epoch {} was recorded there",
            lsn_text(newest.commit_lsn),
            newest.epoch,
            lsn_text(known.commit_lsn),
            known.epoch
        )),
        Some(_) => None,
    }
}

/// The newest position, with the ends of the full record that it adds to.
pub(crate) fn newest(positions: &[Position]) -> Option<Position> {
    let newest = positions
        .iter()
        .max_by_key(|position| position.progress())?;
    let full = positions
        .iter()
        .filter(|position| position.record == Record::Full)
        .max_by_key(|position| position.progress());
    let mut ends = full.map(|full| full.ends.clone()).unwrap_or_default();
    ends.extend(newest.ends.clone());
    Some(Position {
        record: Record::Full,
        ends,
        full: None,
        ..newest.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(cluster_id: &str, epoch: u64, commit_lsn: u64) -> LocalPosition {
        LocalPosition {
            cluster_id: cluster_id.to_owned(),
            epoch,
            timeline: 1,
            commit_lsn,
            restart_lsn: commit_lsn,
        }
    }

    #[test]
    fn a_position_that_is_gone_or_in_another_cluster_is_missed() {
        assert_eq!(lost(&known("", 0, 0), "here", None), None);
        assert!(lost(&known("here", 1, 5), "here", None).is_some());
        // Not every broker tells its cluster.
        assert!(lost(&known("", 0, 0), "", None).is_none());
        assert!(lost(&known("there", 0, 0), "here", None).is_some());
    }
}
