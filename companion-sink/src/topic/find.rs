//! One record of a topic.

use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use crate::error::Result;
use crate::kafka::scan::Piece;
use crate::progress::Progress;
use crate::topic::asked::AskedTopic;
use crate::topic::entry::Entry;
use crate::topic::filter::{TopicFilter, Wanted};
use crate::topic::tail::TailSearch;

/// `PARTITION:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl FromStr for RecordPlace {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once(':');
        let place = parts.and_then(|(partition, offset)| {
            Some(RecordPlace {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        });
        place
            .filter(|place| place.partition >= 0 && place.offset >= 0)
            .ok_or_else(|| "write PARTITION:OFFSET, such as 0:133".to_owned())
    }
}

/// The record at a place, or why there is none.
pub(crate) fn at(
    asked: &AskedTopic,
    place: RecordPlace,
) -> Result<std::result::Result<Entry, String>> {
    let RecordPlace { partition, offset } = place;
    let bounds = asked.bounds()?;
    let of_partition = bounds.iter().find(|(at, _)| at.partition == partition);
    let Some((_, range)) = of_partition else {
        let last = asked.partitions - 1;
        return Ok(Err(format!(
            "no partition {partition}: {} has 0 to {last}",
            asked.topic
        )));
    };
    if !range.contains(&offset) {
        return Ok(Err(format!(
            "no record at {partition}:{offset}: the partition has {} up to before {}",
            range.start, range.end
        )));
    }
    let piece = Piece {
        partition,
        from: offset,
        until: range.end,
    };
    let mut first = None;
    asked.scan.visit_pieces(&asked.topic, &[piece], |came| {
        let Some((record, sent_ms)) = came else {
            return ControlFlow::Continue(());
        };
        first = Some(Entry { record, sent_ms });
        ControlFlow::Break(())
    })?;
    Ok(match first {
        Some(entry) if entry.record.offset == offset => Ok(entry),
        first => {
            let next = first
                .map(|next| format!("; the next one is at {partition}:{}", next.record.offset));
            Err(format!(
                "no record at {partition}:{offset}: it was removed by compaction, or a transaction's mark is there{}",
                next.unwrap_or_default()
            ))
        }
    })
}

/// The newest record with this event id; none where there is none, or somebody stopped the search.
pub(crate) fn by_id(asked: &AskedTopic, id: &str, stop: &AtomicBool) -> Result<Option<Entry>> {
    let wanted = Wanted {
        id: Some(id),
        ..Wanted::default()
    };
    let mut search = TailSearch {
        asked,
        filter: &mut TopicFilter::new(wanted)?,
        limit: 1,
        stop,
        progress: Progress::beside_answer("searching", "records"),
    };
    let found = search.run(&asked.bounds()?)?;
    Ok(found.and_then(|mut found| found.pop()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let place = RecordPlace {
            partition: 2,
            offset: 133,
        };
        assert_eq!("2:133".parse(), Ok(place));
        for wrong in ["", "2", "2:", ":3", "a:1", "2:-1", "-1:2", "t:2:3"] {
            assert!(wrong.parse::<RecordPlace>().is_err(), "{wrong}");
        }
    }
}
