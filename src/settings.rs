//! Every setting. None holds a secret; the prefix `cdc` is reserved, so a misspelt name is an error.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_sys;

type Text = GucSetting<Option<CString>>;

pub(crate) static BROKERS: Text = Text::new(Some(c""));
pub(crate) static KAFKA_CONFIG_FILE: Text = Text::new(Some(c""));
pub(crate) static MASK_KEY_FILE: Text = Text::new(Some(c""));
pub(crate) static SOURCE_NAME: Text = Text::new(Some(c"pg"));
pub(crate) static TOPIC_PREFIX: Text = Text::new(Some(c""));
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
pub(crate) static TOMBSTONES: GucSetting<bool> = GucSetting::<bool>::new(true);
pub(crate) static DELIVERY: GucSetting<Delivery> =
    GucSetting::<Delivery>::new(Delivery::AtLeastOnce);
pub(crate) static OVERSIZE: GucSetting<Oversize> = GucSetting::<Oversize>::new(Oversize::Stub);
/// Kilobytes.
pub(crate) static SENDER_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(32 * 1024);
pub(crate) static WAIT_FOR_STANDBY: GucSetting<WaitForStandby> =
    GucSetting::<WaitForStandby>::new(WaitForStandby::Auto);
/// Megabytes; -1: half of the free disk at the sender's start.
pub(crate) static MAX_WAL_BEHIND: GucSetting<i32> = GucSetting::<i32>::new(-1);
/// Kilobytes.
pub(crate) static CAPTURE_BUFFER: GucSetting<i32> = GucSetting::<i32>::new(256);
/// Kilobytes.
pub(crate) static MAX_VALUE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(256 * 1024);
pub(crate) static CHUNK_COMPRESSION: GucSetting<Compression> =
    GucSetting::<Compression>::new(Compression::Lz4);
pub(crate) static ACTOR: Text = Text::new(Some(c""));
pub(crate) static REASON: Text = Text::new(Some(c""));
pub(crate) static REQUEST_ID: Text = Text::new(Some(c""));
/// What `cdc_context(context => …)` set: a JSON object, empty for none. Local to the transaction, as SET LOCAL is.
pub(crate) static CONTEXT: Text = Text::new(Some(c""));
pub(crate) static CONTEXT_SETTINGS: Text = Text::new(Some(c""));
pub(crate) static SNAPSHOT_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(1);
pub(crate) static SNAPSHOT_CHUNK_ROWS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
pub(crate) static SNAPSHOT_ROWS_PER_SECOND: GucSetting<i32> = GucSetting::<i32>::new(0);
pub(crate) static DROPPED_PARTITIONS: GucSetting<PartitionRows> =
    GucSetting::<PartitionRows>::new(PartitionRows::Delete);
/// Milliseconds.
pub(crate) static HEARTBEAT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// `cdc.chunk_compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum Compression {
    #[name = c"lz4"]
    Lz4,
    #[name = c"none"]
    None,
}

/// `cdc.oversize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum Oversize {
    #[name = c"halt"]
    Halt,
    #[name = c"stub"]
    Stub,
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

/// `cdc.dropped_partitions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum PartitionRows {
    #[name = c"delete"]
    Delete,
    #[name = c"keep"]
    Keep,
}

/// The longest actor, reason or request id, in bytes.
const MAX_CONTEXT_BYTES: usize = 1024;

thread_local! {
    /// Rises whenever a setting that belongs to who and why is assigned: capture reads them again only then.
    static CONTEXT_GENERATION: Cell<u64> = const { Cell::new(0) };
}

/// Changes with every assignment of a setting that says who or why.
#[inline]
pub(crate) fn context_generation() -> u64 {
    CONTEXT_GENERATION.get()
}

/// A string setting, "" for none.
pub(crate) fn text(setting: &'static Text) -> String {
    setting
        .get()
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The bytes of a string setting, where they lie; valid until it is assigned again.
pub(crate) fn raw(setting: &'static Text) -> &'static [u8] {
    let value = setting.as_ptr();
    // SAFETY: the address of this backend's value of the setting, null or a zero-ended string.
    unsafe {
        if value.is_null() || (*value).is_null() {
            &[]
        } else {
            CStr::from_ptr(*value).to_bytes()
        }
    }
}

/// `cdc.topic_prefix`, or the database's name where it is empty.
pub(crate) fn topic_prefix(database: &str) -> String {
    let prefix = text(&TOPIC_PREFIX);
    if prefix.is_empty() {
        change::topic_name::join(&[database])
    } else {
        prefix
    }
}

/// Defines the settings; `preloading`: at server start, when those of the whole server can be defined too.
pub(crate) fn define(preloading: bool) {
    let none = GucFlags::default();
    let string = |name: &'static CStr,
                  short: &'static CStr,
                  long: &'static CStr,
                  setting: &'static Text,
                  context,
                  flags,
                  check,
                  assign| {
        // SAFETY: each hook has the signature that PostgreSQL calls for a string setting.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                name, short, long, setting, context, flags, check, assign, None,
            );
        }
    };
    string(
        c"cdc.brokers",
        c"Kafka bootstrap servers, host:port,host:port.",
        c"Nothing is captured or shipped before it is set.",
        &BROKERS,
        GucContext::Sighup,
        none,
        Some(check_brokers),
        None,
    );
    string(
        c"cdc.kafka_config_file",
        c"File with librdkafka properties (key=value), for TLS and SASL.",
        c"Owned by the server's user or root, mode 0600; read again at every reload.",
        &KAFKA_CONFIG_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
        None,
        None,
    );
    string(
        c"cdc.mask_key_file",
        c"File with the secret key of masked values (mask => '{\"column\": \"hash\"}').",
        c"At least 32 bytes, owned by the server's user or root, mode 0600.",
        &MASK_KEY_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
        None,
        None,
    );
    if preloading {
        string(
            c"cdc.source_name",
            c"Names this source: its slot, its position topic and its Kafka client.",
            c"1 to 40 of A-Z, a-z, 0-9 and underscore. Two servers must not share a name.",
            &SOURCE_NAME,
            GucContext::Postmaster,
            none,
            Some(check_source_name),
            None,
        );
    }
    string(
        c"cdc.topic_prefix",
        c"Prefix of the topic names of this database.",
        c"Empty: the database's name.",
        &TOPIC_PREFIX,
        GucContext::Suset,
        none,
        Some(check_topic_prefix),
        None,
    );
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
    GucRegistry::define_bool_guc(
        c"cdc.tombstones",
        c"A null record follows each delete.",
        c"Compacted topics forget a key only by it.",
        &TOMBSTONES,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_enum_guc(
        c"cdc.delivery",
        c"How often an event may come.",
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
        c"cdc.capture_buffer",
        c"Memory of a transaction's captured rows before they go into the WAL.",
        c"The rest goes at commit.",
        &CAPTURE_BUFFER,
        64,
        64 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"cdc.max_value_size",
        c"A larger single value is not shipped.",
        c"A stub with its length and hash stands in its place.",
        &MAX_VALUE_SIZE,
        1024,
        900 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_enum_guc(
        c"cdc.chunk_compression",
        c"Compression of captured rows in the WAL.",
        c"lz4 or none.",
        &CHUNK_COMPRESSION,
        GucContext::Suset,
        none,
    );
    string(
        c"cdc.actor",
        c"Who is behind a change, as the application knows it.",
        c"SET LOCAL cdc.actor = 'ann', or cdc_context('ann').",
        &ACTOR,
        GucContext::Userset,
        none,
        Some(check_context_text),
        Some(context_assigned),
    );
    string(
        c"cdc.reason",
        c"Why the change is made.",
        c"SET LOCAL cdc.reason = '…', or cdc_context(reason => '…').",
        &REASON,
        GucContext::Userset,
        none,
        Some(check_context_text),
        Some(context_assigned),
    );
    string(
        c"cdc.request_id",
        c"The application's id of the request behind a change.",
        c"SET LOCAL cdc.request_id = '…', or cdc_context(request_id => '…').",
        &REQUEST_ID,
        GucContext::Userset,
        none,
        Some(check_context_text),
        Some(context_assigned),
    );
    string(
        c"cdc.context",
        c"Further context of a change, a JSON object.",
        c"Set by cdc_context(context => '{…}').",
        &CONTEXT,
        GucContext::Userset,
        GucFlags::NO_SHOW_ALL,
        Some(check_context_json),
        Some(context_assigned),
    );
    string(
        c"cdc.context_settings",
        c"Names of further settings to record with each change.",
        c"A list: request.jwt.claims, app.tenant",
        &CONTEXT_SETTINGS,
        GucContext::Suset,
        none,
        None,
        Some(context_assigned),
    );
    GucRegistry::define_enum_guc(
        c"cdc.dropped_partitions",
        c"What readers are told of the rows of a partition that is dropped or detached.",
        c"delete: each row as deleted, for which the partition is read once; keep: nothing, the rows stay with them.",
        &DROPPED_PARTITIONS,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"cdc.snapshot_workers",
        c"Databases in which snapshots are made at once.",
        c"0 holds all.",
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
    if preloading {
        // SAFETY: a constant name, on the main thread; all settings of the prefix are defined by now.
        unsafe { pg_sys::MarkGUCPrefixReserved(c"cdc".as_ptr()) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn context_assigned(_value: *const c_char, _extra: *mut c_void) {
    CONTEXT_GENERATION.set(CONTEXT_GENERATION.get().wrapping_add(1));
}

/// Gives the new value to `allowed`; a refusal becomes the error's DETAIL.
unsafe fn check(value: *mut *mut c_char, allowed: impl FnOnce(&str) -> Result<(), String>) -> bool {
    // SAFETY: PostgreSQL passes the address of a zero-ended string or of a null pointer.
    let text = unsafe {
        if (*value).is_null() {
            return true;
        }
        CStr::from_ptr(*value).to_string_lossy().into_owned()
    };
    match allowed(&text) {
        Ok(()) => true,
        Err(reason) => {
            // SAFETY: GUC_check_errdetail is a macro over this variable (utils/guc.h); the copy lives as long as the
            // message needs it. Zero bytes cannot be in it: `text` came from a zero-ended string.
            unsafe {
                let reason = CString::new(reason).unwrap_or_default();
                pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(reason.as_ptr());
            }
            false
        }
    }
}

/// A check hook of a string setting: the closure says why a text is refused.
macro_rules! check_hook {
    ($name:ident, $allowed:expr) => {
        #[pgrx::pg_guard]
        unsafe extern "C-unwind" fn $name(
            value: *mut *mut c_char,
            _extra: *mut *mut c_void,
            _source: pg_sys::GucSource::Type,
        ) -> bool {
            // SAFETY: called by PostgreSQL with a value to check.
            unsafe { check(value, $allowed) }
        }
    };
}

check_hook!(check_brokers, |text| {
    for entry in text.split(',').map(str::trim).filter(|_| !text.is_empty()) {
        let port = entry
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(format!("\"{entry}\" is not host:port."));
        }
    }
    Ok(())
});

check_hook!(check_source_name, |text| {
    let legal = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if legal && (1..=40).contains(&text.len()) {
        Ok(())
    } else {
        Err("It must be 1 to 40 of A-Z, a-z, 0-9 and underscore.".into())
    }
});

check_hook!(check_topic_prefix, |text| {
    if text.is_empty() {
        Ok(())
    } else if text.len() > 100 {
        Err("It must have at most 100 characters.".into())
    } else {
        change::topic_name::refusal(text).map_or(Ok(()), |reason| {
            Err(format!("As part of a topic name {reason}."))
        })
    }
});

check_hook!(check_context_text, |text| {
    if text.len() <= MAX_CONTEXT_BYTES {
        Ok(())
    } else {
        Err(format!("It must have at most {MAX_CONTEXT_BYTES} bytes."))
    }
});

check_hook!(check_context_json, |text| {
    type Object = serde_json::Map<String, serde_json::Value>;
    if text.is_empty() || serde_json::from_str::<Object>(text).is_ok() {
        Ok(())
    } else {
        Err("It must be a JSON object.".into())
    }
});
