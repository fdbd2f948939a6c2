//! Events about whole tables, at which partitions are held until all of their topic have reached them.

use crate::delivery::by_partition::Run;
use crate::delivery::progress::{Reached, Stand, missing_copy, reached, version_of};
use crate::error::Result;
use crate::event::Op;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::sink::Sink;
use crate::sink::batch::Batch;
use crate::sink::batch::Move;

impl<S: Sink> Run<'_, S> {
    /// Applies the held events that all partitions of their topic have reached.
    pub(crate) async fn release_held(&mut self) -> Result<()> {
        if self.sink.shared().is_some() {
            return self.meet_others().await;
        }
        while let Some((record, reached)) = self.reached_by_all() {
            let moves = self.moves_past(&record);
            match reached {
                // A definition that is followed already is found so.
                _ if record.op() == Some(Op::Schema) => {
                    self.sink.apply_together(&record, &moves).await?;
                }
                Reached::Together => self.sink.apply_together(&record, &moves).await?,
                Reached::Apart { past } if record.op() == Some(Op::Truncate) => {
                    return Err(missing_copy(&record, past));
                }
                Reached::Apart { .. } => {
                    tracing::warn!(
                        sink = %self.status.name,
                        topic = %record.topic,
                        "partitions are past the beginning or end of a snapshot: if it was not done before a restart, nothing is taken for gone"
                    );
                    let batch = Batch {
                        records: Vec::new(),
                        moves: moves.clone(),
                    };
                    self.sink.apply(&batch, &self.shared.dead_letters).await?;
                }
            }
            for moved in moves {
                self.go_on(moved.at, moved.end, moved.version);
            }
            self.status.figures().count_event(&record);
        }
        Ok(())
    }

    /// How the partitions that are held at `record` here move when it is done.
    pub(crate) fn moves_past(&self, record: &Record) -> Vec<Move> {
        let mut moves = Vec::new();
        for (at, lane) in &self.lanes {
            if let Some(held) = &lane.held
                && at.topic == record.topic
                && version_of(held) == version_of(record)
            {
                moves.push(Move {
                    at: at.clone(),
                    begin: lane.stored_next,
                    end: held.offset + 1,
                    version: version_of(held).to_owned(),
                });
            }
        }
        moves.sort_by(|a, b| a.at.cmp(&b.at));
        moves
    }

    /// The earliest held event that no partition of its topic has before it.
    fn reached_by_all(&self) -> Option<(Record, Reached)> {
        // One that has no leader yet may have what comes before.
        if self.incomplete {
            return None;
        }
        let mut earliest: Option<(&TopicPartition, &Record, Reached)> = None;
        for (holder, lane) in &self.lanes {
            let Some(held) = &lane.held else { continue };
            let version = version_of(held);
            let of_topic = self.lanes.iter().filter(|(at, _)| at.topic == holder.topic);
            let stands = of_topic.map(|(at, lane)| Stand {
                partition: at.partition,
                version: lane.held.as_ref().map_or(&lane.version, version_of),
                is_held: lane.held.is_some(),
            });
            // Of several copies the one of the first partition: what is made of it is the same each time.
            let is_earlier = earliest.is_none_or(|(other, earliest, _)| {
                (version, holder) < (version_of(earliest), other)
            });
            if is_earlier && let Some(reached) = reached(version, stands) {
                earliest = Some((holder, held, reached));
            }
        }
        earliest.map(|(_, held, reached)| (held.clone(), reached))
    }
}
