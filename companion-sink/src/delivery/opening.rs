//! Partitions that begin to be read: from where the target is, or, where it does not know them, from their beginnings.

use crate::error::Result;
use crate::kafka::bounds::check_bounds;
use crate::kafka::reader::TopicPartition;
use crate::sink::Positions;
use crate::sink::batch::Position;

/// Partitions that are opened together.
#[derive(Default)]
pub(crate) struct Opening {
    partitions: Vec<(TopicPartition, Position)>,
    /// Those that the target did not know, with the offsets at which they begin.
    new: Vec<(TopicPartition, i64)>,
}

impl Opening {
    /// Adds a partition, which begins and ends at `bounds`; the target has `stored` of it.
    pub(crate) fn add(
        &mut self,
        at: TopicPartition,
        stored: Option<Position>,
        bounds: (i64, i64),
    ) -> Result<()> {
        let position = match stored {
            Some(position) => {
                check_bounds(&at, position.next_offset, bounds)?;
                position
            }
            None => {
                self.new.push((at.clone(), bounds.0));
                Position {
                    next_offset: bounds.0,
                    version: String::new(),
                }
            }
        };
        self.partitions.push((at, position));
        Ok(())
    }

    /// Those that are new and no longer reach back to their beginning.
    pub(crate) fn cut(&self) -> impl Iterator<Item = &TopicPartition> {
        self.new
            .iter()
            .filter(|(_, begin)| *begin > 0)
            .map(|(at, _)| at)
    }

    /// Has the target note where the new ones begin; from where each of them is read.
    pub(crate) async fn begin(
        self,
        target: &mut impl Positions,
        sink: &str,
    ) -> Result<Vec<(TopicPartition, Position)>> {
        if !self.new.is_empty() {
            target.begin(&self.new).await?;
        }
        tracing::info!(
            sink,
            partitions = self.partitions.len(),
            new = self.new.len(),
            "partitions assigned"
        );
        Ok(self.partitions)
    }
}
