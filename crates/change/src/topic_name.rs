//! Topic names: what people name their tables stays readable, and no two tables share a topic.

use crate::hex::hex;

/// Kafka's limit (org.apache.kafka.common.internals.Topic).
const MAX_CHARS: usize = 249;
/// Characters kept of a longer name, before `-xx` and 32 hexadecimal digits of its hash.
const KEPT_CHARS: usize = 214;

/// What the name of a control topic ends in, behind the topic prefix of its database.
/// A hyphen, for no default name of a table's topic has the same metric then: they have three parts.
const CONTROL_SUFFIX: &str = ".cdc-control";

/// The topic of the control events of the database that has this topic prefix.
pub fn control(prefix: &str) -> String {
    format!("{prefix}{CONTROL_SUFFIX}")
}

/// Whether a topic is one of control events.
pub fn is_control(name: &str) -> bool {
    name.ends_with(CONTROL_SUFFIX)
}

/// What the names of the topics end in that hold the unfinished effects of a sink, and orders about them; hyphens as above.
const EFFECTS_SUFFIX: &str = ".cdc-effects";
const EFFECT_ORDERS_SUFFIX: &str = ".cdc-effect-orders";

/// The topic of the unfinished effects of a sink; `name` is that of its companion-sink.
pub fn effects(name: &str, sink: &str) -> String {
    format!("{name}.{sink}{EFFECTS_SUFFIX}")
}

/// The topic of the orders about them.
pub fn effect_orders(name: &str, sink: &str) -> String {
    format!("{name}.{sink}{EFFECT_ORDERS_SUFFIX}")
}

/// Whether a topic is one of these.
pub fn is_of_effects(name: &str) -> bool {
    name.ends_with(EFFECTS_SUFFIX) || name.ends_with(EFFECT_ORDERS_SUFFIX)
}

/// Joins the escaped parts with dots; a name that Kafka would find too long ends in its hash.
pub fn join(parts: &[&str]) -> String {
    let name = parts
        .iter()
        .map(|part| escape(part))
        .collect::<Vec<_>>()
        .join(".");
    if name.len() <= MAX_CHARS {
        return name;
    }
    let digest = sha256_hex(name.as_bytes());
    format!("{}-xx{}", &name[..KEPT_CHARS], &digest[..32])
}

/// Keeps `A-Z a-z 0-9 _ -`; every other byte, and a `-` before an `x`, becomes `-x` and two hexadecimal digits.
pub fn escape(part: &str) -> String {
    let bytes = part.as_bytes();
    let mut out = String::with_capacity(part.len());
    for (index, &byte) in bytes.iter().enumerate() {
        let before_x = byte == b'-' && bytes.get(index + 1) == Some(&b'x');
        if (byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') && !before_x {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("-x{byte:02x}"));
        }
    }
    out
}

/// The name of which [`join`] made a part; of a name that ends in its hash, as it is.
pub fn unescape(part: &str) -> String {
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes
            .get(at + 2..at + 4)
            .filter(|_| bytes[at..].starts_with(b"-x"));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| part.to_owned())
}

fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(bytes))
}

/// Why a text cannot be the name of a topic of ours.
pub fn refusal(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > MAX_CHARS {
        Some("it must have 1 to 249 characters")
    } else if name == "." || name == ".." {
        Some("it must not be \".\" or \"..\"")
    } else if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    {
        Some("only A-Z, a-z, 0-9, \".\", \"_\" and \"-\" are legal")
    } else if [".dlq", ".cdc_positions", CONTROL_SUFFIX]
        .iter()
        .any(|own| name.ends_with(own))
    {
        Some("names that end in \".dlq\", \".cdc_positions\" or \".cdc-control\" are pg_cdc's own")
    } else if name.starts_with("__") {
        Some("names that begin with \"__\" are Kafka's own")
    } else {
        None
    }
}

/// The name as Kafka compares it: it refuses two that differ only in `.` and `_`, for they share the name of a metric.
pub fn metric(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_as_documented() {
        assert_eq!(
            join(&["shop", "public", "customer"]),
            "shop.public.customer"
        );
        assert_eq!(escape("Kunde \u{e4}"), "Kunde-x20-xc3-xa4");
        assert_eq!(escape("a.b"), "a-x2eb");
        assert_eq!(escape("my-app"), "my-app");
        assert_eq!(escape("a-xb"), "a-x2dxb");
    }

    proptest! {
        #[test]
        fn names_come_back(name in "[a-x0-9.\\-_ \u{e4}\"]{1,20}") {
            prop_assert_eq!(unescape(&escape(&name)), name);
        }

        #[test]
        fn no_two_tables_share_a_topic(one in "[a-x.\\-_ \u{e4}]{1,6}", other in "[a-x.\\-_ \u{e4}]{1,6}", third in "[a-x.\\-]{1,4}") {
            if one != other {
                prop_assert_ne!(join(&["d", &one, &third]), join(&["d", &other, &third]));
            }
            prop_assert_ne!(join(&["d", &one, &third]), join(&["d", &format!("{one}.{third}")]));
        }

        #[test]
        fn every_name_is_legal_in_kafka(parts in prop::collection::vec(".{1,120}", 1..4)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let name = join(&parts);
            prop_assert!(refusal(&name).is_none() || name.ends_with(".dlq") || name.ends_with(".cdc_positions") || name.starts_with("__"), "{}", name);
        }
    }
}
