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
            let state = match shared {
                None => TableState::new(
                    "not_covered",
                    Code::NothingCaptured,
                    "the library is not loaded; add pg_cdc to shared_preload_libraries and restart",
                ),
                Some(_) => TableState::of(*relation, &options, &unsound, tracked.standing, &asides),
            };
            table(shared, *relation, &options, state)
        })
        .collect()
}

/// An object without members is none.
fn object(map: serde_json::Map<String, Value>) -> Value {
    if map.is_empty() {
        Value::Null
    } else {
        Value::Object(map)
    }
}

fn list(names: &[String]) -> Value {
    if names.is_empty() {
        Value::Null
    } else {
        json!(names)
    }
}

fn table(
    shared: Option<&Shared>,
    relation: pg_sys::Oid,
    options: &Options,
    state: TableState,
) -> Value {
    let topics = options.topics.iter();
    let topics = topics.map(|(operation, topic)| (operation.name().to_owned(), json!(topic)));
    let masks = options.mask.iter();
    let masks = masks.map(|(column, mask)| (column.clone(), mask.to_string().into()));
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
        "topics": object(topics.collect()),
        "key": list(&options.key),
        "operations": options.operations.to_string(),
        "include": list(&options.include),
        "exclude": list(&options.exclude),
        "mask": object(masks.collect()),
        "filter": if options.filter.is_empty() { Value::Null } else { options.filter.clone().into() },
        "skip_unchanged": options.skip_unchanged,
        "origin": if options.local_only { "local" } else { "any" },
        "state": state.name,
        "since": timestamp(shared.map_or(0, |shared| shared.stats_reset.load(Ordering::Relaxed))),
        "events": counted.events,
        "bytes": counted.bytes,
        "last_event": timestamp(counted.last_event_us),
        "warning": state.warning.as_ref().map(|(code, remedy)| format!("{code}: {remedy}")),
        "code": state.warning.as_ref().map(|(code, _)| code),
        "remedy": state.warning.as_ref().map(|(_, remedy)| remedy),
    })
}

/// Whether a table is captured, and what is to be done about it.
struct TableState {
    name: &'static str,
    /// A code and what to do.
    warning: Option<(Code, String)>,
}

impl TableState {
    fn new(name: &'static str, code: Code, remedy: impl Into<String>) -> TableState {
        TableState {
            name,
            warning: Some((code, remedy.into())),
        }
    }

    /// Of a table whose library is loaded.
    fn of(
        relation: pg_sys::Oid,
        options: &Options,
        unsound: &[Unsound],
        standing: Standing,
        asides: &[Aside],
    ) -> TableState {
        match standing {
            Standing::Unsealed => {
                return TableState::new(
                    "not_sealed",
                    Code::TriggerUnsealed,
                    "not made by cdc_track; call it again, or drop the trigger",
                );
            }
            Standing::Copy => {
                return TableState::new(
                    "copied",
                    Code::TableIsCopy,
                    "made in another database or on another server; call cdc_track again",
                );
            }
            Standing::Here => {}
        }
        let parts = || unsound.iter().filter(|part| part.root == relation);
        let missed = parts().find(|part| part.misses(options));
        let aside = asides.iter().find(|aside| {
            let mut topics = options.topics.values().chain([&options.topic]);
            topics.any(|topic| *topic == aside.topic)
        });
        if let Some(part) = missed {
            let remedy = format!(
                "changes of {} go by; call cdc_track again, and cdc_snapshot to repair what was missed",
                part.name
            );
            return TableState::new("trigger_disabled", Code::TableNotCaptured, remedy);
        }
        if let Some(aside) = aside {
            let code = aside.trouble.code;
            return TableState::new("put_aside", code, remedy_of_aside(code));
        }
        let unlogged = parts().find(|part| part.unlogged);
        TableState {
            name: "capturing",
            warning: unlogged.map(|part| {
                let remedy = format!(
                    "a crash empties {} without an event; ALTER TABLE {0} SET LOGGED",
                    part.name
                );
                (Code::PartitionUnlogged, remedy)
            }),
        }
    }
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
