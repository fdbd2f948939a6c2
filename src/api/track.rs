//! `cdc_track` and `cdc_untrack`: the triggers on a table are the configuration, nothing else is kept.

use std::sync::atomic::Ordering;

use change::options::{Operation, Options};
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};

use super::request;
use super::snapshot;
use super::statement::{self, run};
use super::table::{ROW_TRIGGER, TRUNCATE_TRIGGER, Table, as_superuser};
use super::track_request::{Request, check_shipped};
use crate::ddl::schema_change::SchemaChange;
use crate::ddl::{event_trigger, partitions};
use crate::report::{Report, not_loaded, notice};
use crate::settings;
use crate::shared::{self, Shared};
use crate::snapshot::job::Wanted;

/// How long a server that has just started may take until its sender holds the slot.
const SENDER_START_MS: i64 = 10_000;

/// Ships every committed change of `relation` from now on; a second call changes what is given. Returns the topic.
/// `cdc_track` in `sql/functions.sql` calls it.
#[pg_extern(
    sql = "CREATE FUNCTION _cdc_track(relation regclass, request bytea) RETURNS text LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn track_by_request(relation: pg_sys::Oid, request: &[u8]) -> String {
    track(relation, request::read(request))
}

fn track(relation: pg_sys::Oid, request: Request) -> String {
    let Some(shared) = shared::shared() else {
        not_loaded().raise()
    };
    let table = Table::open(relation);
    table.refuse_unsupported();
    require_sender(shared);

    let with_snapshot = request.snapshot == Some(true);
    let before = table.options();
    let wanted = request.options(&table, before.clone().unwrap_or_default());
    let identity = table.identity(wanted.key.is_empty());
    let shown_key = if wanted.key.is_empty() {
        &identity
    } else {
        &wanted.key
    };
    check_shipped(&table, &wanted, shown_key);
    if shown_key.is_empty() {
        no_key(&table).warn();
    }
    if before.as_ref() == Some(&wanted) {
        notice(format!(
            "table \"{}\" is already tracked: its changes go to topic \"{}\"",
            table.name, wanted.topic
        ));
        if with_snapshot {
            snapshot::ask(&table, &Wanted::default());
        }
        return wanted.topic;
    }
    if before
        .as_ref()
        .is_some_and(|before| before.topic != wanted.topic)
    {
        // Who reads the old topic must know that nothing comes there any more: the table is another topic's now.
        SchemaChange::new("UNTRACK").capture(&table);
    }
    make_triggers(&table, &wanted, before.is_some());
    partitions::follow(&table);
    SchemaChange {
        contents_changed: with_snapshot,
        ..SchemaChange::new(SchemaChange::TRACKED)
    }
    .capture(&table);
    if with_snapshot {
        snapshot::ask(&table, &Wanted::default());
    }
    let shown_key = if shown_key.is_empty() {
        "none".to_owned()
    } else {
        shown_key.join(", ")
    };
    notice(format!(
        "table \"{}\" is tracked: every change goes to topic \"{}\" (key: {shown_key})",
        table.name, wanted.topic
    ));
    wanted.topic
}

/// Stops shipping `relation`; false, with a NOTICE, if it was not tracked.
#[pg_extern(
    sql = "CREATE FUNCTION cdc_untrack(relation regclass) RETURNS boolean LANGUAGE c STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn cdc_untrack(relation: pg_sys::Oid) -> bool {
    let table = Table::open(relation);
    if table.options().is_none() {
        notice(format!("table \"{}\" is not tracked", table.name));
        return false;
    }
    SchemaChange::new("UNTRACK").capture(&table);
    {
        let _ours = event_trigger::quiet();
        as_superuser(|| {
            for trigger in [ROW_TRIGGER, TRUNCATE_TRIGGER] {
                run(&format!(
                    "DROP TRIGGER IF EXISTS {} ON {}",
                    quote_identifier(trigger),
                    table.sql_name()
                ));
            }
        });
    }
    partitions::follow(&table);
    true
}

fn make_triggers(table: &Table, options: &Options, replace: bool) {
    let arguments: Vec<String> = options.arguments().iter().map(quote_literal).collect();
    let arguments = arguments.join(", ");
    let name = table.sql_name();
    // The functions lie where the extension does; triggers name them by that schema, not by search_path.
    let schema = statement::pinned(|| {
        Spi::get_one::<String>(
            "SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_cdc'",
        )
    });
    let schema = quote_identifier(schema.ok().flatten().unwrap_or_else(|| "public".to_owned()));
    let row_events = options.operations.row_events();
    let truncate_events = if options.operations.contains(Operation::Truncate) {
        "TRUNCATE"
    } else {
        ""
    };
    let _ours = event_trigger::quiet();
    as_superuser(|| {
        for (trigger, events, function) in [
            (
                ROW_TRIGGER,
                row_events.as_str(),
                "FOR EACH ROW EXECUTE FUNCTION {}.cdc_capture",
            ),
            (
                TRUNCATE_TRIGGER,
                truncate_events,
                "FOR EACH STATEMENT EXECUTE FUNCTION {}.cdc_capture_truncate",
            ),
        ] {
            let trigger = quote_identifier(trigger);
            if replace {
                run(&format!("DROP TRIGGER IF EXISTS {trigger} ON {name}"));
            }
            if events.is_empty() {
                continue;
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

fn no_key(table: &Table) -> Report {
    Report::new(
        "CDC0104",
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("table \"{}\" has no key", table.name),
        "Add a primary key, or name columns with key =>.",
    )
    .detail("All its changes go to one partition, and a replica must search for each changed row.")
}
