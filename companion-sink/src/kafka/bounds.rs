//! Whether the offsets that come next are still in Kafka.

use change::trouble::Trouble;

use crate::error::{Code, Result};
use crate::kafka::discovery::Discovery;
use crate::kafka::reader::TopicPartition;

/// An offset that the log no longer has means lost events, never "begin anywhere" (CDC1008).
pub(crate) fn check_bounds(at: &TopicPartition, next: i64, (low, high): (i64, i64)) -> Result<()> {
    let name = format!("{}-{}", at.topic, at.partition);
    if next < low {
        return Err(Trouble::new(
            Code::LogTruncated,
            format!("topic {name} no longer reaches back to offset {next}, it begins at {low}"),
            "Events are lost to this sink: repair the target by a snapshot, set the stored offset, send SIGHUP.",
        ));
    }
    if next > high {
        return Err(Trouble::new(
            Code::LogTruncated,
            format!(
                "topic {name} ends at offset {high}, before the stored offset {next}: it was made anew or cut"
            ),
            "Repair the target by a snapshot, set the stored offset, send SIGHUP.",
        ));
    }
    Ok(())
}

/// Kafka refused an offset: finds out which one of `next`, the partitions with the offsets that come next.
pub(crate) async fn find_out_of_range(
    discovery: &Discovery,
    next: impl Iterator<Item = (&TopicPartition, i64)>,
) -> Result<()> {
    for (at, next_offset) in next {
        let bounds = discovery.bounds(&at.topic, at.partition).await?;
        check_bounds(at, next_offset, bounds)?;
    }
    // Nothing is out of range any more: the log's end moved on meanwhile.
    Err(Trouble::new(
        Code::Unreachable,
        "kafka: an offset was out of range for a moment",
        "It is tried again.",
    ))
}
