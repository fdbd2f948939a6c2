//! Durations and sizes as people write them: `"20ms"`, `"90d"`, `"64MB"`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Parses a duration: a number and `ms`, `s`, `m`, `h` or `d`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(unit_ms)?))
}

/// Parses a size in bytes: a number and `B`, `kB`, `MB` or `GB` (powers of 1024, as PostgreSQL has them).
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit_bytes = match unit {
        "B" => 1,
        "kB" | "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit_bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim()))
}

/// A duration in the file.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::config::units::parse_duration;

    /// Reads it.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let takes = "takes a duration such as \"5s\"";
        let text = String::deserialize(deserializer).map_err(|_| Error::custom(takes))?;
        parse_duration(&text).ok_or_else(|| Error::custom(takes))
    }

    /// Writes it.
    pub(crate) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", duration.as_millis()))
    }
}

/// A duration that the file may leave out.
pub(crate) mod optional_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    use crate::config::units::duration;

    /// Reads it.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        duration::deserialize(deserializer).map(Some)
    }

    /// Writes it.
    pub(crate) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}

/// A size in the file.
pub(crate) mod size {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::config::units::parse_size;

    /// Reads it.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let takes = "takes a size such as \"64MB\"";
        let text = String::deserialize(deserializer).map_err(|_| Error::custom(takes))?;
        parse_size(&text).ok_or_else(|| Error::custom(takes))
    }

    /// Writes it.
    pub(crate) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{bytes}B"))
    }
}

/// Reads a whole number from 1 on.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer) {
        Ok(number @ 1..) => Ok(number),
        _ => Err(Error::custom("takes a whole number from 1 on")),
    }
}

/// Reads a whole number from 1 on, which the file may leave out.
pub(crate) fn optional_count<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<usize>, D::Error> {
    count(deserializer).map(|number| usize::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(parse_duration("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(parse_duration("2 h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_size("64MB"), Some(64 << 20));
        assert_eq!(parse_size("1 kB"), Some(1024));
    }

    #[test]
    fn what_has_no_unit_is_refused() {
        for text in ["", "5", "s", "5 weeks", "-1s", "18446744073709551615d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_size("5"), None);
    }
}
