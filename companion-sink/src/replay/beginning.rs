//! Where a replay begins.

use std::fmt;
use std::str::FromStr;

use crate::timestamp;

/// Where a replay begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// At the beginning of all topics.
    Beginning,
    /// At the commit of the event at this offset.
    Offset {
        /// The topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// The offset of the event there.
        offset: i64,
    },
    /// At the first commit at or after this time, microseconds since 1970.
    Time(i64),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("beginning") {
            return Ok(From::Beginning);
        }
        if let Some(ts_us) = timestamp::parse(text) {
            return Ok(From::Time(ts_us));
        }
        let mut parts = text.rsplitn(3, ':');
        let offset = parts.next().and_then(|offset| offset.parse().ok());
        let partition = parts.next().and_then(|partition| partition.parse().ok());
        match (parts.next(), partition, offset) {
            (Some(topic), Some(partition), Some(offset))
                if !topic.is_empty() && partition >= 0 && offset >= 0 =>
            {
                Ok(From::Offset {
                    topic: topic.to_owned(),
                    partition,
                    offset,
                })
            }
            _ => Err(
                "write BEGINNING, topic:partition:offset, or a commit time such as 2026-11-21T10:40:00Z"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            From::Beginning => f.write_str("BEGINNING"),
            From::Offset {
                topic,
                partition,
                offset,
            } => write!(f, "{topic}:{partition}:{offset}"),
            From::Time(ts_us) => f.write_str(&timestamp::rfc3339(*ts_us)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let offset = From::Offset {
            topic: "shop.public.t".into(),
            partition: 2,
            offset: 133,
        };
        assert_eq!("beginning".parse(), Ok(From::Beginning));
        assert_eq!("shop.public.t:2:133".parse(), Ok(offset.clone()));
        assert_eq!(offset.to_string(), "shop.public.t:2:133");
        assert_eq!(
            "2026-11-21T10:40:00+01:00".parse(),
            Ok(From::Time(1_795_254_000_000_000))
        );
        for wrong in ["", "END", "t:2", "t:-1:4", ":1:2", "t:1:x"] {
            assert!(wrong.parse::<From>().is_err(), "{wrong}");
        }
    }
}
