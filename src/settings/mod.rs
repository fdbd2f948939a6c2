//! Every setting, by subject. None holds a secret; the prefix `cdc` is reserved, so a misspelt name is an error.

mod capture;
mod context;
mod kafka;
mod sender;
mod snapshot;
mod text;
mod topics;

use pgrx::pg_sys;

pub(crate) use capture::{
    CAPTURE_BUFFER, Compression, DROPPED_PARTITIONS, MASK_KEY_FILE, MAX_VALUE_SIZE,
    MESSAGE_COMPRESSION, PartitionRows,
};
pub(crate) use context::{
    ACTOR, CONTEXT, CONTEXT_SETTINGS, REASON, REQUEST_ID, context_generation,
};
pub(crate) use kafka::{
    BROKERS, COMPRESSION, KAFKA_CONFIG_FILE, RecordCompression, SOURCE_NAME, TOPIC_PREFIX,
    topic_prefix,
};
pub(crate) use sender::{
    DELIVERY, Delivery, HEARTBEAT_INTERVAL, MAX_WAL_BEHIND, OVERSIZE, Oversize, SENDER_MEMORY,
    SKIPPED_OPERATIONS, SkippedOperations, TOMBSTONES, WAIT_FOR_STANDBY, WaitForStandby,
};
pub(crate) use snapshot::{SNAPSHOT_CHUNK_ROWS, SNAPSHOT_ROWS_PER_SECOND, SNAPSHOT_WORKERS};
pub(crate) use text::{raw, text};
pub(crate) use topics::{
    ALLOW_SINGLE_REPLICA, CREATE_TOPICS, MAX_TOPICS, TOPIC_MAX_EVENT_SIZE, TOPIC_PARTITIONS,
    TOPIC_REPLICATION_FACTOR, TOPIC_RETENTION, TOPIC_TIMEOUT,
};

/// Defines the settings; `preloading`: at server start, when those of the whole server can be defined too.
pub(crate) fn define(preloading: bool) {
    kafka::define(preloading);
    topics::define();
    sender::define();
    capture::define();
    context::define();
    snapshot::define();
    if preloading {
        // SAFETY: a constant name, on the main thread; all settings of the prefix are defined by now.
        unsafe { pg_sys::MarkGUCPrefixReserved(c"cdc".as_ptr()) };
    }
}
