//! Whether a table's definition changed behind the place where a replay is to begin: rows from before the change do not fit
//! the table that is there now.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use change::trouble::Trouble;

use crate::delivery::control_topics;
use crate::error::{Code, Result};
use crate::event::Op;
use crate::event::commit_time_us;
use crate::kafka::record::Record;
use crate::kafka::scan::Scan;
use crate::replay::start::{Bounds, Start};
use crate::sink::postgres::schema::definition::Definition;
use crate::sink::postgres::schema::definitions::FollowedDefinition;
use crate::sink::postgres::schema::schema_event::SchemaBody;
use crate::timestamp::rfc3339;

/// Refuses a beginning before a change that the sink has followed already; `live` are the highest versions that it has of its
/// topics, `control` the control topics. Says from when on it works.
pub(crate) fn refuse(
    scan: &Scan,
    start: &Start,
    control: &[Bounds],
    live: &HashMap<Arc<str>, String>,
    followed: &HashMap<String, FollowedDefinition>,
) -> Result<()> {
    let first = start.place.map(|place| place.to_string());
    let mut last: Option<(i64, String)> = None;
    let mut before: HashMap<String, Definition> = HashMap::new();
    for (at, (low, high)) in control.iter().filter(|(_, (low, high))| low < high) {
        scan.visit(at, *low, |record| {
            if record.op() == Some(Op::Schema)
                && let Some(topic) = control_topics::subject(&record)
                && let Some(now) = followed.get(topic)
            {
                let version = record.version().unwrap_or_default();
                let is_behind = first.as_deref().is_some_and(|first| version >= first)
                    && live.get(topic).is_some_and(|live| version <= live.as_str());
                if is_behind && is_change(&record, before.get(topic), now) {
                    let time_us = commit_time_us(&record).unwrap_or_default();
                    last = last.take().max(Some((time_us, topic.to_owned())));
                }
                let body = SchemaBody::parse(&record).ok();
                if let Some(definition) = body.as_ref().and_then(SchemaBody::definition) {
                    before.insert(topic.to_owned(), definition.clone());
                }
            }
            match record.offset + 1 < *high {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
    }
    let Some((time_us, topic)) = last else {
        return Ok(());
    };
    Err(Trouble::new(
        Code::SchemaChange,
        format!(
            "the definition of {topic} changed at {}, after the place where the replay was to begin",
            rfc3339(time_us)
        ),
        format!(
            "Replay from BEGINNING, or from a later time on: --from {}.",
            rfc3339(time_us + 1)
        ),
    ))
}

/// Whether the columns are others behind this definition than they were `before`, where that is known, or are `now`.
fn is_change(record: &Record, before: Option<&Definition>, now: &FollowedDefinition) -> bool {
    let Ok(body) = SchemaBody::parse(record) else {
        return true;
    };
    if body.is_farewell() {
        return false;
    }
    let is_same = before.is_some() && before == body.definition();
    let is_as_now = body.definition() == Some(&now.definition);
    !(is_as_now && (is_same || body.is_first()))
}
