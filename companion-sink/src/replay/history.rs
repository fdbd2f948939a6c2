//! Replays a history: reads the events that it has applied once more, and writes the documents that are missing or different.
//! It stays in place, and where it is: nothing is deleted, and instances of the sink may run meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use change::trouble::Trouble;

use crate::config;
use crate::delivery::by_partition::ByPartition;
use crate::delivery::runner::Context;
use crate::error::{Code, Result, log};
use crate::kafka::positions;
use crate::kafka::reader::TopicPartition;
use crate::kafka::scan::Scan;
use crate::progress::Progress;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Reloader;
use crate::replay::beginning::From;
use crate::replay::delivery;
use crate::replay::delivery::{context, drive};
use crate::replay::start;
use crate::replay::start::Bounds;
use crate::replay::{Order, Report, unless_stopped};
use crate::sink::batch::Position;
use crate::sink::mongo_history;
use crate::sink::mongo_history::MongoHistory;
use crate::sink::mongo_history::parked::store::ParkedDocuments;
use crate::sink::mongo_history::snapshot::repair::Mending;
use crate::sink::mongo_history::snapshot::snapshots::HistorySnapshots;
use crate::sink::mongo_history::write::offsets::Offsets;

/// Replays the history of `order`; `None` if somebody interrupted it: what was mended by then stays.
pub(crate) async fn replay(
    order: &Order<'_>,
    settings: &config::MongoHistorySettings,
    progress: &mut Progress,
) -> Result<Option<Report>> {
    let database = mongo_history::connect(order.sink.url.reveal(), &settings.database).await?;
    let sink = format!("{}.{}", order.config.name, order.name);
    let own = MongoHistory::replay_state(&sink);
    let own = Own {
        offsets: Offsets::new(&database, &own),
        snapshots: HistorySnapshots::read(&database, &own).await?,
    };
    own.forget().await?;
    let live = LiveHistory {
        offsets: Offsets::new(&database, &sink),
        parked_events: ParkedDocuments::new(&database, &sink),
    };
    let done = unless_stopped(&order.stop, mend(order, settings, &live, &own, progress)).await;
    progress.clear();
    if let Err(error) = own.forget().await {
        // The next replay forgets it.
        log(&error, order.name);
    }
    done
}

/// What the sink keeps.
struct LiveHistory {
    offsets: Offsets,
    parked_events: ParkedDocuments,
}

/// What the replay keeps for itself.
struct Own {
    offsets: Offsets,
    snapshots: HistorySnapshots,
}

impl Own {
    async fn forget(&self) -> Result<()> {
        self.offsets.forget().await?;
        self.snapshots.forget().await
    }
}

async fn mend(
    order: &Order<'_>,
    settings: &config::MongoHistorySettings,
    live: &LiveHistory,
    own: &Own,
    progress: &mut Progress,
) -> Result<Report> {
    progress.set_stage("looking where to begin");
    let mut context = context(order, positions::follow(order.config)?)?;
    let (bounds, positions) = where_it_is(&context, &live.offsets).await?;
    let (starts, begun_at) = beginning(order, &bounds, &positions).await?;
    own.offsets.begin_at(&starts).await?;
    let goal: HashMap<TopicPartition, i64> = positions
        .into_iter()
        .map(|(at, position)| (at, position.next_offset))
        .collect();
    let total = starts.iter().map(|(at, start)| {
        let end = goal.get(at).copied().unwrap_or(start.next_offset);
        u64::try_from(end - start.next_offset).unwrap_or(0)
    });
    progress.set_total(total.sum());
    progress.set_stage(match order.is_dry_run {
        true => "comparing",
        false => "mending",
    });
    let left_alone = live.parked_events.not_as_sent().await?;
    let mending = Mending::new(goal.clone(), left_alone, order.is_dry_run);
    let mending = Arc::new(mending);
    let history = MongoHistory::new(
        &order.config.name,
        order.name,
        Reloader::new(order.config, None)?.live(),
        &order.config.kafka.source_name,
        settings.clone(),
        RefusalLimit::new(order.config.dead_letters.max_parked_keys_per_minute),
    );
    context.goal = Some(goal.clone());
    let records = async || applied(&own.offsets, &starts, &goal).await;
    let mut course = ByPartition::new(history.mending(Arc::clone(&mending)));
    drive(&mut course, &context, progress, records).await?;
    Ok(Report {
        begun_at,
        records: records().await?,
        changes: mending.changes(),
    })
}

/// Where the topics begin and end, and how far the history is.
async fn where_it_is(
    context: &Context,
    live: &Offsets,
) -> Result<(Vec<Bounds>, HashMap<TopicPartition, Position>)> {
    let mut partitions = Vec::new();
    for (topic, count) in delivery::topics(context).await? {
        let topic: Arc<str> = topic.into();
        partitions.extend((0..count).map(|partition| TopicPartition {
            topic: Arc::clone(&topic),
            partition,
        }));
    }
    let positions = live.read(&partitions).await?;
    let mut bounds = Vec::new();
    let mut known = HashMap::new();
    for (at, position) in partitions.into_iter().zip(positions) {
        let of_partition = context.shared.discovery.bounds(&at.topic, at.partition);
        let (low, high) = of_partition.await?;
        if let Some(mut position) = position {
            // What a topic that was cut, or made anew, no longer has cannot be read.
            position.next_offset = position.next_offset.min(high);
            known.insert(at.clone(), position);
        }
        bounds.push((at, (low, high)));
    }
    if known.is_empty() {
        return Err(Trouble::new(
            Code::Configuration,
            "the history has applied nothing of its topics yet",
            "Run the sink: companion-sink run.",
        ));
    }
    Ok((bounds, known))
}

/// Where to begin in each partition, and the same for people.
async fn beginning(
    order: &Order<'_>,
    bounds: &[Bounds],
    live: &HashMap<TopicPartition, Position>,
) -> Result<(Vec<(TopicPartition, Position)>, String)> {
    let found = match order.from {
        From::Beginning => None,
        _ => {
            let scan = Scan::new(order.config, &delivery::group(order))?;
            let (from, bounds) = (order.from.clone(), bounds.to_vec());
            let found = tokio::task::spawn_blocking(move || start::find(&scan, &from, &bounds));
            Some(found.await.map_err(|error| start::ended(&error))??)
        }
    };
    let start = |(at, (low, high)): &Bounds| {
        let from = |next_offset: i64| Position {
            next_offset,
            version: String::new(),
        };
        let start = match &found {
            None => from(*low),
            Some(found) => found.positions.get(at).cloned().unwrap_or(from(*low)),
        };
        let start = match live.get(at) {
            Some(live) if live.next_offset < start.next_offset => live.clone(),
            Some(_) => start,
            // The history has nothing of it that could be mended.
            None => from(*high),
        };
        (at.clone(), start)
    };
    let starts = bounds.iter().map(start).collect();
    let text = found.map_or_else(|| order.from.to_string(), |found| found.text);
    Ok((starts, text))
}

/// Records that were read.
async fn applied(
    offsets: &Offsets,
    starts: &[(TopicPartition, Position)],
    goal: &HashMap<TopicPartition, i64>,
) -> Result<u64> {
    let partitions: Vec<TopicPartition> = starts.iter().map(|(at, _)| at.clone()).collect();
    let positions = offsets.read(&partitions).await?;
    let of_partition =
        |((at, start), position): (&(TopicPartition, Position), &Option<Position>)| {
            let end = goal.get(at).copied().unwrap_or(start.next_offset);
            let next = position.as_ref().map_or(0, |known| known.next_offset);
            u64::try_from(next.min(end) - start.next_offset).unwrap_or(0)
        };
    Ok(starts.iter().zip(&positions).map(of_partition).sum())
}
