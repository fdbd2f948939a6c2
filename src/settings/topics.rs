//! New topics, and what is asked of topics.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

pub(crate) static CREATE_TOPICS: GucSetting<bool> = GucSetting::<bool>::new(true);
pub(crate) static TOPIC_PARTITIONS: GucSetting<i32> = GucSetting::<i32>::new(3);
pub(crate) static TOPIC_REPLICATION_FACTOR: GucSetting<i32> = GucSetting::<i32>::new(-1);
/// Milliseconds.
pub(crate) static TOPIC_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
/// Minutes.
pub(crate) static TOPIC_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60);
/// Kilobytes.
pub(crate) static TOPIC_MAX_EVENT_SIZE: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);
pub(crate) static MAX_TOPICS: GucSetting<i32> = GucSetting::<i32>::new(1000);
pub(crate) static ALLOW_SINGLE_REPLICA: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Defines these settings.
pub(super) fn define() {
    let none = GucFlags::default();
    GucRegistry::define_bool_guc(
        c"cdc.create_topics",
        c"The sender makes missing topics.",
        c"Off: cdc_status() names the command to run.",
        &CREATE_TOPICS,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"cdc.topic_timeout",
        c"How long a topic that is missing or not allowed holds back the others.",
        c"Then it is put aside, if nothing was ever sent to it. -1: it holds them back until it can be used.",
        &TOPIC_TIMEOUT,
        -1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    define_new_topics();
    GucRegistry::define_int_guc(
        c"cdc.max_topics",
        c"Topics that a database may have.",
        c"For who is not a member of cdc_admin.",
        &MAX_TOPICS,
        0,
        i32::MAX,
        GucContext::Suset,
        none,
    );
    GucRegistry::define_bool_guc(
        c"cdc.allow_single_replica",
        c"cdc_check() reports a single replica as a warning, not as an error.",
        c"With one replica a lost broker loses acknowledged events.",
        &ALLOW_SINGLE_REPLICA,
        GucContext::Sighup,
        none,
    );
}

/// Defines what topics are made with.
fn define_new_topics() {
    let none = GucFlags::default();
    GucRegistry::define_int_guc(
        c"cdc.topic_partitions",
        c"Partitions of new topics.",
        c"Fixed from then on: another number would move keys.",
        &TOPIC_PARTITIONS,
        1,
        1000,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"cdc.topic_replication_factor",
        c"Replicas of new topics.",
        c"-1: the broker's default.",
        &TOPIC_REPLICATION_FACTOR,
        -1,
        10,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"cdc.topic_retention",
        c"How long new topics keep events.",
        c"-1 keeps all.",
        &TOPIC_RETENTION,
        -1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MIN,
    );
    GucRegistry::define_int_guc(
        c"cdc.topic_max_event_size",
        c"The largest event that new topics take.",
        c"Their max.message.bytes. Kafka's own default of 1 MB is less than a row may have.",
        &TOPIC_MAX_EVENT_SIZE,
        1024,
        256 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
}
