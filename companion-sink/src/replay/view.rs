//! Builds a view anew from its topics, beside the one that readers use, and lets it take that one's place. The sink may run
//! meanwhile; it waits during the last step, and goes on from where that has come to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use change::position::Position as SenderPosition;
use change::trouble::Trouble;
use change::version::Version;
use mongodb::Database;
use tokio::sync::watch;

use crate::config::MongoViewSettings;
use crate::delivery::in_commit_order::InCommitOrder;
use crate::delivery::runner::{Context, Ended};
use crate::error::{Code, Result, log};
use crate::kafka::bounds::check_bounds;
use crate::kafka::positions;
use crate::kafka::reader::TopicPartition;
use crate::progress::Progress;
use crate::rejected::refusal_limit::RefusalLimit;
use crate::reload::Reloader;
use crate::replay::delivery::{self, context, drive};
use crate::replay::replica::{check_whole, partitions};
use crate::replay::{Order, unless_stopped};
use crate::sink::mongo_history;
use crate::sink::mongo_history::write::offsets::Offsets;
use crate::sink::mongo_view::MongoView;
use crate::sink::mongo_view::columns;
use crate::sink::mongo_view::names::ViewNames;
use crate::sink::mongo_view::plan::plan_of;
use crate::sink::mongo_view::switch;

/// About so long takes what is left to the last step, during which the sink waits.
const LAST_STEP: Duration = Duration::from_secs(2);

/// What a rebuild has done.
pub(crate) struct Rebuilt {
    /// Records that were read.
    pub(crate) records: u64,
    /// The collection of the documents that were there before.
    pub(crate) old: String,
}

/// Drops the documents that the last rebuild of a view left; whether there were any.
pub(crate) async fn drop_old(order: &Order<'_>, settings: &MongoViewSettings) -> Result<bool> {
    let database = connect(order, settings).await?;
    let view = ViewNames::new(&order.config.name, order.name, settings);
    switch::drop_old(&database, &view).await
}

/// Builds the view of `order` anew; `None` if somebody interrupted it, and then nothing is changed.
pub(crate) async fn rebuild(
    order: &Order<'_>,
    settings: &MongoViewSettings,
    progress: &mut Progress,
) -> Result<Option<Rebuilt>> {
    let database = connect(order, settings).await?;
    let view = ViewNames::new(&order.config.name, order.name, settings);
    // What a switch has left that was decided is part of the view; what a rebuild has left that was not is nobody's.
    switch::carry_on(&database, &view).await?;
    switch::drop_built(&database, &view).await?;
    let done = build_and_switch(order, settings, (&database, &view), progress).await;
    progress.clear();
    if !matches!(&done, Ok(Some(_)))
        && let Err(error) = switch::drop_undecided(&database, &view).await
    {
        // The next rebuild drops it.
        log(&error, order.name);
    }
    done
}

async fn connect(order: &Order<'_>, settings: &MongoViewSettings) -> Result<Database> {
    mongo_history::connect_to_primary(order.sink.url.reveal(), &settings.database).await
}

async fn build_and_switch(
    order: &Order<'_>,
    settings: &MongoViewSettings,
    (database, view): (&Database, &ViewNames),
    progress: &mut Progress,
) -> Result<Option<Rebuilt>> {
    let stop = order.stop.clone();
    let begun = Build::new(order, settings, (database, view), progress);
    let Some(mut build) = unless_stopped(&stop, begun).await? else {
        return Ok(None);
    };
    if unless_stopped(&stop, build.build()).await?.is_none() {
        return Ok(None);
    }
    columns::check(database, &plan_of(order.name, settings)?).await?;
    build.progress.set_stage("keeping the old documents");
    let kept = switch::keep_old(database, view);
    if unless_stopped(&stop, kept).await?.is_none() {
        return Ok(None);
    }
    // That may have taken its time.
    if unless_stopped(&stop, build.build()).await?.is_none() {
        return Ok(None);
    }
    // From here on it is not interrupted: nobody could say whether it is done.
    build.progress.set_stage("taking its place");
    let mut held = switch::hold(database, view).await?;
    let caught_up = build.catch_up();
    let records = match switch::while_held(database, view, &mut held, caught_up).await {
        Ok(records) => records,
        Err(error) => {
            switch::release(database, view, &held).await?;
            return Err(error);
        }
    };
    switch::decide(database, view, &held).await?;
    Ok(Some(Rebuilt {
        records,
        old: view.old(),
    }))
}

/// A view that is built anew.
struct Build<'b> {
    progress: &'b mut Progress,
    course: InCommitOrder<MongoView>,
    context: Context,
    newest: positions::Newest,
    /// The position that the course is to come to.
    goals: watch::Sender<Option<Arc<SenderPosition>>>,
    live: Offsets,
    built: Offsets,
    partitions: Vec<TopicPartition>,
    /// Where they begin.
    starts: Vec<i64>,
}

impl<'b> Build<'b> {
    async fn new(
        order: &Order<'_>,
        settings: &MongoViewSettings,
        (database, view): (&Database, &ViewNames),
        progress: &'b mut Progress,
    ) -> Result<Build<'b>> {
        progress.set_stage("looking where to begin");
        let (goals, goal) = delivery::goals();
        let mut newest = positions::follow(order.config)?;
        let context = context(order, goal)?;
        let partitions = partitions(&context, Some(&mut newest)).await?;
        let live = Offsets::new(database, &view.state);
        let known = live.read(&partitions).await?;
        let mut bounds = Vec::with_capacity(partitions.len());
        for (at, known) in partitions.iter().zip(known) {
            let of_partition = context.shared.discovery.bounds(&at.topic, at.partition);
            let of_partition = of_partition.await?;
            if let Some(known) = known {
                check_bounds(at, known.next_offset, of_partition)?;
            }
            bounds.push((at.clone(), of_partition));
        }
        check_whole(&bounds)?;
        let refusals = RefusalLimit::new(order.config.dead_letters.max_parked_keys_per_minute);
        let live_config = Reloader::new(order.config, None)?.live();
        let sink = MongoView::new(order.config, order.name, live_config, settings, refusals)?;
        Ok(Build {
            progress,
            course: InCommitOrder::new(sink.rebuilding()),
            context,
            newest,
            goals,
            live,
            built: Offsets::new(database, &view.rebuilt().state),
            partitions,
            starts: bounds.iter().map(|(_, (low, _))| *low).collect(),
        })
    }

    /// Applies what the topics have, until little is left, or what is left becomes no less: then more comes than can be applied.
    async fn build(&mut self) -> Result<()> {
        self.progress.set_stage("building anew");
        let mut left_before = u64::MAX;
        loop {
            let began = Instant::now();
            let before = applied(&self.built, &self.partitions, &self.starts).await?;
            let position = delivery::position(&mut self.newest, |_| true).await?;
            self.follow(position).await?;
            let newest = delivery::position(&mut self.newest, |_| true).await?;
            let done = applied(&self.built, &self.partitions, &self.starts).await?;
            let left = self.total(&newest).saturating_sub(done);
            let per_second = done.saturating_sub(before) as f64 / began.elapsed().as_secs_f64();
            if left as f64 <= per_second * LAST_STEP.as_secs_f64() || left >= left_before {
                return Ok(());
            }
            left_before = left;
        }
    }

    /// Comes at least to where the view is: readers never see it go back. How many records were read.
    async fn catch_up(&mut self) -> Result<u64> {
        let live = self.live.all().await?.into_iter();
        let live = live.filter_map(|(_, position)| Version::parse(&position.version));
        let live = live.map(|version| version.place()).max();
        let is_there = |position: &SenderPosition| Some(position.complete_place()) >= live;
        let position = delivery::position(&mut self.newest, is_there).await?;
        self.follow(position).await?;
        applied(&self.built, &self.partitions, &self.starts).await
    }

    async fn follow(&mut self, position: Arc<SenderPosition>) -> Result<()> {
        self.progress.set_total(self.total(&position));
        let ends = self.partitions.iter();
        let ends = ends.map(|at| (at.clone(), end(&position, at).unwrap_or_default()));
        self.context.goal = Some(ends.collect());
        self.goals.send_replace(Some(position));
        let (built, partitions, starts) = (&self.built, &self.partitions, &self.starts);
        let applied = async || applied(built, partitions, starts).await;
        match drive(&mut self.course, &self.context, self.progress, applied).await? {
            Ended::Reached => Ok(()),
            // Whoever interrupts has no use for what comes of it.
            Ended::Stopped => Err(Trouble::new(
                Code::Unreachable,
                "the rebuild was interrupted",
                "Nothing was changed.",
            )),
        }
    }

    /// Records from the beginning to where a position says that the partitions end.
    fn total(&self, position: &SenderPosition) -> u64 {
        let of_partition = |(at, start): (&TopicPartition, &i64)| {
            let end = end(position, at).unwrap_or(*start);
            u64::try_from(end - start).unwrap_or(0)
        };
        self.partitions
            .iter()
            .zip(&self.starts)
            .map(of_partition)
            .sum()
    }
}

fn end(position: &SenderPosition, at: &TopicPartition) -> Option<i64> {
    let ends = position.ends.get(&*at.topic)?;
    ends.end.get(usize::try_from(at.partition).ok()?).copied()
}

/// Records that are applied.
async fn applied(built: &Offsets, partitions: &[TopicPartition], starts: &[i64]) -> Result<u64> {
    let positions = built.read(partitions).await?;
    let of_partition = |(position, start): (&Option<_>, &i64)| {
        let next = |known: &crate::sink::batch::Position| known.next_offset;
        u64::try_from(position.as_ref().map_or(*start, next) - start).unwrap_or(0)
    };
    Ok(positions.iter().zip(starts).map(of_partition).sum())
}
