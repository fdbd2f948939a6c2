//! `cdc_track` and `cdc_untrack`: the triggers on a table are the configuration, nothing else is kept.

use std::sync::atomic::Ordering;

use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

use super::table::{ROW_TRIGGER, TRUNCATE_TRIGGER, Table, as_superuser, is_admin};
use crate::capture::database_name;
use crate::capture::relation_plan::{Options, place};
use crate::report::{Report, not_loaded};
use crate::settings;
use crate::shared::{self, Shared};

/// How long a server that has just started may take until its sender holds the slot.
const SENDER_START_MS: i64 = 10_000;

/// Ships every committed change of `relation` from now on; a second call changes what is given. Returns the topic.
#[pg_extern(
    sql = "CREATE FUNCTION cdc_track(relation regclass, topic text = NULL, key text[] = NULL) RETURNS text LANGUAGE c PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn cdc_track(
    relation: Option<pg_sys::Oid>,
    topic: Option<&str>,
    key: Option<Vec<Option<String>>>,
) -> Option<String> {
    relation.map(|relation| track(relation, topic, key))
}

fn track(relation: pg_sys::Oid, topic: Option<&str>, key: Option<Vec<Option<String>>>) -> String {
    let Some(shared) = shared::shared() else {
        not_loaded().raise()
    };
    let table = Table::open(relation);
    table.refuse_unsupported();
    require_sender(shared);

    let before = table.options();
    let so_far = before.clone().unwrap_or_default();
    let columns: Vec<String> = table
        .columns()
        .into_iter()
        .map(|column| column.name)
        .collect();
    let key: Vec<String> = match key {
        Some(key) => key.into_iter().flatten().collect(),
        None => so_far.key.clone(),
    };
    if let Some(missing) = key.iter().find(|name| !columns.contains(name)) {
        missing_column(&table, missing, &columns).raise();
    }
    let identity = table.identity(key.is_empty());
    let database = database_name();
    let prefix = settings::topic_prefix(&database);
    let topic = match topic.filter(|topic| !topic.is_empty()) {
        Some(topic) => topic.to_owned(),
        // A copied trigger names the original's topic; here it holds only if it is one of this database's.
        None if so_far.source == place() || so_far.topic.starts_with(&format!("{prefix}.")) => {
            so_far.topic
        }
        None => format!(
            "{prefix}.{}",
            change::topic_name::join(&[&table.schema, &table.name])
        ),
    };
    check_topic(&table, &topic, &prefix);

    let wanted = Options {
        topic,
        key,
        source: place(),
    };
    let shown_key = if wanted.key.is_empty() {
        &identity
    } else {
        &wanted.key
    };
    if shown_key.is_empty() {
        no_key(&table).warn();
    }
    if before.as_ref() == Some(&wanted) {
        pgrx::notice!(
            "table \"{}\" is already tracked: its changes go to topic \"{}\"",
            table.name,
            wanted.topic
        );
        return wanted.topic;
    }
    make_triggers(&table, &wanted, before.is_some());
    table.capture_schema_change(&schema_change("CREATE", &database, &table, &identity));
    let shown_key = if shown_key.is_empty() {
        "none".to_owned()
    } else {
        shown_key.join(", ")
    };
    pgrx::notice!(
        "table \"{}\" is tracked: every change goes to topic \"{}\" (key: {shown_key})",
        table.name,
        wanted.topic
    );
    wanted.topic
}

/// Stops shipping `relation`; false, with a NOTICE, if it was not tracked.
#[pg_extern(
    sql = "CREATE FUNCTION cdc_untrack(relation regclass) RETURNS boolean LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn cdc_untrack(relation: pg_sys::Oid) -> bool {
    let table = Table::open(relation);
    if table.options().is_none() {
        pgrx::notice!("table \"{}\" is not tracked", table.name);
        return false;
    }
    // Without the library rows are not captured anyway, and a trigger that is left behind must still go away.
    if shared::shared().is_some() {
        let identity = table.identity(false);
        table.capture_schema_change(&schema_change(
            "UNTRACK",
            &database_name(),
            &table,
            &identity,
        ));
    }
    as_superuser(|| {
        for trigger in [ROW_TRIGGER, TRUNCATE_TRIGGER] {
            run(&format!(
                "DROP TRIGGER IF EXISTS {} ON {}",
                quote_identifier(trigger),
                table.sql_name()
            ));
        }
    });
    true
}

fn make_triggers(table: &Table, options: &Options, replace: bool) {
    let arguments: Vec<String> = options.arguments().iter().map(quote_literal).collect();
    let arguments = arguments.join(", ");
    let name = table.sql_name();
    // The functions lie where the extension does; triggers name them by that schema, not by search_path.
    let schema = Spi::get_one::<String>(
        "SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_cdc'",
    );
    let schema = quote_identifier(schema.ok().flatten().unwrap_or_else(|| "public".to_owned()));
    as_superuser(|| {
        for (trigger, events, function) in [
            (
                ROW_TRIGGER,
                "INSERT OR UPDATE OR DELETE",
                "FOR EACH ROW EXECUTE FUNCTION {}.cdc_capture",
            ),
            (
                TRUNCATE_TRIGGER,
                "TRUNCATE",
                "FOR EACH STATEMENT EXECUTE FUNCTION {}.cdc_capture_truncate",
            ),
        ] {
            let trigger = quote_identifier(trigger);
            if replace {
                run(&format!("DROP TRIGGER IF EXISTS {trigger} ON {name}"));
            }
            let function = function.replace("{}", &schema);
            run(&format!(
                "CREATE TRIGGER {trigger} AFTER {events} ON {name} {function}({arguments})"
            ));
            // Rows that a subscription applies, and those under session_replication_role = replica, count too.
            run(&format!(
                "ALTER TABLE {name} ENABLE ALWAYS TRIGGER {trigger}"
            ));
        }
    });
}

fn run(statement: &str) {
    if let Err(error) = Spi::run(statement) {
        pgrx::error!("pg_cdc could not run its own statement: {error}");
    }
}

/// The sender must hold the WAL before a trigger writes into it, else changes would be lost silently.
fn require_sender(shared: &Shared) {
    if settings::text(&settings::BROKERS).is_empty() {
        Report::new(
            "CDC0003",
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "cdc.brokers is not set",
            "ALTER SYSTEM SET cdc.brokers = 'host:9092', then SELECT pg_reload_conf().",
        )
        .detail("Without brokers no WAL is held, and changes would be lost.")
        .raise();
    }
    let ready = || shared.slot_ready.load(Ordering::Acquire) != 0;
    let failed = || matches!(shared.state(), shared::State::Halted | shared::State::Gap);
    shared.wait_until(SENDER_START_MS, || ready() || failed());
    if ready() {
        return;
    }
    if shared.sender_pid.load(Ordering::Acquire) == 0 {
        no_worker().raise();
    }
    let described = shared.described();
    let hint = if described.remedy.is_empty() {
        "See cdc_status().".to_owned()
    } else {
        described.remedy
    };
    let mut report = Report::new(
        "CDC0007",
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("sender is not ready ({})", shared.state().name()),
        hint,
    );
    if !described.error.is_empty() {
        report = report.detail(format!("{}: {}", described.error_code, described.error));
    }
    report.raise();
}

/// CDC0005: the sender could not be started.
pub fn no_worker() -> Report {
    Report::new(
        "CDC0005",
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "no free worker for the sender",
        "Raise max_worker_processes and restart the server.",
    )
    .detail("The sender is a background worker, and it is not running.")
}

fn missing_column(table: &Table, missing: &str, columns: &[String]) -> Report {
    let nearest = columns
        .iter()
        .min_by_key(|column| distance(column, missing));
    Report::new(
        "CDC0103",
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!(
            "column \"{missing}\" of relation \"{}\" does not exist",
            table.name
        ),
        nearest.map_or("The table has no columns.".to_owned(), |column| {
            format!("Perhaps you meant the column \"{column}\".")
        }),
    )
}

/// Levenshtein distance, for the nearest name.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, character) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..other.len() {
            let replaced = diagonal + usize::from(other[column] != character);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

fn no_key(table: &Table) -> Report {
    Report::new(
        "CDC0104",
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("table \"{}\" has no key", table.name),
        "Add a primary key, or name columns with key =>.",
    )
    .detail("All its changes go to one partition, and a replica must search for each changed row.")
}

/// CDC0108, CDC0102, CDC0106, CDC0109: a topic has a legal name, belongs to one table, and only an administrator may
/// choose one outside the database's prefix.
fn check_topic(table: &Table, topic: &str, prefix: &str) {
    if let Some(reason) = change::topic_name::refusal(topic) {
        Report::new(
            "CDC0108",
            PgSqlErrorCode::ERRCODE_INVALID_NAME,
            format!("\"{topic}\" is not a topic name"),
            "Choose another topic =>.",
        )
        .detail(format!("As a topic of pg_cdc {reason}."))
        .raise();
    }
    if !topic.starts_with(&format!("{prefix}.")) && !is_admin() {
        Report::new(
            "CDC0102",
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be cdc_admin to use topic \"{topic}\""),
            format!("Choose a topic that begins with \"{prefix}.\", or let an administrator GRANT cdc_admin to you."),
        )
        .raise();
    }
    let others = Spi::connect(|client| {
        let rows = client.select(
            "SELECT t.tgrelid::pg_catalog.regclass::text, pg_catalog.encode(t.tgargs, 'escape') FROM pg_catalog.pg_trigger t
             JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
             WHERE p.proname = 'cdc_capture' AND NOT t.tgisinternal AND t.tgrelid <> $1",
            None,
            &[table.oid.into()],
        )?;
        rows.map(|row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
            ))
        })
        .collect::<Result<Vec<_>, pgrx::spi::SpiError>>()
    });
    let others = match others {
        Ok(others) => others,
        Err(error) => pgrx::error!("pg_cdc could not read pg_trigger: {error}"),
    };
    // Kafka refuses names that differ only in "." and "_": they share the name of a metric.
    let collides = |name: &str| name.replace('.', "_");
    for (other, arguments) in others {
        let taken = Options::parse(arguments.split("\\000")).topic;
        if taken == topic {
            Report::new(
                "CDC0106",
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("topic \"{topic}\" belongs to {other}"),
                "Choose another topic =>.",
            )
            .raise();
        }
        if collides(&taken) == collides(topic) {
            Report::new(
                "CDC0109",
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("topic \"{topic}\" collides in Kafka with \"{taken}\""),
                "Choose another topic =>.",
            )
            .detail(format!("Topic \"{taken}\" belongs to {other}, and Kafka takes \".\" and \"_\" for the same."))
            .raise();
        }
    }
}

/// The `schema_change` object of an event, as Debezium's schema change topic has it.
fn schema_change(kind: &str, database: &str, table: &Table, identity: &[String]) -> String {
    let columns: Vec<serde_json::Value> = table
        .columns()
        .into_iter()
        .enumerate()
        .map(|(index, column)| {
            serde_json::json!({
                "name": column.name, "position": index + 1, "typeName": column.type_name, "typeExpression": column.type_expression,
                "optional": !column.not_null, "generated": column.generated, "defaultValueExpression": null,
            })
        })
        .collect();
    serde_json::json!({
        "type": kind, "ddl": null, "contents_changed": false, "renames": {},
        "tableChanges": [{
            "type": kind, "id": format!("\"{database}\".\"{}\".\"{}\"", table.schema, table.name),
            "table": { "primaryKeyColumnNames": identity, "columns": columns },
        }],
    })
    .to_string()
}
