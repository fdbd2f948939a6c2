//! Where in each partition a replay from the middle begins: at the first commit at or after a place, whose events are all
//! still there. Blocks: for threads that may wait.

use std::collections::HashMap;
use std::ops::ControlFlow;

use change::trouble::Trouble;
use change::version::{Place, Version};

use crate::error::{Code, Result, misconfigured};
use crate::event::commit_time_us;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::kafka::scan::Scan;
use crate::replay::beginning::From;
use crate::sink::batch::Position;
use crate::timestamp::rfc3339;

/// A record is sent after its commit, by another clock perhaps: so much earlier it is looked for.
const CLOCK_DIFFERENCE_MS: i64 = 60_000;

/// A partition, its first offset and its end.
pub(crate) type Bounds = (TopicPartition, (i64, i64));

/// Where a replay begins.
pub(crate) struct Start {
    /// The offset in each partition, with the highest version before.
    pub(crate) positions: HashMap<TopicPartition, Position>,
    /// The commit; none for the beginning.
    pub(crate) place: Option<Place>,
    /// The commit, for people.
    pub(crate) text: String,
}

/// The first commit of a replay.
struct First {
    place: Place,
    time_us: i64,
}

/// Finds where to begin.
pub(crate) fn find(scan: &Scan, from: &From, partitions: &[Bounds]) -> Result<Start> {
    let all: Vec<TopicPartition> = partitions.iter().map(|(at, _)| at.clone()).collect();
    let (first, lower) = match from {
        From::Beginning => {
            return Ok(Start {
                positions: HashMap::new(),
                place: None,
                text: from.to_string(),
            });
        }
        From::Time(time_us) => {
            let lower = lower_bounds(scan, &all, *time_us)?;
            (first_at(scan, partitions, &lower, *time_us)?, lower)
        }
        From::Offset {
            topic,
            partition,
            offset,
        } => {
            let first = first_of(scan, partitions, (topic, *partition, *offset))?;
            (Some(first.0), lower_bounds(scan, &all, first.1)?)
        }
    };
    let mut first = first.ok_or_else(|| nothing_there(from))?;
    if let Some(torn) = last_torn(scan, partitions)?
        && first.place <= torn
    {
        first = first_after(scan, partitions, torn)?.ok_or_else(|| nothing_there(from))?;
    }
    let mut positions = HashMap::new();
    for ((at, (low, high)), lower) in partitions.iter().zip(lower) {
        let from = lower.map_or(*high, |lower| lower.max(*low));
        positions.insert(at.clone(), position(scan, at, (from, *high), first.place)?);
    }
    Ok(Start {
        positions,
        place: Some(first.place),
        text: format!("{} ({})", first.place, rfc3339(first.time_us)),
    })
}

/// An offset in each partition that no commit at or after a time is before; `None` where there is nothing that late.
fn lower_bounds(
    scan: &Scan,
    partitions: &[TopicPartition],
    time_us: i64,
) -> Result<Vec<Option<i64>>> {
    scan.offsets_at(partitions, time_us.div_euclid(1000) - CLOCK_DIFFERENCE_MS)
}

/// The first commit at or after a time.
fn first_at(
    scan: &Scan,
    partitions: &[Bounds],
    lower: &[Option<i64>],
    time_us: i64,
) -> Result<Option<First>> {
    let mut first = None;
    for ((at, (low, high)), lower) in partitions.iter().zip(lower) {
        if let Some(lower) = lower {
            let is_late = |record: &Record| commit_time_us(record).is_some_and(|at| at >= time_us);
            let found = first_where(scan, at, (*low.max(lower), *high), is_late)?;
            first = earlier(first, found);
        }
    }
    Ok(first)
}

/// The commit of the event at an offset.
fn first_of(
    scan: &Scan,
    partitions: &[Bounds],
    (topic, partition, offset): (&str, i32, i64),
) -> Result<(First, i64)> {
    let known = partitions
        .iter()
        .find(|(at, _)| *at.topic == *topic && at.partition == partition);
    let Some((at, (low, high))) = known else {
        return Err(misconfigured(
            format!("the sink does not follow {topic}, partition {partition}"),
            "Name one of its topics: `companion-sink config` shows them.",
        ));
    };
    if offset < *low || offset >= *high {
        return Err(Trouble::new(
            Code::LogTruncated,
            format!(
                "topic {topic}-{partition} has the offsets {low} to {}",
                high - 1
            ),
            "Name one of them.",
        ));
    }
    let found = first_where(scan, at, (offset, *high), |_| true)?;
    let found = found.ok_or_else(|| {
        misconfigured(
            format!("there is no event at or after offset {offset} of {topic}-{partition}"),
            "Name an earlier one.",
        )
    })?;
    let time_us = found.time_us;
    Ok((found, time_us))
}

/// The last commit of which a part may be cut off: the first one that a partition has which was cut.
fn last_torn(scan: &Scan, partitions: &[Bounds]) -> Result<Option<Place>> {
    let mut torn = None;
    for (at, (low, high)) in partitions.iter().filter(|(_, (low, _))| *low > 0) {
        let found = first_where(scan, at, (*low, *high), |_| true)?;
        torn = torn.max(found.map(|first| first.place));
    }
    Ok(torn)
}

/// The first commit after another one.
fn first_after(scan: &Scan, partitions: &[Bounds], place: Place) -> Result<Option<First>> {
    let mut first = None;
    for (at, bounds) in partitions {
        let is_after = |record: &Record| place_of(record).is_some_and(|at| at > place);
        first = earlier(first, first_where(scan, at, *bounds, is_after)?);
    }
    Ok(first)
}

/// Where the events of `place` and later ones begin in a partition.
fn position(
    scan: &Scan,
    at: &TopicPartition,
    (from, high): (i64, i64),
    place: Place,
) -> Result<Position> {
    // Control events of before have been done, wherever they are.
    let before = Version {
        generation: place.generation,
        timeline: place.timeline,
        commit_lsn: place.commit_lsn,
        ..Version::default()
    };
    let mut position = Position {
        next_offset: high,
        version: before.to_string(),
    };
    if from < high {
        scan.visit(at, from, |record| {
            if place_of(&record).is_some_and(|at| at >= place) {
                position.next_offset = record.offset;
                return ControlFlow::Break(());
            }
            is_before(high, &record)
        })?;
    }
    Ok(position)
}

/// The first event that `counts`, of a partition between two offsets.
fn first_where(
    scan: &Scan,
    at: &TopicPartition,
    (from, high): (i64, i64),
    counts: impl Fn(&Record) -> bool,
) -> Result<Option<First>> {
    let mut first = None;
    if from >= high {
        return Ok(None);
    }
    scan.visit(at, from, |record| {
        if let Some(place) = place_of(&record)
            && let Some(time_us) = commit_time_us(&record)
            && counts(&record)
        {
            first = Some(First { place, time_us });
            return ControlFlow::Break(());
        }
        is_before(high, &record)
    })?;
    Ok(first)
}

/// Whether anything follows before `high`.
fn is_before(high: i64, record: &Record) -> ControlFlow<()> {
    match record.offset + 1 < high {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}

fn place_of(record: &Record) -> Option<Place> {
    let version = record.version().and_then(Version::parse)?;
    Some(version.place())
}

fn earlier(one: Option<First>, other: Option<First>) -> Option<First> {
    match (one, other) {
        (Some(one), Some(other)) if other.place < one.place => Some(other),
        (one, other) => one.or(other),
    }
}

fn nothing_there(from: &From) -> Trouble {
    misconfigured(
        format!("the sink's topics have no whole commit at or after {from}"),
        "Name an earlier place: there is nothing to replay.",
    )
}

/// The thread that searched is gone.
pub(crate) fn ended(error: &tokio::task::JoinError) -> Trouble {
    Trouble::new(
        Code::Unreachable,
        format!("the search for the beginning ended: {error}"),
        "Report this with the log.",
    )
}
