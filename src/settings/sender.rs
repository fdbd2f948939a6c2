//! What the sender sends, and what it holds.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

pub(crate) static TOMBSTONES: GucSetting<bool> = GucSetting::<bool>::new(true);
pub(crate) static SKIPPED_OPERATIONS: GucSetting<SkippedOperations> =
    GucSetting::<SkippedOperations>::new(SkippedOperations::Truncates);
pub(crate) static DELIVERY: GucSetting<Delivery> =
    GucSetting::<Delivery>::new(Delivery::AtLeastOnce);
pub(crate) static OVERSIZE: GucSetting<Oversize> = GucSetting::<Oversize>::new(Oversize::Stub);
/// Kilobytes.
pub(crate) static SENDER_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(32 * 1024);
pub(crate) static WAIT_FOR_STANDBY: GucSetting<WaitForStandby> =
    GucSetting::<WaitForStandby>::new(WaitForStandby::Auto);
/// Megabytes; -1: half of the free disk at the sender's start.
pub(crate) static MAX_WAL_BEHIND: GucSetting<i32> = GucSetting::<i32>::new(-1);
/// Milliseconds.
pub(crate) static HEARTBEAT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// `cdc.oversize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum Oversize {
    #[name = c"halt"]
    Halt,
    #[name = c"stub"]
    Stub,
}

/// `cdc.skipped_operations`: Debezium's `skipped.operations`, and its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum SkippedOperations {
    #[name = c"t"]
    Truncates,
    #[name = c"none"]
    Nothing,
}

/// `cdc.delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum Delivery {
    #[name = c"at_least_once"]
    AtLeastOnce,
    #[name = c"exactly_once"]
    ExactlyOnce,
}

/// `cdc.wait_for_standby`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum WaitForStandby {
    /// On while `synchronous_standby_names` is set.
    #[name = c"auto"]
    Auto,
    #[name = c"on"]
    On,
    #[name = c"off"]
    Off,
}

/// Defines these settings.
pub(super) fn define() {
    define_events();
    define_limits();
}

fn define_events() {
    let none = GucFlags::default();
    GucRegistry::define_bool_guc(
        c"cdc.tombstones",
        c"A null record follows each delete.",
        c"Compacted topics forget a key only by it.",
        &TOMBSTONES,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_enum_guc(
        c"cdc.skipped_operations",
        c"What is not sent into the topics of tables.",
        c"t: truncates, which many readers cannot take; the control topic has them all the same. none: nothing.",
        &SKIPPED_OPERATIONS,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_enum_guc(
        c"cdc.delivery",
        c"Delivery guarantee: at_least_once or exactly_once.",
        c"at_least_once: copies have the id of their original; exactly_once: events and position in one Kafka transaction, for readers with read_committed.",
        &DELIVERY,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_enum_guc(
        c"cdc.oversize",
        c"What becomes of an event that is larger than its topic accepts.",
        c"stub: its largest values become their length and hash, and a topic that takes it not even so is put aside; halt: nothing, the sender waits for you.",
        &OVERSIZE,
        GucContext::Sighup,
        none,
    );
}

fn define_limits() {
    let none = GucFlags::default();
    GucRegistry::define_int_guc(
        c"cdc.sender_memory",
        c"Memory for what is read and not yet acknowledged by Kafka.",
        c"When it is full the sender stops reading; writers never wait.",
        &SENDER_MEMORY,
        8 * 1024,
        1024 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_enum_guc(
        c"cdc.wait_for_standby",
        c"Nothing is sent before synchronous standbys have it.",
        c"auto: while synchronous_standby_names is set; on: nothing is sent while it is not; off: the local flush is enough.",
        &WAIT_FOR_STANDBY,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"cdc.max_wal_behind",
        c"WAL that the sender holds at most.",
        c"Beyond it changes are lost to Kafka, and said to be. -1: half of the free disk at the sender's start; 0: only max_slot_wal_keep_size counts.",
        &MAX_WAL_BEHIND,
        -1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_int_guc(
        c"cdc.heartbeat_interval",
        c"How often an idle source writes its position.",
        c"",
        &HEARTBEAT_INTERVAL,
        1000,
        600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
}
