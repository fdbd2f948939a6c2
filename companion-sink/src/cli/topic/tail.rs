//! `companion-sink topic tail`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use crate::cli::answer::{Answer, Format};
use crate::cli::topic::asking::{find, in_thread, stopped_by_signals};
use crate::cli::topic::change::{HEADER, look};
use crate::cli::topic::outcome::TopicOutcome;
use crate::config::Loaded;
use crate::error::{Result, misconfigured};
use crate::progress::Progress;
use crate::terminal::Color;
use crate::topic::entry::Entry;
use crate::topic::filter::{TopicFilter, Wanted};
use crate::topic::follow::{FollowEnd, follow};
use crate::topic::in_words::cells;
use crate::topic::json;
use crate::topic::tail::TailSearch;
use crate::topic::told::ToldRecord;

/// Which events.
#[derive(Debug, Clone, Args)]
pub(super) struct Tail {
    /// The topic's name
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Of the row with this key: 42, or a=1,b=2 for several columns, or JSON
    ///
    /// A value is written as its event has it, for the columns' types are not known here: 10.50 and not 10.5.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only these operations: c, u, d, r, t, tombstone, schema, snapshot, emit
    #[arg(long, value_name = "OP,…")]
    op: Option<String>,
    /// Only changes that this person made
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only what was committed at this time or later: 2026-11-21T10:40:00Z, or 2026-11-21 10:40 in UTC
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what was committed at this time or earlier
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The newest so many; with --follow 0 shows only what comes
    #[arg(short = 'n', long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    limit: u32,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long, conflicts_with = "until")]
    follow: bool,
}

impl Tail {
    pub(super) async fn run(
        &self,
        config: &Loaded,
        format: Option<Format>,
        color: Color,
    ) -> Result<TopicOutcome> {
        if self.limit == 0 && !self.follow {
            return Err(misconfigured(
                "--limit 0 shows nothing",
                "Write the number of events that you want to see, or add --follow.",
            ));
        }
        let filter = TopicFilter::new(Wanted {
            key: self.key.as_deref(),
            ops: self.op.as_deref(),
            actor: self.actor.as_deref(),
            since: self.since.as_deref(),
            until: self.until.as_deref(),
            id: None,
        })?;
        let stop = stopped_by_signals()?;
        let (tail, config) = (self.clone(), config.clone());
        in_thread(move || tail.show(&config, filter, format, color, &stop)).await
    }

    /// Waits for Kafka.
    fn show(
        &self,
        config: &Loaded,
        mut filter: TopicFilter,
        format: Option<Format>,
        color: Color,
        stop: &AtomicBool,
    ) -> Result<TopicOutcome> {
        let Some(asked) = find(config, &self.topic)? else {
            return Ok(TopicOutcome::Nothing);
        };
        let bounds = asked.bounds()?;
        let mut search = TailSearch {
            asked: &asked,
            filter: &mut filter,
            limit: self.limit as usize,
            stop,
            progress: Progress::beside_answer("searching", "records"),
        };
        let Some(found) = search.run(&bounds)? else {
            return Ok(TopicOutcome::Interrupted);
        };
        let mut answer = Answer::new(format, None, color, HEADER)?;
        let count = found.len();
        print(&mut answer, &found)?;
        if self.follow {
            answer.show(&self.topic)?;
            let ends = bounds.iter().map(|(at, range)| (at.partition, range.end));
            let ends: BTreeMap<i32, i64> = ends.collect();
            let end = follow(&asked, &ends, &mut filter, stop, |entries| {
                print(&mut answer, &entries)?;
                answer.show(&self.topic)?;
                if answer.is_reader_gone() {
                    stop.store(true, Ordering::Relaxed);
                }
                Ok(())
            })?;
            return Ok(match end {
                FollowEnd::Stopped if answer.is_reader_gone() => TopicOutcome::Found,
                FollowEnd::Stopped => TopicOutcome::Interrupted,
                FollowEnd::Gone => {
                    eprintln!("companion-sink: topic {} was deleted", self.topic);
                    TopicOutcome::Nothing
                }
            });
        }
        let plural = if count == 1 { "" } else { "s" };
        answer.finish(&format!("{}, {count} event{plural}", self.topic))?;
        if count > 0 {
            return Ok(TopicOutcome::Found);
        }
        if let Some(trouble) = filter.trouble() {
            return Err(trouble);
        }
        let what = match filter.is_narrow() {
            true => "no such event",
            false => "no event",
        };
        eprintln!("companion-sink: {what} in {}", self.topic);
        Ok(TopicOutcome::Nothing)
    }
}

fn print(answer: &mut Answer, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        let told = ToldRecord::of(entry);
        match answer.is_json() {
            true => answer.text(&format!("{}\n", json::line(&told)))?,
            false => answer.row(|| serde_json::Value::Null, cells(&told).into(), look(&told))?,
        }
    }
    Ok(())
}
