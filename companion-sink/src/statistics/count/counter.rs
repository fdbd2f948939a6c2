//! Counts events: what each changes of the figures.

use change::trouble::Trouble;

use crate::error::Result;
use crate::event::own::is_plain;
use crate::event::snapshot::SnapshotBody;
use crate::event::{Headers, Op};
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, NotApplied};
use crate::sink::unreadable_snapshot;
use crate::statistics::count::contribution::{Contribution, CountedRow};
use crate::statistics::count::counting::{add, is_there, take};
use crate::statistics::count::design::Design;
use crate::statistics::count::found::Found;
use crate::statistics::count::snapshots;
use crate::statistics::count::topics::{Topic, Topics};
use crate::statistics::kept::changes::Changes;
use crate::statistics::kept::keys;
use crate::statistics::kept::keys::TopicNumber;
use crate::statistics::kept::store::damaged;

/// Counts events, one after the other.
pub(crate) struct Counter {
    /// What is counted.
    pub(crate) design: Design,
    /// Of what.
    pub(crate) topics: Topics,
    /// Changes of rows, of tables without a key, that were not there.
    pub(crate) unknown_rows: u64,
}

impl Counter {
    /// Knows no topic yet.
    pub(crate) fn new(design: Design) -> Counter {
        Counter {
            design,
            topics: Topics::default(),
            unknown_rows: 0,
        }
    }

    /// Counts an event, unless it is refused: then its row does not count until its next event.
    pub(crate) fn count(
        &mut self,
        changes: &mut Changes,
        record: &Record,
        refusal: Option<Failure>,
    ) -> std::result::Result<(), NotApplied> {
        if is_plain(record) && !self.is_of_table(record) {
            return match record.value() {
                // What it says is that events may go from the topic.
                None => Ok(()),
                Some(_) => self.count_own(changes, record, refusal),
            };
        }
        let headers = Headers::read(record)?;
        if record.is_disbelieved {
            return Err(Failure::unbelievable().into());
        }
        match headers.op {
            Op::Tombstone => Ok(()),
            Op::Schema => Ok(self.topics.learn(changes, record)??),
            Op::Snapshot => {
                let body = SnapshotBody::parse(record)?;
                if body.is_chunk_end() {
                    let topic = self.topics.of(changes, &record.topic)?;
                    snapshots::keep(changes, topic, &body);
                }
                Ok(())
            }
            Op::Truncate => Ok(self.empty(changes, record)?),
            Op::Emit => self.count_own(changes, record, refusal),
            Op::Create | Op::Update | Op::Delete | Op::Read => {
                let identity = headers.identity.map(str::as_bytes);
                match identity.or(record.key()) {
                    Some(key) => self.count_row(changes, record, &headers, key, refusal),
                    None => self.count_without_key(changes, record, headers.op, refusal),
                }
            }
        }
    }

    /// Whether a topic is a table's, whose sender writes every event.
    fn is_of_table(&self, record: &Record) -> bool {
        let topic = self.topics.get(&record.topic);
        topic.is_some_and(Topic::is_of_table)
    }

    /// An application's own event, which is never taken back.
    fn count_own(
        &mut self,
        changes: &mut Changes,
        record: &Record,
        refusal: Option<Failure>,
    ) -> std::result::Result<(), NotApplied> {
        if let Some(refusal) = refusal {
            return Err(refusal.into());
        }
        let topic = self.topics.of(changes, &record.topic)?;
        let found = Found::own(record)?;
        let types = |column: &str| topic.type_of(column);
        if let Some(counted) = self.design.contribution(&found, &types)? {
            add(changes, &self.design, topic.number, &counted)?;
        }
        Ok(())
    }

    /// A row counts as it is after its newest event.
    fn count_row(
        &mut self,
        changes: &mut Changes,
        record: &Record,
        headers: &Headers<'_>,
        key: &[u8],
        refusal: Option<Failure>,
    ) -> std::result::Result<(), NotApplied> {
        let topic = self.topics.of(changes, &record.topic)?;
        let number = topic.number;
        let row_key = keys::row(number, key);
        let known = changes.get(&row_key)?;
        let known = known.as_deref().map(CountedRow::read);
        let known = known.transpose().map_err(damaged)?;
        let is_old = |known: &CountedRow| known.version.as_str() >= headers.version;
        if known.as_ref().is_some_and(is_old) {
            return Ok(());
        }
        let now = match (headers.op, refusal) {
            (Op::Delete, Some(refusal)) => return Err(refusal.into()),
            (Op::Delete, None) => Ok(None),
            (_, Some(refusal)) => Err(refusal),
            (_, None) => after(&self.design, topic, record),
        };
        let now = now.map(|now| {
            now.map(|mut now| {
                // A snapshot changes nothing: its commit is not the row's.
                if headers.op == Op::Read
                    && self.design.is_by_commit()
                    && let Some(known) = &known
                {
                    now.period = known.contribution.period;
                }
                now
            })
        });
        let design = &self.design;
        let is_same =
            matches!((&known, &now), (Some(known), Ok(Some(now))) if known.contribution == *now);
        if let Some(known) = known
            && !is_same
        {
            take(changes, design, number, &known.contribution)?;
            changes.remove(row_key.clone());
        }
        let Some(contribution) = now? else {
            return Ok(());
        };
        if !is_same {
            add(changes, design, number, &contribution)?;
        }
        let row = CountedRow {
            version: headers.version.to_owned(),
            contribution,
        };
        changes.set(row_key, row.bytes());
        Ok(())
    }

    /// A row of a table without a key: one like it is taken away, for nobody knows which it was.
    fn count_without_key(
        &mut self,
        changes: &mut Changes,
        record: &Record,
        op: Op,
        refusal: Option<Failure>,
    ) -> std::result::Result<(), NotApplied> {
        if let Some(refusal) = refusal {
            return Err(refusal.into());
        }
        let topic = self.topics.of(changes, &record.topic)?;
        let number = topic.number;
        let snapshot = topic.snapshot.as_ref();
        if op == Op::Read && !snapshot.is_some_and(|snapshot| snapshot.is_first) {
            return Ok(());
        }
        let takes = matches!(op, Op::Update | Op::Delete);
        if takes && self.design.is_by_commit() {
            return Err(Failure::refused(
                "a row without a key cannot be found by the time of its commit: set time to a column, or give the table a key".into(),
            )
            .into());
        }
        let types = |column: &str| topic.type_of(column);
        let now = match op {
            Op::Delete => None,
            _ => after(&self.design, topic, record)?,
        };
        if takes {
            let found = Found::before(record)?;
            if let Some(before) = self.design.contribution(&found, &types)? {
                if !is_there(changes, &self.design, number, &before)? {
                    self.unknown_rows += 1;
                    return Ok(());
                }
                take(changes, &self.design, number, &before)?;
            }
        }
        if let Some(now) = now {
            add(changes, &self.design, number, &now)?;
        }
        Ok(())
    }

    /// Takes everything of a topic away.
    pub(crate) fn empty(&mut self, changes: &mut Changes, record: &Record) -> Result<()> {
        let topic = self.topics.of(changes, &record.topic)?;
        let number = topic.number;
        for prefix in keys::contents(number) {
            changes.remove_all(&prefix)?;
        }
        remove_cells(changes, number)
    }

    /// Does what the beginning or the end of a snapshot says.
    pub(crate) fn note_snapshot(&mut self, changes: &mut Changes, record: &Record) -> Result<u64> {
        let headers = Headers::read(record).map_err(unreadable_snapshot)?;
        let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
        let topic = self.topics.of(changes, &record.topic)?;
        if body.is_beginning() {
            snapshots::begin(changes, topic, &body, headers.version)?;
        }
        match body.is_end() {
            true => snapshots::end(changes, &self.design, topic, &body),
            false => Ok(0),
        }
    }
}

fn after(
    design: &Design,
    topic: &Topic,
    record: &Record,
) -> std::result::Result<Option<Contribution>, Failure> {
    let types = |column: &str| topic.type_of(column);
    design.contribution(&Found::after(record)?, &types)
}

fn remove_cells(changes: &mut Changes, topic: TopicNumber) -> Result<()> {
    let mut found = Vec::new();
    changes.before().each(&keys::cells(), |key, _| {
        let (_, _, of) = keys::cell_of(key).map_err(damaged)?;
        if of == topic {
            found.push(key.to_vec());
        }
        Ok::<_, Trouble>(())
    })?;
    for key in found {
        changes.remove(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
