//! What is captured, and what it takes.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use super::text::{Text, define_text};

pub(crate) static MASK_KEY_FILE: Text = Text::new(Some(c""));
/// Kilobytes.
pub(crate) static CAPTURE_BUFFER: GucSetting<i32> = GucSetting::<i32>::new(256);
/// Kilobytes.
pub(crate) static MAX_VALUE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(256 * 1024);
pub(crate) static MESSAGE_COMPRESSION: GucSetting<Compression> =
    GucSetting::<Compression>::new(Compression::Lz4);
pub(crate) static DROPPED_PARTITIONS: GucSetting<PartitionRows> =
    GucSetting::<PartitionRows>::new(PartitionRows::Delete);

/// `cdc.message_compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum Compression {
    #[name = c"lz4"]
    Lz4,
    #[name = c"none"]
    None,
}

/// `cdc.dropped_partitions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum PartitionRows {
    #[name = c"delete"]
    Delete,
    #[name = c"keep"]
    Keep,
}

/// Defines these settings.
pub(super) fn define() {
    let none = GucFlags::default();
    define_text(
        c"cdc.mask_key_file",
        c"File with the secret key of masked values (mask => '{\"column\": \"hash\"}').",
        c"At least 32 bytes, owned by the server's user or root, mode 0600.",
        &MASK_KEY_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
        None,
        None,
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
        c"cdc.message_compression",
        c"Compression of captured rows in the WAL.",
        c"lz4 or none.",
        &MESSAGE_COMPRESSION,
        GucContext::Suset,
        none,
    );
    GucRegistry::define_enum_guc(
        c"cdc.dropped_partitions",
        c"What readers are told of the rows of a partition that is dropped or detached.",
        c"delete: each row as deleted, for which the partition is read once; keep: nothing, the rows stay with them.",
        &DROPPED_PARTITIONS,
        GucContext::Userset,
        none,
    );
}
