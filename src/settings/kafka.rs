//! Where Kafka is, who this source is there, and how its records are packed.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use super::text::{Text, check_hook, define_text, text};

pub(crate) static BROKERS: Text = Text::new(Some(c""));
pub(crate) static KAFKA_CONFIG_FILE: Text = Text::new(Some(c""));
pub(crate) static SOURCE_NAME: Text = Text::new(Some(c"pg"));
pub(crate) static TOPIC_PREFIX: Text = Text::new(Some(c""));
pub(crate) static COMPRESSION: GucSetting<RecordCompression> =
    GucSetting::<RecordCompression>::new(RecordCompression::Lz4);

/// `cdc.compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub(crate) enum RecordCompression {
    #[name = c"none"]
    None,
    #[name = c"gzip"]
    Gzip,
    #[name = c"snappy"]
    Snappy,
    #[name = c"lz4"]
    Lz4,
    #[name = c"zstd"]
    Zstd,
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

/// Defines these settings; `preloading`: at server start, when those of the whole server can be defined too.
pub(super) fn define(preloading: bool) {
    let none = GucFlags::default();
    define_text(
        c"cdc.brokers",
        c"Kafka bootstrap servers, host:port,host:port.",
        c"Nothing is captured or shipped before it is set.",
        &BROKERS,
        GucContext::Sighup,
        none,
        Some(check_brokers),
        None,
    );
    define_text(
        c"cdc.kafka_config_file",
        c"File with librdkafka properties (key=value), for TLS and SASL.",
        c"Owned by the server's user or root, mode 0600; read again at every reload.",
        &KAFKA_CONFIG_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
        None,
        None,
    );
    if preloading {
        define_text(
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
    define_text(
        c"cdc.topic_prefix",
        c"Prefix of the topic names of this database.",
        c"Empty: the database's name.",
        &TOPIC_PREFIX,
        GucContext::Suset,
        none,
        Some(check_topic_prefix),
        None,
    );
    GucRegistry::define_enum_guc(
        c"cdc.compression",
        c"Compression of the records in Kafka.",
        c"none, gzip, snappy, lz4 or zstd: one that all readers can undo. A compression.type in cdc.kafka_config_file wins over it.",
        &COMPRESSION,
        GucContext::Sighup,
        none,
    );
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
