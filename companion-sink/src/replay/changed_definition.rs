//! Whether a table's definition changed behind the place where a replay is to begin: rows from before the change do not fit
//! the table that is there now.

use crate::event::Op;
use change::event::headers::HeaderName;
use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::error::{Code, Error, Result};
use crate::event::commit_time_us;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::replay::scan::Scan;
use crate::replay::start::Start;
use crate::sink::postgres::schema::definitions::FollowedDefinition;
use crate::sink::postgres::schema::schema_event::SchemaBody;
use crate::timestamp::rfc3339;

/// Refuses a beginning before a change that the sink has followed already; `live` is how far it is. Says from when on it works.
pub(crate) fn refuse(
    scan: &Scan,
    start: &Start,
    live: &[(TopicPartition, i64)],
    followed: &HashMap<String, FollowedDefinition>,
) -> Result<()> {
    let mut last: Option<(i64, String)> = None;
    // A definition has a copy in every partition.
    for (at, end) in live.iter().filter(|(at, _)| at.partition == 0) {
        let Some(begin) = start.positions.get(at).map(|start| start.next_offset) else {
            continue;
        };
        let Some(now) = followed.get(&*at.topic) else {
            continue;
        };
        if begin >= *end {
            continue;
        }
        let mut columns: Option<String> = None;
        scan.visit(at, begin, |record| {
            if record.offset >= *end {
                return ControlFlow::Break(());
            }
            let hash = record
                .header(HeaderName::SCHEMA.as_str())
                .map(str::to_owned);
            if is_change(&record, columns.as_deref(), now) {
                let time_us = commit_time_us(&record).unwrap_or_default();
                last = last.take().max(Some((time_us, at.topic.to_string())));
            }
            columns = hash.or(columns.take());
            match record.offset + 1 < *end {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
    }
    let Some((time_us, topic)) = last else {
        return Ok(());
    };
    Err(Error::new(
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

/// Whether the columns are others behind this record; `before` is the hash of those before, where it is known.
fn is_change(record: &Record, before: Option<&str>, now: &FollowedDefinition) -> bool {
    if record.op() != Some(Op::Schema) {
        return false;
    }
    let Ok(body) = SchemaBody::parse(record) else {
        return true;
    };
    if body.is_farewell() {
        return false;
    }
    let is_same =
        before.is_some_and(|before| record.header(HeaderName::SCHEMA.as_str()) == Some(before));
    let is_as_now = body.definition() == Some(&now.definition);
    !(is_as_now && (is_same || body.is_first()))
}
