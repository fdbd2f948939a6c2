//! What came of an attempt.

use std::time::Duration;

use crate::rejected::failure::Failure;

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It had its effect.
    Done,
    /// It is tried again.
    Again {
        /// Why, without any value of the row.
        why: String,
        /// The receiver wants no attempt before.
        not_before: Option<Duration>,
    },
    /// It never will have one.
    Refused(Failure),
}

impl Outcome {
    /// It is tried again when its time comes.
    pub(crate) fn again(why: impl Into<String>) -> Outcome {
        Outcome::Again {
            why: why.into(),
            not_before: None,
        }
    }
}
