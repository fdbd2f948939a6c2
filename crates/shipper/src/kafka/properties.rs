//! The properties file: what it may set, and what is wrong with it, said without a secret.

use change::code::Code;
use change::trouble::Trouble;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::files::secret::{self, Refused};

/// Properties that are pg_cdc's own, under each of their names: its promises rest on them.
const RESERVED: [&str; 10] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "acks",
    "request.required.acks",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "partitioner",
    "transactional.id",
];
/// Reads `cdc.kafka_config_file`: `key=value` lines, `#` for comments.
pub fn read_properties(path: &str) -> Result<Vec<(String, String)>, Trouble> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let unreadable = |error: std::io::Error| {
        Trouble::new(
            Code::FileExposed,
            format!("file \"{path}\" cannot be read: {error}"),
            "Correct cdc.kafka_config_file, or the file's owner and mode, then SELECT pg_reload_conf().",
        )
    };
    let content = secret::read(path).map_err(|refused| match refused {
        Refused::Unreadable(error) => unreadable(error),
        Refused::Exposed => Trouble::new(
            Code::FileExposed,
            format!("file \"{path}\" has group or world access, or another owner"),
            format!("Run chmod 0600 on \"{path}\" and let the server's user or root own it."),
        ),
    })?;
    let content = String::from_utf8(content)
        .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
    let mut properties = Vec::new();
    for (index, line) in content.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("line {} of \"{path}\"", index + 1);
        let property = line
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()));
        let refused = match property {
            // Whatever stands there may be a piece of a secret.
            None => Some(format!("{place} is not name=value")),
            Some((name, value)) => refusal(name, value, &place),
        };
        if let Some(message) = refused {
            return Err(unusable(message));
        }
        properties.extend(property.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    Ok(properties)
}

/// Why a property cannot be set. What librdkafka does not know as a name may be a piece of a secret, and so may a value.
fn refusal(name: &str, value: &str, place: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!(
            "property \"{name}\" in {place} cannot be set: it is pg_cdc's own"
        ));
    }
    let mut config = ClientConfig::new();
    match config.set(name, value).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Some(format!(
            "{place} has a property that librdkafka does not know"
        )),
        Err(KafkaError::ClientConfig(_, description, ..))
            if description.contains("not supported") && !description.contains(value) =>
        {
            Some(format!("{place}: {description}"))
        }
        Err(_) => Some(format!(
            "property \"{name}\" in {place} cannot be set: librdkafka refuses its value"
        )),
    }
}

/// CDC0009 for clients that cannot be made of the properties.
pub(crate) fn refused_configuration(error: &KafkaError) -> Trouble {
    unusable(match error {
        // The description may hold the value, and with it a secret.
        KafkaError::ClientConfig(_, _, name, _) => format!("property \"{name}\" cannot be set"),
        other => format!("Kafka client cannot be made: {other}"),
    })
}

/// CDC0009.
fn unusable(message: String) -> Trouble {
    Trouble::new(
        Code::PropertyRefused,
        message,
        "Correct the file that cdc.kafka_config_file names, then SELECT pg_reload_conf().",
    )
}
