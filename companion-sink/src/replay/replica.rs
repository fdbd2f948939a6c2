//! Replays a replica: builds it anew in a schema beside the tables that readers use, then lets it take their place in one
//! transaction. Instances of the sink may run meanwhile; they wait during the last step and go on from where it has come to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use change::position::Position as SenderPosition;
use change::trouble::Trouble;
use tokio::sync::watch;

use crate::config;
use crate::config::Consistency;
use crate::delivery::by_partition::ByPartition;
use crate::delivery::in_commit_order::InCommitOrder;
use crate::delivery::runner::{Context, Course, Ended};
use crate::error::{Code, Result, log, misconfigured};
use crate::kafka::bounds::check_bounds;
use crate::kafka::positions;
use crate::kafka::reader::TopicPartition;
use crate::progress::Progress;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Reloader;
use crate::replay::beginning::From;
use crate::replay::delivery;
use crate::replay::delivery::{context, drive};
use crate::replay::middle::{begin_in_the_middle, control_bounds};
use crate::replay::start::Bounds;
use crate::replay::{Order, Report, unless_stopped};
use crate::sink::batch::Position;
use crate::sink::changes::Changes;
use crate::sink::postgres::Postgres;
use crate::sink::postgres::replay::control::{Control, NotYet};
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::settings::Settings;

/// So few records are left to the last step, during which the sink waits.
const FEW_RECORDS: u64 = 5_000;
/// How often the last step is tried where the sink is about to follow a definition, or is in the way.
const ATTEMPTS_MAX: u32 = 10;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);

/// Replays the replica of `order`; `None` if somebody interrupted it, and then nothing is changed.
pub(crate) async fn replay(
    order: &Order<'_>,
    settings: &config::PostgresSettings,
    progress: &mut Progress,
) -> Result<Option<Report>> {
    let (instance, url) = (&order.config.name, order.sink.url.reveal());
    let of_readers = Settings::new(order.config, settings);
    let mut control = Control::connect(instance, order.name, url, &of_readers).await?;
    let done = build_and_switch(order, settings, &mut control, progress).await;
    progress.clear();
    let cleaned = match &done {
        Ok(Some(_)) => control.drop_shadow().await,
        _ => control.give_up().await,
    };
    if let Err(error) = cleaned {
        // The next replay drops it.
        log(&error, order.name);
    }
    done
}

async fn build_and_switch(
    order: &Order<'_>,
    settings: &config::PostgresSettings,
    control: &mut Control,
    progress: &mut Progress,
) -> Result<Option<Report>> {
    let stop = order.stop.clone();
    let built = Build::new(order, settings, control, progress);
    let Some(mut build) = unless_stopped(&stop, built).await? else {
        return Ok(None);
    };
    if unless_stopped(&stop, build.build()).await?.is_none() {
        return Ok(None);
    }
    let Some(changes) = unless_stopped(&stop, build.compare()).await? else {
        return Ok(None);
    };
    let report = Report {
        begun_at: build.begun_at.clone(),
        records: build.records().await?,
        changes,
    };
    // From here on it is not interrupted: nobody could say whether it is done.
    match order.is_dry_run {
        true => build.control.release().await?,
        false => build.control.take_over(&build.begun_at).await?,
    }
    Ok(Some(report))
}

/// The course of the sink that builds.
enum ReplicaCourse {
    Transaction(InCommitOrder<Replica>),
    Row(ByPartition<Postgres>),
}

impl Course for ReplicaCourse {
    async fn run(&mut self, context: &Context) -> Result<Ended> {
        match self {
            ReplicaCourse::Transaction(course) => course.run(context).await,
            ReplicaCourse::Row(course) => course.run(context).await,
        }
    }

    async fn resumed(&mut self) {
        match self {
            ReplicaCourse::Transaction(course) => course.resumed().await,
            ReplicaCourse::Row(course) => course.resumed().await,
        }
    }
}

/// A replica that is built anew.
struct Build<'b> {
    control: &'b mut Control,
    progress: &'b mut Progress,
    course: ReplicaCourse,
    context: Context,
    /// The sender's newest position, where the replica is consistent by transactions.
    newest: Option<positions::Newest>,
    /// The one that the course is to come to.
    goals: watch::Sender<Option<Arc<SenderPosition>>>,
    partitions: Vec<TopicPartition>,
    /// Where they begin.
    starts: Vec<i64>,
    begun_at: String,
}

impl<'b> Build<'b> {
    /// Looks where to begin, and makes ready for it.
    async fn new(
        order: &Order<'_>,
        settings: &config::PostgresSettings,
        control: &'b mut Control,
        progress: &'b mut Progress,
    ) -> Result<Build<'b>> {
        progress.set_stage("looking where to begin");
        let (goals, goal) = delivery::goals();
        let mut positions = positions::follow(order.config)?;
        let (position, mut newest) = match settings.consistency {
            Consistency::Transaction => (goal, Some(positions.clone())),
            Consistency::Row => (positions.clone(), None),
        };
        let context = context(order, position)?;
        let partitions = partitions(&context, newest.as_mut()).await?;
        control.prepare(order.from != From::Beginning).await?;
        // Before the ends of the topics, beyond which it cannot be then.
        let live = control.live_positions(&partitions).await?;
        let mut bounds = Vec::with_capacity(partitions.len());
        for at in &partitions {
            let of_partition = context.shared.discovery.bounds(&at.topic, at.partition);
            bounds.push((at.clone(), of_partition.await?));
        }
        check_reach(&bounds, &live, order)?;
        let begun_at = match order.from {
            From::Beginning => order.from.to_string(),
            _ => {
                let position = delivery::position(&mut positions, |_| true).await?;
                let control_bounds = control_bounds(&context, &position).await?;
                let (of_tables, of_control) = (&bounds[..], &control_bounds[..]);
                begin_in_the_middle(order, control, progress, of_tables, of_control).await?
            }
        };
        let known = control.positions(&partitions).await?;
        let starts = known
            .iter()
            .zip(&bounds)
            .map(|(known, (_, (low, _)))| known.as_ref().map_or(*low, |known| known.next_offset));
        let starts = starts.collect();
        let refusals = RefusalLimit::new(order.config.dead_letters.max_parked_keys_per_minute);
        let replica = Replica::new(
            &order.config.name,
            order.name,
            Reloader::new(order.config, None)?.live(),
            control.settings(),
            refusals,
        );
        Ok(Build {
            control,
            progress,
            course: match settings.consistency {
                Consistency::Transaction => ReplicaCourse::Transaction(InCommitOrder::new(replica)),
                Consistency::Row => ReplicaCourse::Row(ByPartition::new(Postgres::new(replica))),
            },
            context,
            newest,
            goals,
            partitions,
            starts,
            begun_at,
        })
    }

    /// Applies what the topics have, until little is left.
    async fn build(&mut self) -> Result<()> {
        self.progress.set_stage("building anew");
        loop {
            self.follow_to_the_end().await?;
            let ends = self.ends().await?;
            let done = self.records().await?;
            if self.total(&ends).saturating_sub(done) <= FEW_RECORDS {
                break;
            }
        }
        self.control.analyze().await
    }

    /// Applies what the topics have by now.
    async fn follow_to_the_end(&mut self) -> Result<()> {
        let ends = self.ends().await?;
        if let Some(newest) = &mut self.newest {
            let position = delivery::position(newest, |_| true).await?;
            return self.follow_position(position).await;
        }
        self.follow_ends(ends).await
    }

    async fn follow_position(&mut self, position: Arc<SenderPosition>) -> Result<()> {
        let ends = position.ends.clone();
        let end = |at: &TopicPartition| {
            let ends = ends.get(&*at.topic);
            ends.and_then(|ends| ends.end.get(at.partition as usize).copied())
        };
        let ends = self
            .partitions
            .iter()
            .filter_map(|at| Some((at.clone(), end(at)?)));
        let ends = ends.collect();
        self.goals.send_replace(Some(position));
        self.follow_ends(ends).await
    }

    async fn follow_ends(&mut self, ends: HashMap<TopicPartition, i64>) -> Result<()> {
        self.progress.set_total(self.total(&ends));
        self.context.goal = Some(ends);
        let (control, partitions, starts) = (&*self.control, &self.partitions, &self.starts);
        let applied = async || applied(control, partitions, starts).await;
        let ended = drive(&mut self.course, &self.context, self.progress, applied).await;
        match ended.map_err(stopped_by_event)? {
            Ended::Reached => Ok(()),
            // Whoever interrupts has no use for what comes of it.
            Ended::Stopped => Err(Trouble::new(
                Code::Unreachable,
                "the replay was interrupted",
                "Nothing was changed.",
            )),
        }
    }

    /// Holds the sink, comes to where it is, and compares. The transaction stays open.
    async fn compare(&mut self) -> Result<Vec<Changes>> {
        let mut attempt = 1;
        loop {
            self.progress.set_stage("comparing");
            let error = match self.try_to_compare().await {
                Ok(changes) => return Ok(changes),
                Err(NotYet::Failed(error)) if error.code != Code::Unreachable => return Err(error),
                Err(NotYet::Failed(error)) => error,
                Err(NotYet::Definition(topic)) => Trouble::new(
                    Code::SchemaChange,
                    format!("the sink has not followed a change of the definition of {topic} yet"),
                    "Let it run until it has (`companion-sink run`), then replay again. Nothing was changed.",
                ),
            };
            self.control.release().await?;
            if attempt == ATTEMPTS_MAX {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(ATTEMPT_PAUSE).await;
            self.progress.set_stage("following");
            self.follow_to_the_end().await?;
        }
    }

    async fn try_to_compare(&mut self) -> std::result::Result<Vec<Changes>, NotYet> {
        self.control.hold().await?;
        self.catch_up().await?;
        self.control.merge().await
    }

    /// Comes at least to where the sink is: readers never see it go back.
    async fn catch_up(&mut self) -> Result<()> {
        if let Some(newest) = &mut self.newest {
            let Some(live) = self.control.live_place().await? else {
                return Ok(());
            };
            let is_there = |position: &SenderPosition| position.complete_place() >= live;
            if self.goals.borrow().as_deref().is_some_and(is_there) {
                return Ok(());
            }
            let position = delivery::position(newest, is_there).await?;
            return self.follow_position(position).await;
        }
        let live = self.control.live_positions(&self.partitions).await?;
        let built = self.control.positions(&self.partitions).await?;
        let mut goal = HashMap::new();
        for ((at, live), built) in self.partitions.iter().zip(live).zip(built) {
            if is_beyond(live.as_ref(), built.as_ref()) {
                goal.insert(at.clone(), live.map_or(0, |live| live.next_offset));
            }
        }
        if goal.is_empty() {
            return Ok(());
        }
        self.follow_ends(goal).await?;
        let live = self.control.live_positions(&self.partitions).await?;
        let built = self.control.positions(&self.partitions).await?;
        let mut pairs = live.iter().zip(&built);
        match pairs.any(|(live, built)| is_beyond(live.as_ref(), built.as_ref())) {
            false => Ok(()),
            // A control event that no position tells of yet.
            true => Err(Trouble::new(
                Code::Unreachable,
                "the sender's position is not where the sink is",
                "Look whether the sender runs; then replay again. Nothing was changed.",
            )),
        }
    }

    /// Where the partitions end now.
    async fn ends(&self) -> Result<HashMap<TopicPartition, i64>> {
        let mut ends = HashMap::new();
        for at in &self.partitions {
            let bounds = self
                .context
                .shared
                .discovery
                .bounds(&at.topic, at.partition);
            ends.insert(at.clone(), bounds.await?.1);
        }
        Ok(ends)
    }

    /// Records from the beginning to `ends`.
    fn total(&self, ends: &HashMap<TopicPartition, i64>) -> u64 {
        let of_partition = |(at, start): (&TopicPartition, &i64)| {
            let end = ends.get(at).copied().unwrap_or(*start);
            u64::try_from(end - start).unwrap_or(0)
        };
        self.partitions
            .iter()
            .zip(&self.starts)
            .map(of_partition)
            .sum()
    }

    async fn records(&self) -> Result<u64> {
        applied(self.control, &self.partitions, &self.starts).await
    }
}

/// Whether the sink has something of a partition that the replay has not built yet: rows, or control events, which move the
/// version alone.
fn is_beyond(live: Option<&Position>, built: Option<&Position>) -> bool {
    let next = |position: Option<&Position>| position.map_or(0, |known| known.next_offset);
    let version = |position: Option<&Position>| position.map(|known| known.version.clone());
    next(live) > next(built) || version(live) > version(built)
}

/// Records that are applied.
async fn applied(control: &Control, partitions: &[TopicPartition], starts: &[i64]) -> Result<u64> {
    let positions = control.positions(partitions).await?;
    let of_partition = |(position, start): (&Option<Position>, &i64)| {
        let next = position.as_ref().map_or(*start, |known| known.next_offset);
        u64::try_from(next - start).unwrap_or(0)
    };
    Ok(positions.iter().zip(starts).map(of_partition).sum())
}

/// What the sink applies: of a consistent replica what a position names.
pub(super) async fn partitions(
    context: &Context,
    newest: Option<&mut positions::Newest>,
) -> Result<Vec<TopicPartition>> {
    let topics = delivery::topics(context).await?;
    let named = match newest {
        Some(newest) => Some(delivery::position(newest, |_| true).await?),
        None => None,
    };
    let mut partitions = Vec::new();
    for (topic, count) in topics {
        let count = match &named {
            Some(position) => match position.ends.get(&topic) {
                Some(ends) => ends.end.len() as i32,
                None => continue,
            },
            None => count,
        };
        let topic: Arc<str> = topic.into();
        partitions.extend((0..count).map(|partition| TopicPartition {
            topic: Arc::clone(&topic),
            partition,
        }));
    }
    if partitions.is_empty() {
        return Err(misconfigured(
            "the sink's topics are not there",
            "Correct its topics, or wait until something was sent to them.",
        ));
    }
    Ok(partitions)
}

/// Refuses what would lose rows: the topics must reach from the beginning, or from what the sink has, to their ends.
fn check_reach(bounds: &[Bounds], live: &[Option<Position>], order: &Order<'_>) -> Result<()> {
    if order.from == From::Beginning {
        check_whole(bounds)?;
    }
    for ((at, bounds), live) in bounds.iter().zip(live) {
        if let Some(live) = live {
            check_bounds(at, live.next_offset, *bounds)?;
        }
    }
    Ok(())
}

/// Refuses topics that no longer reach back to their beginnings.
pub(super) fn check_whole(bounds: &[Bounds]) -> Result<()> {
    let cut = bounds.iter().filter(|(_, (low, _))| *low > 0);
    let cut: Vec<String> = cut
        .map(|(at, (low, _))| format!("{}-{} (from {low} on)", at.topic, at.partition))
        .collect();
    if cut.is_empty() {
        return Ok(());
    }
    Err(Trouble::new(
        Code::LogTruncated,
        format!(
            "retention has removed the beginning of {}: rows that changed only there would be lost",
            cut.join(", ")
        ),
        "Bring the rows by a snapshot: SELECT cdc_snapshot('TABLE', sinks => ARRAY['SINK']) on the source; or, of a replica or a history, replay --from TIME what came since.",
    ))
}

/// An event that the replica refuses ends the replay; what people decide about it they decide for the sink.
fn stopped_by_event(error: Trouble) -> Trouble {
    match error.code {
        Code::Poison => Trouble::new(
            Code::Poison,
            error.message,
            "Nothing was changed. Mend the target's table, or let the sink come to this event and decide there (companion-sink dlq): a replay does as was decided.",
        ),
        _ => error,
    }
}
