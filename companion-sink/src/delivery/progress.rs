//! Whether all partitions of a topic have reached an event about the whole table, of which each has a copy.

use change::trouble::Trouble;

use crate::error::Code;
use crate::kafka::record::Record;

/// Where a partition stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stand<'s> {
    /// The partition's number.
    pub(crate) partition: i32,
    /// The version of the event at which it is held, else the highest one that was applied there.
    pub(crate) version: &'s str,
    /// Whether it is held.
    pub(crate) is_held: bool,
}

/// How the partitions of a topic have reached an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// All are at it.
    Together,
    /// Some are past it, of which this is one: its log was cut, or the process ended between the writing of two positions,
    /// where the target does not write them as one.
    Apart { past: i32 },
}

/// How the event of `version` was reached; `None` while a partition has not come to it.
pub(crate) fn reached<'s>(
    version: &str,
    stands: impl Iterator<Item = Stand<'s>>,
) -> Option<Reached> {
    let mut reached = Reached::Together;
    for stand in stands {
        if stand.version < version {
            return None;
        }
        if stand.version > version || !stand.is_held {
            reached = Reached::Apart {
                past: stand.partition,
            };
        }
    }
    Some(reached)
}

/// The version of an event.
pub(crate) fn version_of(record: &Record) -> &str {
    record.version().unwrap_or_default()
}

/// A partition whose log was cut before the sink read it: what the truncate `held` says would be done to its newer rows as
/// well (CDC1008).
pub(crate) fn missing_copy(held: &Record, past: i32) -> Trouble {
    Trouble::new(
        Code::LogTruncated,
        format!(
            "topic {}: partition {} is at a truncate that partition {past} went past without seeing it",
            held.topic, held.partition
        ),
        "Its log was cut before it was read: repair the table by a snapshot, set the stored offsets, send SIGHUP.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_waits_for_all_and_knows_who_is_past_it() {
        let stands = |of: &[(&'static str, bool)]| -> Option<Reached> {
            let stands = of.iter().zip(0..).map(|((version, is_held), partition)| {
                let (version, is_held) = (*version, *is_held);
                Stand {
                    partition,
                    version,
                    is_held,
                }
            });
            reached("5", stands)
        };
        assert_eq!(stands(&[("5", true), ("5", true)]), Some(Reached::Together));
        assert_eq!(stands(&[("5", true), ("4", false)]), None);
        // Nothing was applied there yet.
        assert_eq!(stands(&[("5", true), ("", false)]), None);
        // An earlier one comes first.
        assert_eq!(stands(&[("5", true), ("4", true)]), None);
        let apart = Some(Reached::Apart { past: 1 });
        assert_eq!(stands(&[("5", true), ("5", false)]), apart);
        assert_eq!(stands(&[("5", true), ("7", true)]), apart);
        assert_eq!(stands(&[("5", true), ("7", false), ("4", false)]), None);
    }
}
