//! Snapshots of rows that were there before.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

pub(crate) static SNAPSHOT_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(1);
pub(crate) static SNAPSHOT_CHUNK_ROWS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
pub(crate) static SNAPSHOT_ROWS_PER_SECOND: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Defines these settings.
pub(super) fn define() {
    let none = GucFlags::default();
    GucRegistry::define_int_guc(
        c"cdc.snapshot_workers",
        c"Databases in which snapshots are made at once.",
        c"0 pauses all snapshots.",
        &SNAPSHOT_WORKERS,
        0,
        8,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"cdc.snapshot_chunk_rows",
        c"Rows that are read under one snapshot.",
        c"Each chunk is one transaction.",
        &SNAPSHOT_CHUNK_ROWS,
        100,
        1_000_000,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"cdc.snapshot_rows_per_second",
        c"For snapshots without a rate of their own.",
        c"0: no limit.",
        &SNAPSHOT_ROWS_PER_SECOND,
        0,
        i32::MAX,
        GucContext::Sighup,
        none,
    );
}
