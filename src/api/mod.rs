//! The SQL functions, one file per subject.

pub(crate) mod arguments;
pub(crate) mod check;
pub(crate) mod context;
pub(crate) mod emit;
pub(crate) mod operate;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod tables;
pub(crate) mod topic_rights;
pub(crate) mod track;
pub(crate) mod unsound_triggers;
pub(crate) mod wait;

pgrx::extension_sql_file!("../../sql/roles.sql", name = "roles", bootstrap);
pgrx::extension_sql_file!("../../sql/triggers.sql", name = "triggers");
pgrx::extension_sql_file!(
    "../../sql/status.sql",
    name = "status",
    requires = [
        "roles",
        status::status_json,
        status::aside_json,
        tables::tables_json,
        check::cdc_check
    ]
);
pgrx::extension_sql_file!(
    "../../sql/functions.sql",
    name = "functions",
    requires = [track::track_by_request, context::set_context]
);
pgrx::extension_sql_file!(
    "../../sql/schemas.sql",
    name = "schemas",
    requires = [
        "roles",
        "functions",
        "status",
        track::cdc_untrack,
        track::insert_rows
    ]
);
pgrx::extension_sql_file!(
    "../../sql/snapshots.sql",
    name = "snapshots",
    requires = [
        "roles",
        snapshot::snapshot_by_request,
        snapshot::snapshot_set,
        snapshot::snapshot_shown
    ]
);
pgrx::extension_sql_file!(
    "../../sql/operate.sql",
    name = "operate",
    requires = [
        "roles",
        "triggers",
        operate::give_order,
        operate::cdc_stat_reset,
        track::cdc_untrack
    ]
);
pgrx::extension_sql_file!("../../sql/comments.sql", name = "comments", finalize);
