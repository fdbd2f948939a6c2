//! The rows of `cdc_tables`, as JSON; `sql/status.sql` gives them their columns.

use std::sync::atomic::Ordering;

use change::code::Code;
use change::options::Options;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Value, json};
use shipper::files::orders::{Aside, Orders};

use super::status::timestamp;
use super::unsound_triggers::{Unsound, unsound};
use crate::shared::{self, Shared};
use crate::tracked::own_trigger::{COLUMNS, IS_ROW_TRIGGER, Standing, Tracked};
use crate::tracked::statement;

/// Row triggers of tables that the caller may read (a partition's is its root's), and the table's own key.
const TRIGGERS: &str = "
    SELECT COLUMNS, (
        SELECT pg_catalog.string_agg(pg_catalog.convert_to(a.attname::text, 'UTF8'), '\\x00'::bytea ORDER BY k.place)
        FROM (SELECT i.indrelid, i.indkey, i.indnkeyatts FROM pg_catalog.pg_index i
              WHERE i.indrelid = t.tgrelid AND i.indimmediate AND (i.indisprimary OR i.indisreplident)
              ORDER BY i.indisprimary DESC LIMIT 1) i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(number, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE k.place <= i.indnkeyatts)
    FROM pg_catalog.pg_trigger t
    WHERE IS_ROW_TRIGGER AND t.tgparentid = 0
      AND (pg_catalog.pg_has_role('pg_monitor', 'USAGE') OR pg_catalog.pg_has_role('cdc_admin', 'USAGE')
           OR pg_catalog.has_table_privilege(t.tgrelid, 'SELECT'))";

/// Every tracked table: an array of objects, in UTF-8. No table is locked, so the answer comes whatever they go through.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_tables() RETURNS bytea LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
pub(crate) fn tables_json() -> Vec<u8> {
    Value::Array(tables()).to_string().into_bytes()
}

/// The tables that the caller may read; `warning` is `code`, a colon and `remedy`.
pub(crate) fn tables() -> Vec<Value> {
    let shared = shared::shared();
    let query = TRIGGERS
        .replace("COLUMNS", COLUMNS)
        .replace("IS_ROW_TRIGGER", IS_ROW_TRIGGER);
    // Where the orders cannot be read, the sender says so.
    let asides = Orders::read().map(|orders| orders.asides);
    let asides = asides.unwrap_or_default();
    let rows = statement::pinned(|| {
        Spi::connect(|client| {
            let found = client.select(&query, None, &[])?;
            found
                .map(|row| {
                    let (relation, tracked) = Tracked::from_row(&row)?;
                    let key = row.get::<Vec<u8>>(6)?;
                    Ok((relation, tracked, key))
                })
                .collect::<Result<Vec<_>, pgrx::spi::Error>>()
        })
    });
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => pgrx::error!("pg_cdc could not read its triggers: {error}"),
    };
    let unsound = unsound(None);
    rows.iter()
        .map(|(relation, tracked, key)| {
            let mut options = tracked.options.clone();
            if let (true, Some(key)) = (options.key.is_empty(), key) {
                let names = key.split(|byte| *byte == 0);
                options.key = names
                    .map(|name| String::from_utf8_lossy(name).into_owned())
                    .collect();
            }
            table(
                shared,
                *relation,
                &options,
                &unsound,
                tracked.standing,
                &asides,
            )
        })
        .collect()
}

fn table(
    shared: Option<&Shared>,
    relation: pg_sys::Oid,
    options: &Options,
    unsound: &[Unsound],
    standing: Standing,
    asides: &[Aside],
) -> Value {
    let list = |names: &[String]| {
        if names.is_empty() {
            Value::Null
        } else {
            json!(names)
        }
    };
    let topics: serde_json::Map<String, Value> = options
        .topics
        .iter()
        .map(|(operation, topic)| (operation.name().to_owned(), topic.clone().into()))
        .collect();
    let masks: serde_json::Map<String, Value> = options
        .mask
        .iter()
        .map(|(column, mask)| (column.clone(), mask.to_string().into()))
        .collect();
    let object = |map: serde_json::Map<String, Value>| {
        if map.is_empty() {
            Value::Null
        } else {
            Value::Object(map)
        }
    };
    let parts = || unsound.iter().filter(|part| part.root == relation);
    let missed = parts().find(|part| part.misses(options));
    let unlogged = parts().find(|part| part.unlogged);
    let aside = asides.iter().find(|aside| {
        let mut topics = options.topics.values().chain([&options.topic]);
        topics.any(|topic| *topic == aside.topic)
    });
    let aside = aside.map(|aside| aside.trouble.code);
    let (state, warning) = if shared.is_none() {
        (
            "not covered",
            Some((
                Code::NothingCaptured,
                "the library is not loaded; add pg_cdc to shared_preload_libraries and restart"
                    .to_owned(),
            )),
        )
    } else if standing == Standing::Unsealed {
        (
            "not sealed",
            Some((
                Code::TriggerUnsealed,
                "not made by cdc_track; call it again, or drop the trigger".to_owned(),
            )),
        )
    } else if standing == Standing::Copy {
        (
            "copied",
            Some((
                Code::TableIsCopy,
                "made in another database or on another server; call cdc_track again".to_owned(),
            )),
        )
    } else if let Some(part) = missed {
        let remedy = format!(
            "changes of {} go by; call cdc_track again, and cdc_snapshot to repair what was missed",
            part.name
        );
        ("trigger disabled", Some((Code::TableNotCaptured, remedy)))
    } else if let Some(code) = aside {
        ("put aside", Some((code, remedy_of_aside(code).to_owned())))
    } else if let Some(part) = unlogged {
        let remedy = format!(
            "a crash empties {} without an event; ALTER TABLE {0} SET LOGGED",
            part.name
        );
        ("capturing", Some((Code::PartitionUnlogged, remedy)))
    } else {
        ("capturing", None)
    };
    let mut counted = Default::default();
    if let Some(shared) = shared {
        let own = options.topics.values().map(String::as_str);
        let mut names: Vec<&str> = own.chain([options.topic.as_str()]).collect();
        names.sort_unstable();
        names.dedup();
        counted = shared.topic_counters.sum(names.into_iter());
    }
    json!({
        "relation": relation.to_u32(),
        "topic": options.topic,
        "topics": object(topics),
        "key": list(&options.key),
        "operations": options.operations.to_string(),
        "include": list(&options.include),
        "exclude": list(&options.exclude),
        "mask": object(masks),
        "filter": if options.filter.is_empty() { Value::Null } else { options.filter.clone().into() },
        "skip_unchanged": options.skip_unchanged,
        "origin": if options.local_only { "local" } else { "any" },
        "state": state,
        "since": timestamp(shared.map_or(0, |shared| shared.stats_reset.load(Ordering::Relaxed))),
        "events": counted.events,
        "bytes": counted.bytes,
        "last_event": timestamp(counted.last_event_us),
        "warning": warning.as_ref().map(|(code, remedy)| format!("{code}: {remedy}")),
        "code": warning.as_ref().map(|(code, _)| code),
        "remedy": warning.as_ref().map(|(_, remedy)| remedy),
    })
}

/// What to do about a topic that is put aside.
fn remedy_of_aside(code: Code) -> &'static str {
    match code {
        Code::TopicNotMade => {
            "its topic cannot be made; choose another with cdc_track(…, topic => …), then cdc_snapshot() it"
        }
        Code::TopicUnusable => {
            "its topic is missing or not allowed; see to that, then cdc_resume_topic()"
        }
        Code::EventRefused => {
            "its topic refuses events; see to the topic's settings, or track the table with a key, then cdc_resume_topic()"
        }
        _ => {
            "an event does not fit into its topic; let the topic take more, then cdc_resume_topic()"
        }
    }
}
