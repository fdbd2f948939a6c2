//! The newest records of a topic that are wanted: read backwards from the ends of all partitions, in pieces that grow, until no
//! older one can be among them.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::kafka::scan::Piece;
use crate::progress::Progress;
use crate::topic::asked::{AskedTopic, TopicBounds};
use crate::topic::entry::Entry;
use crate::topic::filter::TopicFilter;
use crate::topic::order::{Rank, newest};

/// Offsets of a piece at most.
const PIECE_MAX: i64 = 50_000;
/// And so many times more of each next one.
const WIDER: i64 = 4;
/// Nobody needs to be told how far it is before.
const LONG: Duration = Duration::from_secs(1);
/// Records between two looks at the clock.
const TOLD_EVERY: u64 = 512;

/// What is looked for.
pub(crate) struct TailSearch<'s> {
    pub(crate) asked: &'s AskedTopic,
    pub(crate) filter: &'s mut TopicFilter,
    /// So many at most.
    pub(crate) limit: usize,
    /// Somebody does not want it any more.
    pub(crate) stop: &'s AtomicBool,
    /// Told how far it is.
    pub(crate) progress: Progress,
}

/// What there is of one partition.
struct TailLane {
    partition: i32,
    begin: i64,
    /// Everything from here to the end was read.
    read_from: i64,
    found: VecDeque<Entry>,
    /// Of the oldest record that was read.
    oldest: Option<Rank>,
    /// Offsets of the next piece.
    next_piece: i64,
    is_done: bool,
}

impl TailSearch<'_> {
    /// The newest wanted records within `bounds`, oldest first; none when somebody stopped it.
    pub(crate) fn run(&mut self, bounds: &TopicBounds) -> Result<Option<Vec<Entry>>> {
        let mut lanes = self.lanes(bounds)?;
        let offsets: i64 = lanes.iter().map(|lane| lane.read_from - lane.begin).sum();
        self.progress.set_total(offsets.unsigned_abs());
        let (began, mut done) = (Instant::now(), 0);
        while lanes.iter().any(|lane| !lane.is_done) {
            if !self.read_round(&mut lanes, began, &mut done)? {
                self.progress.clear();
                return Ok(None);
            }
            self.settle(&mut lanes);
        }
        if began.elapsed() >= LONG {
            self.progress.clear();
        }
        let found = lanes.into_iter().map(|lane| lane.found);
        Ok(Some(newest(found.collect(), self.limit)))
    }

    fn lanes(&self, bounds: &TopicBounds) -> Result<Vec<TailLane>> {
        let begins = self.begins(bounds)?;
        let share = self.limit.div_ceil(bounds.len().max(1)) as i64;
        let lanes = bounds
            .iter()
            .zip(begins)
            .map(|((at, range), begin)| TailLane {
                partition: at.partition,
                begin,
                read_from: range.end,
                found: VecDeque::new(),
                oldest: None,
                // Of some partitions more are wanted than of others, and markers of transactions take offsets.
                next_piece: (2 * share + 8).min(PIECE_MAX),
                is_done: self.limit == 0 || begin >= range.end,
            })
            .collect();
        Ok(lanes)
    }

    /// Where each partition has something that can be wanted.
    fn begins(&self, bounds: &TopicBounds) -> Result<Vec<i64>> {
        let Some(since_ms) = self.filter.sent_since_ms() else {
            return Ok(bounds.iter().map(|(_, range)| range.start).collect());
        };
        let partitions: Vec<TopicPartition> = bounds.iter().map(|(at, _)| at.clone()).collect();
        let found = self.asked.scan.offsets_at(&partitions, since_ms)?;
        let begins = bounds
            .iter()
            .zip(found)
            .map(|((_, range), found)| found.map_or(range.end, |found| found.max(range.start)));
        Ok(begins.collect())
    }

    /// Reads the next piece of each partition that needs one; false when somebody stopped it.
    fn read_round(
        &mut self,
        lanes: &mut [TailLane],
        began: Instant,
        done: &mut u64,
    ) -> Result<bool> {
        let mut fresh: Vec<Fresh> = lanes.iter().map(|_| Fresh::default()).collect();
        let wanted = lanes.iter().filter(|lane| !lane.is_done);
        let pieces: Vec<Piece> = wanted.map(TailLane::piece).collect();
        let place = |partition: i32| lanes.iter().position(|lane| lane.partition == partition);
        let (mut is_stopped, mut records) = (false, 0_u64);
        let before = *done;
        let (filter, limit, stop) = (&mut *self.filter, self.limit, self.stop);
        let progress = &mut self.progress;
        let mut look = |came: Option<(Record, Option<i64>)>| {
            records += 1;
            if records.is_multiple_of(TOLD_EVERY) && began.elapsed() >= LONG {
                progress.show(before + records);
            }
            is_stopped = stop.load(atomic::Ordering::Relaxed);
            if is_stopped {
                return ControlFlow::Break(());
            }
            if let Some((record, sent_ms)) = came
                && let Some(place) = place(record.partition)
            {
                fresh[place].take(Entry { record, sent_ms }, filter, limit);
            }
            ControlFlow::Continue(())
        };
        let (scan, topic) = (&self.asked.scan, &self.asked.topic);
        scan.visit_pieces(topic, &pieces, &mut look)?;
        for (lane, fresh) in lanes.iter_mut().zip(fresh) {
            if !lane.is_done {
                *done += lane.piece().len().unsigned_abs();
                lane.put_before(fresh, limit);
            }
        }
        Ok(!is_stopped)
    }

    /// Forgets what is older than the newest ones that are wanted, and sees which partitions can have none of those further back.
    fn settle(&self, lanes: &mut [TailLane]) {
        let found = lanes.iter_mut().map(|lane| std::mem::take(&mut lane.found));
        let kept = newest(found.collect(), self.limit);
        let is_full = kept.len() >= self.limit;
        let bound = kept.first().filter(|_| is_full).map(Rank::of);
        for entry in kept {
            let partition = entry.record.partition;
            if let Some(lane) = lanes.iter_mut().find(|lane| lane.partition == partition) {
                lane.found.push_back(entry);
            }
        }
        for lane in lanes {
            let is_older = match (&bound, &lane.oldest) {
                (Some(bound), Some(oldest)) => oldest.compare(bound) != Ordering::Greater,
                _ => false,
            };
            lane.is_done |= lane.read_from <= lane.begin || is_older;
        }
    }
}

impl TailLane {
    fn piece(&self) -> Piece {
        Piece {
            partition: self.partition,
            from: (self.read_from - self.next_piece).max(self.begin),
            until: self.read_from,
        }
    }

    /// The piece was read.
    fn put_before(&mut self, fresh: Fresh, limit: usize) {
        self.read_from = self.piece().from;
        self.next_piece = (self.next_piece * WIDER).min(PIECE_MAX);
        self.oldest = fresh.oldest.or(self.oldest.take());
        let mut found = fresh.found;
        found.append(&mut self.found);
        let too_many = found.len().saturating_sub(limit);
        drop(found.drain(..too_many));
        self.found = found;
    }
}

/// What a piece has.
#[derive(Default)]
struct Fresh {
    found: VecDeque<Entry>,
    oldest: Option<Rank>,
}

impl Fresh {
    fn take(&mut self, entry: Entry, filter: &mut TopicFilter, limit: usize) {
        if self.oldest.is_none() {
            self.oldest = Some(Rank::of(&entry));
        }
        if filter.accepts(&entry) {
            self.found.push_back(entry);
            if self.found.len() > limit {
                self.found.pop_front();
            }
        }
    }
}
