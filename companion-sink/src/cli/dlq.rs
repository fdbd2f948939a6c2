//! `companion-sink dlq`: events that a replica could not apply, and what is to become of them.

use clap::{Args, Subcommand};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::Color;
use super::answer::{Answer, Format, Look};
use crate::config::{Config, Kind};
use crate::error::{Error, Result};
use crate::event::Image;
use crate::sink::postgres;
use crate::sink::postgres::parked::{Decider, Decision, Parked, ParkedEvents};

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
pub struct Dlq {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The refused events of all replicas
    List {
        /// Only of this sink
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// Only of this reason, such as conversion
        #[arg(long)]
        reason: Option<String>,
    },
    /// One event, with its content and what was decided about it
    Show {
        /// The event id, or its beginning
        id: String,
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
        decider: By,
    },
    /// Try an event again with other values; the original is kept in the record of actions
    Edit {
        /// The event id, or its beginning
        id: String,
        /// after.COLUMN=VALUE; VALUE as in the event: JSON, else a text
        #[arg(long, value_name = "after.COLUMN=VALUE", required = true)]
        set: Vec<String>,
        #[command(flatten)]
        decider: By,
    },
    /// Leave events out for good: the replica differs from its source there until these values change again
    Skip {
        /// Event ids, or their beginnings
        #[arg(required = true)]
        ids: Vec<String>,
        /// Why, for the record of actions
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        decider: By,
    },
}

#[derive(Debug, Args)]
struct By {
    /// Who decides, for the record of actions
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    by: String,
}

/// The state of one replica.
struct Store {
    /// The sink's name.
    name: String,
    /// The sink in the state.
    state_name: String,
    /// Quoted.
    state_schema: String,
    client: Client,
}

impl Store {
    fn events(&self) -> ParkedEvents<'_> {
        ParkedEvents {
            schema: &self.state_schema,
            sink: &self.state_name,
        }
    }
}

impl Dlq {
    /// Does it; false if there is no such event.
    pub async fn run(&self, config: &Config, json: bool, color: Color) -> Result<bool> {
        let format = json.then_some(Format::Json);
        match &self.action {
            Action::List { sink, reason } => {
                let stores = connect(config, sink.as_deref()).await?;
                list(&stores, reason.as_deref(), format, color).await?;
                Ok(true)
            }
            Action::Show { id } => {
                let stores = connect(config, None).await?;
                match find(&stores, id).await? {
                    Some((store, event)) => show(store, &event, format, color).await.map(|()| true),
                    None => Ok(false),
                }
            }
            Action::Retry { ids, all, decider } => {
                let stores = connect(config, None).await?;
                let ids: &[String] = if *all { &[] } else { ids };
                decide(&stores, ids, *all, decider, None, |_| Ok(Decision::Retry)).await
            }
            Action::Edit { id, set, decider } => {
                let stores = connect(config, None).await?;
                let edited = |event: &Parked| {
                    let body = event.record.value().unwrap_or_default();
                    Ok(Decision::Edit(edit(body, set)?))
                };
                decide(
                    &stores,
                    std::slice::from_ref(id),
                    false,
                    decider,
                    None,
                    edited,
                )
                .await
            }
            Action::Skip {
                ids,
                reason,
                decider,
            } => {
                let stores = connect(config, None).await?;
                decide(&stores, ids, false, decider, Some(reason), |_| {
                    Ok(Decision::Skip)
                })
                .await
            }
        }
    }
}

async fn connect(config: &Config, only: Option<&str>) -> Result<Vec<Store>> {
    let mut stores = Vec::new();
    let mut is_known = false;
    for (name, sink) in &config.sinks {
        let Kind::Postgres(settings) = &sink.kind else {
            continue;
        };
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let client = postgres::open(&sink.url, name, &format!("sink.{name}.url")).await?;
        is_known = true;
        let store = Store {
            name: name.clone(),
            state_name: format!("{}.{name}", config.name),
            state_schema: postgres::tables::quoted(&settings.state_schema),
            client,
        };
        // A sink that never ran has refused nothing.
        if store.events().are_there(&store.client).await? {
            stores.push(store);
        }
    }
    if !is_known {
        return Err(Error::configuration(
            match only {
                Some(name) => format!("no sink \"{name}\" of kind postgres in the configuration"),
                None => "no sink of kind postgres in the configuration".to_owned(),
            },
            "Refused events of other sinks are in the topics <topic>.dlq only.",
        ));
    }
    Ok(stores)
}

async fn list(
    stores: &[Store],
    reason: Option<&str>,
    format: Option<Format>,
    color: Color,
) -> Result<()> {
    let mut answer = Answer::new(format, None, color, LIST)?;
    for store in stores {
        for event in store.events().refused(&store.client, "", reason).await? {
            let cells = cells(store, &event);
            answer.row(|| object(store, &event), cells, Look::Plain)?;
        }
    }
    let title = match answer.count() {
        0 => "no refused events".to_owned(),
        count => format!("{count} refused events"),
    };
    answer.finish(&title)
}

fn cells(store: &Store, event: &Parked) -> Vec<String> {
    let failure = event.failure.as_ref();
    let of = |part: fn(&postgres::parked::Refused) -> String| failure.map(part).unwrap_or_default();
    vec![
        event.event_id.clone(),
        store.name.clone(),
        event.record.topic.to_string(),
        String::from_utf8_lossy(event.record.key().unwrap_or_default()).into_owned(),
        of(|failure| failure.code.clone()),
        of(|failure| failure.reason.clone()),
        of(|failure| failure.attempts.to_string()),
        of(|failure| failure.last_failed.clone()),
        event.behind.to_string(),
        state(event).to_owned(),
    ]
}

fn state(event: &Parked) -> &'static str {
    match (&event.decision, event.halts) {
        (Some(Decision::Retry), _) => "retry decided",
        (Some(Decision::Edit(_)), _) => "edit decided",
        (Some(Decision::Skip), _) => "skip decided",
        (None, true) => "halts the sink",
        (None, false) => "parks its key",
    }
}

fn object(store: &Store, event: &Parked) -> Value {
    let failure = event.failure.as_ref();
    json!({
        "event": event.event_id, "sink": store.name, "topic": &*event.record.topic, "partition": event.record.partition,
        "offset": event.record.offset, "key": String::from_utf8_lossy(event.record.key().unwrap_or_default()),
        "code": failure.map(|failure| &failure.code), "reason": failure.map(|failure| &failure.reason),
        "message": failure.map(|failure| &failure.message), "attempts": failure.map(|failure| failure.attempts),
        "first_failed": failure.map(|failure| &failure.first_failed),
        "last_failed": failure.map(|failure| &failure.last_failed), "behind": event.behind, "state": state(event),
    })
}

async fn show(store: &Store, event: &Parked, format: Option<Format>, color: Color) -> Result<()> {
    let actions = store
        .events()
        .actions(&store.client, &event.event_id)
        .await?;
    let mut answer = Answer::new(format, None, color, SHOW)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let body = text(event.record.value().unwrap_or_default());
    let edited = match &event.decision {
        Some(Decision::Edit(body)) => Some(text(body)),
        _ => None,
    };
    if answer.is_json() {
        let mut object = object(store, event);
        object["body"] = json!(body);
        object["edited_body"] = json!(edited);
        object["headers"] = event
            .record
            .headers()
            .map(|(name, value)| (name.to_owned(), json!(text(value.unwrap_or_default()))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        object["actions"] = actions
            .iter()
            .map(|action| {
                json!({"action": action.action, "by": action.by, "at": action.at, "reason": action.reason})
            })
            .collect();
        return answer.text(&format!("{object}\n"));
    }
    let mut lines: Vec<(String, String)> = LIST
        .iter()
        .map(|name| name.to_lowercase())
        .zip(cells(store, event))
        .collect();
    if let Some(failure) = &event.failure {
        lines.push(("message".into(), failure.message.clone()));
        lines.push(("first failed (utc)".into(), failure.first_failed.clone()));
    }
    lines.extend(
        event
            .record
            .headers()
            .map(|(name, value)| (format!("header {name}"), text(value.unwrap_or_default()))),
    );
    lines.push(("body".into(), body));
    lines.extend(edited.map(|body| ("edited body".into(), body)));
    lines.extend(actions.iter().map(|action| {
        let reason = action.reason.as_deref().unwrap_or_default();
        (
            format!("{} by {}", action.action, action.by),
            format!("{} {reason}", action.at),
        )
    }));
    for (name, value) in lines {
        answer.row(|| Value::Null, vec![name, value], Look::Plain)?;
    }
    answer.finish(&event.event_id)
}

/// The event whose id begins with `id`; an error if there are several.
async fn find<'s>(stores: &'s [Store], id: &str) -> Result<Option<(&'s Store, Parked)>> {
    let mut found = None;
    for store in stores {
        for event in store.events().refused(&store.client, id, None).await? {
            if let Some((_, other)) = &found {
                let other: &Parked = other;
                return Err(Error::configuration(
                    format!(
                        "{id} is the beginning of several events: {}, {}",
                        other.event_id, event.event_id
                    ),
                    "Write more of it; `companion-sink dlq list` shows the ids, --sink those of one sink.",
                ));
            }
            found = Some((store, event));
        }
    }
    Ok(found)
}

async fn decide(
    stores: &[Store],
    ids: &[String],
    all: bool,
    by: &By,
    reason: Option<&String>,
    decision: impl Fn(&Parked) -> Result<Decision>,
) -> Result<bool> {
    let mut events = Vec::new();
    for id in ids {
        match find(stores, id).await? {
            Some(found) => events.push(found),
            None => {
                eprintln!("companion-sink: no refused event {id}");
                return Ok(false);
            }
        }
    }
    if all {
        for store in stores {
            let refused = store.events().refused(&store.client, "", None).await?;
            events.extend(refused.into_iter().map(|event| (store, event)));
        }
    }
    let decider = Decider {
        by: &by.by,
        reason: reason.map(String::as_str),
    };
    for (store, event) in &events {
        let decision = decision(event)?;
        store
            .events()
            .decide(&store.client, &event.event_id, &decision, decider)
            .await?;
        eprintln!("{}: {} of {}", event.event_id, decision.name(), store.name);
    }
    Ok(true)
}

/// The body with other values in its image after the change; everything else stays as it is, to the byte.
fn edit(body: &[u8], set: &[String]) -> Result<Vec<u8>> {
    let wrong = |what: String| {
        Error::configuration(
            what,
            "Write --set after.COLUMN=VALUE; `dlq show` has the columns.",
        )
    };
    let event = Image::parse(body).map_err(|why| wrong(format!("the event: {why}")))?;
    let after = event.get("after").map_or("", RawValue::get);
    let image = Image::parse(after.as_bytes())
        .map_err(|_| wrong("the event has no image after the change".to_owned()))?;
    let mut values: Vec<(String, String)> = image
        .0
        .iter()
        .map(|(name, value)| (name.clone().into_owned(), value.get().to_owned()))
        .collect();
    for set in set {
        let parts = set
            .strip_prefix("after.")
            .and_then(|set| set.split_once('='));
        let (column, value) =
            parts.ok_or_else(|| wrong(format!("{set} is not after.COLUMN=VALUE")))?;
        let known = values.iter_mut().find(|(name, _)| name == column);
        let (_, old) = known.ok_or_else(|| wrong(format!("the event has no column {column}")))?;
        *old = match serde_json::from_str::<&RawValue>(value) {
            Ok(json) => json.get().to_owned(),
            Err(_) => Value::from(value).to_string(),
        };
    }
    let new_after = object_text(
        values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    let parts = event.0.iter().map(|(name, value)| match &**name {
        "after" => (&**name, new_after.as_str()),
        _ => (&**name, value.get()),
    });
    Ok(object_text(parts).into_bytes())
}

fn object_text<'a>(members: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let members = members.map(|(name, value)| format!("{}:{value}", Value::from(name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_nothing_else() {
        let body = br#"{"id":"n-1","before":null,"after":{"id":9223372036854775807,"n":1e400,"city":"a\"b"},"ts_ms":1}"#;
        let edited = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
            edit(body, &set).map(|body| String::from_utf8(body).unwrap())
        };
        assert_eq!(
            edited(&["after.city=Bern", "after.n=5"]).unwrap(),
            r#"{"id":"n-1","before":null,"after":{"id":9223372036854775807,"n":5,"city":"Bern"},"ts_ms":1}"#
        );
        assert!(
            edited(&["after.city=null"])
                .unwrap()
                .contains(r#""city":null"#)
        );
        assert!(
            edited(&["after.town=x"])
                .unwrap_err()
                .what
                .contains("no column town")
        );
        assert!(edited(&["city=x"]).is_err());
    }
}
