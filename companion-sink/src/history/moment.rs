//! Moments that people ask for.

use mongodb::bson::{Document, doc};

use crate::delivery::watermark::Complete;
use crate::error::{Result, misconfigured};
use crate::event::is_version;
use crate::timestamp;

/// Until when a history is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The rank of a version among those of its row, from 1 on.
    Number(u64),
    /// A version as documents have it.
    Version(String),
    /// A commit time, as documents have it.
    Time(String),
}

impl Moment {
    /// `3`, `0001-00000001-00000000015a3098-0000000001-00`, or a time.
    pub(crate) fn parse(text: &str) -> Result<Moment> {
        if let Ok(number) = text.parse() {
            return Ok(Moment::Number(number));
        }
        if is_version(text) {
            return Ok(Moment::Version(text.to_owned()));
        }
        time(text).map(Moment::Time)
    }

    /// Whether it is later than a history has everything of.
    pub(crate) fn is_behind(&self, complete: &Complete) -> bool {
        match self {
            Moment::Number(_) => false,
            Moment::Version(version) => *version >= complete.bound(),
            Moment::Time(time) => *time > complete.commit_time,
        }
    }

    /// What finds everything up to the moment; none for a number, which only one row's versions have.
    pub(crate) fn filter(&self) -> Option<Document> {
        match self {
            Moment::Number(_) => None,
            Moment::Version(version) => Some(doc! { "version": { "$lte": version } }),
            Moment::Time(time) => Some(doc! { "when.effective": { "$lte": time } }),
        }
    }
}

/// A time as documents have it.
pub(crate) fn time(text: &str) -> Result<String> {
    time_us(text).map(timestamp::rfc3339)
}

/// The same in microseconds since 1970.
pub(crate) fn time_us(text: &str) -> Result<i64> {
    timestamp::parse(text).ok_or_else(|| {
        misconfigured(
            format!("\"{text}\" is no moment"),
            "Write a time such as 2026-11-21T10:40:00Z (UTC where no zone is given); of a history a version's number is one, too.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_versions_and_times_are_told_apart() {
        let version = "0001-00000001-00000000015a3098-0000000001-00";
        let time = Moment::Time("2026-11-21T10:40:00.000000Z".into());
        assert_eq!(Moment::parse("3").unwrap(), Moment::Number(3));
        assert_eq!(
            Moment::parse(version).unwrap(),
            Moment::Version(version.into())
        );
        assert_eq!(Moment::parse("2026-11-21 10:40").unwrap(), time);
        assert!(Moment::parse("yesterday").is_err());
    }
}
