//! `companion-sink dlq`: events that a sink could not apply, and what is to become of them.

use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::Instant;

use crate::cli::answer::{Answer, Format, Look};
use crate::config::Loaded;
use crate::dlq;
use crate::dlq::edit::Set;
use crate::dlq::outcome::{WAIT, outcome};
use crate::dlq::{Found, Held, Store, WantedDecision};
use crate::error::Result;
use crate::rejected::parked_event::{Decider, Parked, Refused, Whole};
use crate::terminal::Color;

const LIST: &[&str] = &[
    "EVENT",
    "SINK",
    "TOPIC",
    "KEY",
    "CODE",
    "REASON",
    "ATTEMPTS",
    "LAST FAILED (UTC)",
    "BEHIND",
    "STATE",
];
const SHOW: &[&str] = &["", "VALUE"];

/// What to do with refused events.
#[derive(Debug, Args)]
pub(crate) struct DlqCommand {
    #[command(subcommand)]
    action: DlqAction,
}

#[derive(Debug, Subcommand)]
enum DlqAction {
    /// The refused events of all sinks
    List {
        #[command(flatten)]
        of: SinkArgument,
        /// Only of this reason, such as conversion
        #[arg(long)]
        reason: Option<String>,
    },
    /// One event, with its content and what was decided about it
    Show {
        /// The event id, or its beginning
        id: String,
        #[command(flatten)]
        of: SinkArgument,
    },
    /// Try events again, after the target was corrected
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
    /// Try an event again with other values; the original is kept in the record of actions
    Edit {
        /// The event id, or its beginning
        id: String,
        /// after.COLUMN=VALUE; VALUE as in the event: JSON, else a text
        #[arg(long, value_name = "after.COLUMN=VALUE", required = true)]
        set: Vec<String>,
        /// Why, for the record of actions and the history
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        of: SinkArgument,
        #[command(flatten)]
        decider: By,
    },
    /// Leave events out for good: the target differs from its source there until these values change again
    Skip {
        /// Event ids, or their beginnings
        #[arg(required = true)]
        ids: Vec<String>,
        /// Why, for the record of actions
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        of: SinkArgument,
        #[command(flatten)]
        decider: By,
    },
}

// Also of the commands about effects. A doc comment here would be a command's help.
#[derive(Debug, Args)]
pub(super) struct SinkArgument {
    /// Only of this sink
    #[arg(long, value_name = "NAME")]
    pub(super) sink: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct By {
    /// Who decides, for the record
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    pub(super) by: String,
}

impl DlqCommand {
    /// Does it; false if there is no such event.
    pub(crate) async fn run(&self, config: &Loaded, json: bool, color: Color) -> Result<bool> {
        let format = json.then_some(Format::Json);
        let places = dlq::Dlq::new(config);
        let stores = places.open(self.action.of().sink.as_deref()).await?;
        match &self.action {
            DlqAction::List { reason, .. } => {
                list(&stores, reason.as_deref(), format, color).await?;
                Ok(true)
            }
            DlqAction::Show { id, .. } => match find(&stores, id).await? {
                Some(held) => show(held, format, color).await.map(|()| true),
                None => Ok(false),
            },
            DlqAction::Retry {
                ids, all, decider, ..
            } => {
                let all = match all {
                    true => Some(dlq::list(&stores, None, None).await?),
                    false => chosen(&stores, ids).await?,
                };
                decide(all, WantedDecision::Retry, decider, None).await
            }
            DlqAction::Edit {
                id,
                set,
                reason,
                decider,
                ..
            } => {
                let set: Result<Vec<Set>> = set.iter().map(|set| Set::parse(set)).collect();
                let chosen = chosen(&stores, std::slice::from_ref(id)).await?;
                decide(chosen, WantedDecision::Edit(&set?), decider, Some(reason)).await
            }
            DlqAction::Skip {
                ids,
                reason,
                decider,
                ..
            } => {
                let chosen = chosen(&stores, ids).await?;
                decide(chosen, WantedDecision::Skip, decider, Some(reason)).await
            }
        }
    }
}

impl DlqAction {
    fn of(&self) -> &SinkArgument {
        match self {
            DlqAction::List { of, .. }
            | DlqAction::Show { of, .. }
            | DlqAction::Retry { of, .. }
            | DlqAction::Edit { of, .. }
            | DlqAction::Skip { of, .. } => of,
        }
    }
}

/// The event of an id; says so where there is none.
async fn find<'s>(stores: &'s [Store], id: &str) -> Result<Option<Held<'s>>> {
    match dlq::find(stores, id).await? {
        Found::One(held) => Ok(Some(*held)),
        Found::Several(error) => Err(error),
        Found::None => {
            eprintln!("companion-sink: no refused event {id}");
            Ok(None)
        }
    }
}

/// The events of all the ids; none if one of them is of no event.
async fn chosen<'s>(stores: &'s [Store], ids: &[String]) -> Result<Option<Vec<Held<'s>>>> {
    let mut chosen = Vec::with_capacity(ids.len());
    for id in ids {
        match find(stores, id).await? {
            Some(held) => chosen.push(held),
            None => return Ok(None),
        }
    }
    Ok(Some(chosen))
}

async fn decide(
    chosen: Option<Vec<Held<'_>>>,
    order: WantedDecision<'_>,
    by: &By,
    reason: Option<&String>,
) -> Result<bool> {
    let Some(chosen) = chosen else {
        return Ok(false);
    };
    let decider = Decider {
        by: &by.by,
        reason: reason.map(String::as_str),
    };
    if chosen.is_empty() {
        eprintln!("companion-sink: nothing was refused: there is nothing to decide");
    }
    let mut decided = Vec::with_capacity(chosen.len());
    for mut held in chosen {
        let decision = held.decision(order).await?;
        let name = decision.name();
        held.decide(decision, decider).await?;
        decided.push((held, name));
    }
    let until = Instant::now() + WAIT;
    for (held, name) in decided {
        let outcome = outcome(&held, until).await?.text(name);
        let (event, sink) = (&held.event.event_id, &held.store.sink);
        eprintln!("{event}: {name} of {sink}: {outcome}");
    }
    Ok(true)
}

async fn list(
    stores: &[Store],
    reason: Option<&str>,
    format: Option<Format>,
    color: Color,
) -> Result<()> {
    let mut answer = Answer::new(format, None, color, LIST)?;
    for Held { store, event } in dlq::list(stores, reason, None).await? {
        let cells = cells(&store.sink, &event);
        answer.row(|| event.json(&store.sink), cells, Look::Plain)?;
    }
    let title = match answer.count() {
        0 => "no refused events".to_owned(),
        count => format!("{count} refused events"),
    };
    answer.finish(&title)
}

fn cells(sink: &str, event: &Parked) -> Vec<String> {
    let failure = event.failure.as_ref();
    let of = |part: fn(&Refused) -> String| failure.map(part).unwrap_or_default();
    vec![
        event.event_id.clone(),
        sink.to_owned(),
        event.record.topic.to_string(),
        event.key_text(),
        of(|failure| failure.code.clone()),
        of(|failure| failure.reason.clone()),
        of(|failure| failure.attempts.to_string()),
        of(|failure| failure.last_failed.clone()),
        event.behind.to_string(),
        event.state().to_owned(),
    ]
}

async fn show(held: Held<'_>, format: Option<Format>, color: Color) -> Result<()> {
    let sink = &held.store.sink;
    let whole = held.whole().await?;
    let mut answer = Answer::new(format, None, color, SHOW)?;
    if answer.is_json() {
        return answer.text(&format!("{}\n", whole.json(sink)));
    }
    for (name, value) in lines(sink, &whole) {
        answer.row(|| Value::Null, vec![name, value], Look::Plain)?;
    }
    answer.finish(&whole.event.event_id)
}

/// An event for people.
fn lines(sink: &str, whole: &Whole) -> Vec<(String, String)> {
    let event = &whole.event;
    let names = LIST.iter().map(|name| name.to_lowercase());
    let mut lines: Vec<(String, String)> = names.zip(cells(sink, event)).collect();
    if let Some(failure) = &event.failure {
        lines.push(("message".into(), failure.message.clone()));
        lines.push(("first failed (utc)".into(), failure.first_failed.clone()));
    }
    let headers = whole.headers();
    lines.extend(headers.map(|(name, value)| (format!("header {name}"), value)));
    let body = String::from_utf8_lossy(&whole.body);
    lines.push(("body".into(), body.into_owned()));
    lines.extend(whole.edited_body().map(|body| ("edited body".into(), body)));
    lines.extend(whole.actions.iter().map(|action| {
        let reason = action.reason.as_deref().unwrap_or_default();
        (
            format!("{} by {}", action.action, action.by),
            format!("{} {reason}", action.at),
        )
    }));
    lines
}
