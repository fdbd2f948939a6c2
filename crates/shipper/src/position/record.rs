//! The records that say how far events are acknowledged: what the newest had, and what the next one has to add.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::code::Code;
use change::hex::hex;
use change::position::{Ends, Events, FORMAT, Key, Position, Record};
use change::trouble::Trouble;
use change::value::datetime::EPOCH_US;

use super::take_over::Claim;
use super::write_error::WriteError;
use crate::clock::unix_us;
use crate::facts::Durable;
use crate::progress::Progress;
use crate::session::Session;

/// A record with every partition is written at least this often, if anything was; for each of its parts, if it has several.
const FULL_EVERY: Duration = Duration::from_secs(5);
/// What the topics take in one record: a broker takes 1 MB by default.
const PART_BYTES: usize = 400_000;
/// Makes the position's records, for a sender that has taken it over.
pub(crate) struct RecordMaker<'a> {
    session: &'a Session,
    cluster_id: String,
    epoch: u64,
    /// The newest position, but for the ends.
    last: Option<Position>,
    /// Of every partition, as far as they are known now: the newest position has them, or the next one.
    ends: BTreeMap<String, Ends>,
    /// Topics whose ends changed since the last full record.
    changed: BTreeSet<String>,
    /// Topics were forgotten since then: no other record can say so.
    forgot: bool,
    /// When the last full record was written, its LSN, and how many parts it had.
    last_full: Option<(Instant, u64, u32)>,
}

/// A position that is ready to be sent.
pub(crate) struct Prepared {
    /// Keys and values of its records.
    records: Vec<(Vec<u8>, Vec<u8>)>,
    /// But for the ends.
    position: Position,
    is_full: bool,
}

impl Prepared {
    /// Keys and values.
    pub(crate) fn records(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.records
    }
}

impl<'a> RecordMaker<'a> {
    /// Goes on after what was found when the position was taken over.
    pub(crate) fn new(session: &'a Session, cluster_id: String, claim: &Claim) -> RecordMaker<'a> {
        let newest = claim.newest.as_ref();
        RecordMaker {
            session,
            cluster_id,
            epoch: claim.epoch,
            ends: newest.map(|newest| newest.ends.clone()).unwrap_or_default(),
            last: newest.map(|newest| Position {
                ends: BTreeMap::new(),
                ..newest.clone()
            }),
            changed: BTreeSet::new(),
            forgot: false,
            last_full: None,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether positions have topics whose tables are not tracked any more.
    pub(super) fn has_untracked(&self) -> bool {
        self.ends.values().any(|ends| ends.untracked)
    }

    /// Forgets the untracked topics that are not there; returns their names.
    pub(super) fn forget_untracked(&mut self, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        let gone = |(topic, ends): &(&String, &Ends)| ends.untracked && !is_there(topic);
        let gone = self
            .ends
            .iter()
            .filter(gone)
            .map(|(topic, _)| topic.clone());
        let gone: Vec<String> = gone.collect();
        for topic in &gone {
            self.ends.remove(topic);
            self.forgot = true;
        }
        gone
    }

    /// The progress of a sender that has nothing new to tell.
    pub(crate) fn last_progress(&self) -> Option<Progress> {
        let last = self.last.as_ref()?;
        Some(Progress {
            timeline: last.timeline,
            restart_lsn: last.restart_lsn,
            done: None,
            forget: Vec::new(),
        })
    }

    /// The records that say so much.
    pub(crate) fn prepare(&mut self, progress: &Progress) -> Result<Prepared, WriteError> {
        self.take_ends(progress);
        let position = self.position(progress);
        let full = self
            .last_full
            .filter(|(at, _, parts)| at.elapsed() < FULL_EVERY * (*parts).max(1) && !self.forgot);
        let record = match full {
            None => Position {
                ends: self.ends.clone(),
                ..position.clone()
            },
            // With only those ends that changed since the last full record.
            Some((_, full_lsn, _)) => Position {
                record: Record::Tip,
                full: Some(full_lsn),
                ends: self
                    .changed
                    .iter()
                    .filter_map(|topic| Some((topic.clone(), self.ends.get(topic)?.clone())))
                    .collect(),
                ..position.clone()
            },
        };
        let sealed = record.split(PART_BYTES).into_iter().map(|part| {
            let key = Key {
                record: part.record,
                source: part.source.clone(),
                part: part.part.map_or(0, |part| part.number),
            };
            Ok((serde_json::to_vec(&key)?, part.seal(&self.session.key)?))
        });
        let records = sealed.collect::<Result<Vec<_>, serde_json::Error>>();
        let records = records.map_err(|error| {
            WriteError::Never(Trouble::new(
                Code::PositionNotTrusted,
                format!("the position cannot be written as JSON: {error}"),
                "Report this.",
            ))
        })?;
        Ok(Prepared {
            records,
            position,
            is_full: full.is_none(),
        })
    }

    /// The record is in Kafka for good; `number` is that of the newest progress in it.
    pub(crate) fn written(&mut self, prepared: Prepared, number: u64) {
        let Prepared {
            position,
            is_full,
            records,
        } = prepared;
        let durable = Durable {
            number,
            cluster_id: self.cluster_id.clone(),
            epoch: position.epoch,
            timeline: position.timeline,
            commit_lsn: position.complete_lsn(),
            restart_lsn: position.restart_lsn,
        };
        if is_full {
            self.last_full = Some((Instant::now(), position.commit_lsn, records.len() as u32));
            self.changed.clear();
            self.forgot = false;
        }
        self.last = Some(position);
        self.session.board.tell(|facts| {
            facts.durable = Some(durable);
            facts.went_through();
        });
    }

    /// Takes in the ends after `progress`: they only ever rise. Should the position not be written, they are taken in once more.
    fn take_ends(&mut self, progress: &Progress) {
        for topic in &progress.forget {
            self.forgot |= self.ends.remove(topic).is_some();
            self.changed.remove(topic);
        }
        let done = progress.done.as_ref();
        for (topic, newer) in done.iter().flat_map(|done| &done.ends) {
            match self.ends.get_mut(topic).filter(|known| {
                known.topic_id == newer.topic_id && known.partitions == newer.partitions
            }) {
                Some(known) => {
                    known
                        .end
                        .iter_mut()
                        .zip(&newer.end)
                        .for_each(|(end, newer)| *end = (*end).max(*newer));
                    (known.database, known.untracked) = (newer.database, newer.untracked);
                    known.control.clone_from(&newer.control);
                }
                None => {
                    self.ends.insert(topic.clone(), newer.clone());
                }
            }
            if !self.changed.contains(topic) {
                self.changed.insert(topic.clone());
            }
        }
    }

    /// The position after `progress`, but for the ends: the effective time only ever rises.
    fn position(&self, progress: &Progress) -> Position {
        let last = self.last.as_ref();
        let done = progress.done.as_ref();
        let asides = self
            .session
            .board
            .with_facts(|facts| Arc::clone(&facts.asides));
        let (commit_lsn, nonce, events, commit_ts_us) = match (done, last) {
            (Some(done), _) => (
                done.commit_lsn,
                hex(&done.nonce),
                done.events,
                done.commit_us + EPOCH_US,
            ),
            (None, Some(last)) => (
                last.commit_lsn,
                last.nonce.clone(),
                last.events,
                last.effective_ts_us,
            ),
            (None, None) => (0, String::new(), Events::default(), 0),
        };
        Position {
            format: FORMAT,
            record: Record::Full,
            source: self.session.owner.source_id.clone(),
            name: self.session.settings.source_name.clone(),
            generation: self.session.owner.generation,
            epoch: self.epoch,
            timeline: progress.timeline,
            timeline_start: self.session.owner.timeline_start,
            commit_lsn,
            restart_lsn: progress.restart_lsn,
            nonce,
            events,
            effective_ts_us: last
                .map_or(commit_ts_us, |last| last.effective_ts_us.max(commit_ts_us)),
            sent_ts_us: unix_us(),
            heartbeat_ms: self.session.settings.heartbeat_ms,
            node: self.session.owner.node.clone(),
            cluster_id: self.cluster_id.clone(),
            ends: BTreeMap::new(),
            aside: asides.as_ref().clone(),
            part: None,
            full: None,
            mac: String::new(),
        }
    }
}
