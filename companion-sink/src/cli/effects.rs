//! `companion-sink effects`: effects that are not done, and what is to become of them.

use clap::{Args, Subcommand};

use crate::cli::answer::{Answer, Format, Look};
use crate::cli::dlq::{By, SinkArgument};
use crate::config::Loaded;
use crate::effect::listing::{Decider, EffectSinks, ListedEffect, ListedPage, WaitState, several};
use crate::effect::order::Wanted;
use crate::error::Result;
use crate::rejected::page::{Page, PageCursor};
use crate::terminal::Color;

const LIST: &[&str] = &[
    "EVENT",
    "SINK",
    "STATE",
    "TOPIC",
    "KEY",
    "ATTEMPTS",
    "NEXT ATTEMPT (UTC)",
    "LAST ERROR",
];

/// What to do with effects that are not done.
#[derive(Debug, Args)]
pub(crate) struct EffectsCommand {
    #[command(subcommand)]
    action: EffectsAction,
}

#[derive(Debug, Subcommand)]
enum EffectsAction {
    /// The effects of all sinks that are not done
    List {
        #[command(flatten)]
        of: SinkArgument,
        /// Only these: waiting (not tried yet), retrying, behind (an earlier event of its key)
        #[arg(long)]
        state: Option<String>,
        /// So many at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
        /// Behind this place, which the list before named
        #[arg(long, value_name = "PLACE")]
        after: Option<String>,
    },
    /// Try effects at once
    Retry {
        /// Event ids, or their beginnings
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        #[command(flatten)]
        of: SinkArgument,
        #[command(flatten)]
        decider: By,
    },
    /// Leave effects out for good: their events go to the dead letters
    Skip {
        /// Event ids, or their beginnings
        #[arg(required = true)]
        ids: Vec<String>,
        /// Why, for the log and the dead letter
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        of: SinkArgument,
        #[command(flatten)]
        decider: By,
    },
}

impl EffectsCommand {
    /// Does it; false if there is no such effect.
    pub(crate) async fn run(&self, config: &Loaded, json: bool, color: Color) -> Result<bool> {
        let sinks = EffectSinks::new(config);
        match &self.action {
            EffectsAction::List {
                of,
                state,
                limit,
                after,
            } => {
                let state = state.as_deref().map(WaitState::parse).transpose()?;
                let page = Page {
                    after: after.as_deref().map(PageCursor::parse).transpose()?,
                    limit: limit.map_or(usize::MAX, |limit| limit as usize),
                };
                let listed = sinks.page(of.sink.as_deref(), state, &page).await?;
                list(&listed, json.then_some(Format::Json), color)?;
                if let Some(next) = listed.next {
                    eprintln!("companion-sink: more wait: --after {next}");
                }
                Ok(true)
            }
            EffectsAction::Retry {
                ids,
                all,
                of,
                decider,
            } => {
                let chosen = match all {
                    true => Some(sinks.list(of.sink.as_deref()).await?),
                    false => chosen(&sinks, ids, of).await?,
                };
                decide(&sinks, chosen, Wanted::Retry, decider, None).await
            }
            EffectsAction::Skip {
                ids,
                reason,
                of,
                decider,
            } => {
                let chosen = chosen(&sinks, ids, of).await?;
                decide(&sinks, chosen, Wanted::Skip, decider, Some(reason)).await
            }
        }
    }
}

/// The effects of all the ids; none if one of them is of no effect.
async fn chosen(
    sinks: &EffectSinks,
    ids: &[String],
    of: &SinkArgument,
) -> Result<Option<Vec<ListedEffect>>> {
    let mut chosen = Vec::with_capacity(ids.len());
    for id in ids {
        let mut found = sinks.find(of.sink.as_deref(), id).await?;
        match found.pop() {
            None => {
                eprintln!("companion-sink: no effect of event {id} waits");
                return Ok(None);
            }
            Some(effect) if found.is_empty() => chosen.push(effect),
            Some(last) => {
                found.push(last);
                return Err(several(id, &found));
            }
        }
    }
    Ok(Some(chosen))
}

async fn decide(
    sinks: &EffectSinks,
    chosen: Option<Vec<ListedEffect>>,
    order: Wanted,
    by: &By,
    reason: Option<&String>,
) -> Result<bool> {
    let Some(chosen) = chosen else {
        return Ok(false);
    };
    if chosen.is_empty() {
        eprintln!("companion-sink: no effect waits: there is nothing to decide");
        return Ok(true);
    }
    let decider = Decider {
        by: &by.by,
        reason: reason.map(String::as_str),
    };
    sinks.order(&chosen, order, &decider).await?;
    let outcomes = sinks.outcomes(&chosen).await?;
    for (effect, outcome) in chosen.iter().zip(outcomes) {
        let (event, sink, order) = (effect.id(), &effect.sink, order.name());
        eprintln!("{event}: {order} of {sink}: {outcome}");
    }
    Ok(true)
}

fn list(listed: &ListedPage, format: Option<Format>, color: Color) -> Result<()> {
    let mut answer = Answer::new(format, None, color, LIST)?;
    for effect in &listed.effects {
        let tried = &effect.event.tried;
        let cells = vec![
            effect.id().to_owned(),
            effect.sink.clone(),
            effect.state.name().to_owned(),
            effect.event.record.topic.to_string(),
            effect.key_text(),
            tried.attempts.to_string(),
            effect.next_attempt().unwrap_or_default(),
            tried.last_error.clone().unwrap_or_default(),
        ];
        answer.row(|| effect.json(), cells, Look::Plain)?;
    }
    let title = match (listed.effects.len(), listed.total) {
        (_, 0) => "no effects wait".to_owned(),
        (count, total) if count == total => format!("{total} effects wait"),
        (count, total) => format!("{count} of {total} effects that wait"),
    };
    answer.finish(&title)
}
