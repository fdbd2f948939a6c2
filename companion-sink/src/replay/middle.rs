//! The beginning of a replica's replay from the middle.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use change::position::Position as SenderPosition;
use change::trouble::Trouble;

use crate::delivery::control_topics;
use crate::delivery::runner::Context;
use crate::error::{Code, Result};
use crate::kafka::reader::TopicPartition;
use crate::kafka::scan::Scan;
use crate::progress::Progress;
use crate::replay::delivery;
use crate::replay::start;
use crate::replay::start::{Bounds, Start};
use crate::replay::{Order, changed_definition};
use crate::sink::batch::Position;
use crate::sink::postgres::replay::control::Control;
use crate::sink::postgres::schema::definitions::FollowedDefinition;

/// The control topics of what the sink follows, with their bounds.
pub(crate) async fn control_bounds(
    context: &Context,
    position: &SenderPosition,
) -> Result<Vec<Bounds>> {
    let mut bounds = Vec::new();
    for control in control_topics::of(position, &context.config.topics) {
        let at = control_topics::partition_of(control);
        let of_partition = context.shared.discovery.bounds(&at.topic, at.partition);
        let of_partition = of_partition.await?;
        bounds.push((at, of_partition));
    }
    Ok(bounds)
}

/// Copies what readers use, and notes from where on events are applied to the copy. Where it begins, for people.
pub(crate) async fn begin_in_the_middle(
    order: &Order<'_>,
    control: &Control,
    progress: &mut Progress,
    bounds: &[Bounds],
    control_bounds: &[Bounds],
) -> Result<String> {
    let partitions: Vec<TopicPartition> = bounds.iter().map(|(at, _)| at.clone()).collect();
    let before = control.live_positions(&partitions).await?;
    let followed = control.followed().await?;
    check_known(&partitions, &before, &followed)?;
    let lanes: BTreeSet<Arc<str>> = partitions.iter().map(|at| Arc::clone(&at.topic)).collect();
    let lanes: Vec<TopicPartition> = lanes.into_iter().map(control_topics::lane_of).collect();
    let of_lanes = control.live_positions(&lanes).await?;
    let mut live: HashMap<Arc<str>, String> = HashMap::new();
    let known = partitions.iter().zip(&before);
    for (at, position) in known.chain(lanes.iter().zip(&of_lanes)) {
        if let Some(position) = position {
            let version = live.entry(Arc::clone(&at.topic)).or_default();
            *version = std::mem::take(version).max(position.version.clone());
        }
    }
    let scan = Scan::new(order.config, &delivery::group(order))?;
    let (from, bounds) = (order.from.clone(), bounds.to_vec());
    let (definitions, control_bounds) = (followed.clone(), control_bounds.to_vec());
    let found = tokio::task::spawn_blocking(move || {
        let start = start::find(&scan, &from, &bounds)?;
        changed_definition::refuse(&scan, &start, &control_bounds, &live, &definitions)?;
        Ok(start)
    });
    let Start {
        positions, text, ..
    } = found.await.map_err(|error| start::ended(&error))??;
    progress.set_stage("copying the tables");
    let copied = control.copy(&partitions).await?;
    if copied.followed != followed {
        return Err(Trouble::new(
            Code::SchemaChange,
            "a definition changed while the replay began",
            "Replay again.",
        ));
    }
    let mut starts = Vec::new();
    for (at, live) in partitions.into_iter().zip(copied.positions) {
        let is_without_key = followed
            .get(&*at.topic)
            .is_some_and(|now| now.definition.primary_key_column_names.is_empty());
        let start = positions.get(&at).cloned();
        // Events of tables without a key cannot be applied twice, and nothing may be left out before where the copy is.
        let start = match (start, live) {
            (Some(start), Some(live))
                if is_without_key || live.next_offset <= start.next_offset =>
            {
                live
            }
            (Some(start), _) => start,
            (None, Some(live)) => live,
            (None, None) => continue,
        };
        starts.push((at, start));
    }
    control.begin_at(&starts).await?;
    control.copy_parked().await?;
    Ok(text)
}

/// Whether every topic that the sink has read is one whose table it knows.
fn check_known(
    partitions: &[TopicPartition],
    live: &[Option<Position>],
    followed: &HashMap<String, FollowedDefinition>,
) -> Result<()> {
    let unknown = partitions.iter().zip(live).find(|(at, live)| {
        let is_read = live.as_ref().is_some_and(|live| !live.version.is_empty());
        is_read && !followed.contains_key(&*at.topic)
    });
    match unknown {
        None => Ok(()),
        Some((at, _)) => Err(Trouble::new(
            Code::TargetRefuses,
            format!("the sink knows no definition of the table of {}", at.topic),
            "Replay from BEGINNING.",
        )),
    }
}
