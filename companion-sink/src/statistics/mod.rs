//! Figures of rows and events, by period and group: each row counts as it is now.
//!
//! `count` says what an event counts for, and how that changes the figures. These, what each row counts for and the positions are
//! `kept` in one file, of which there is a `copy` in Kafka. `question` answers.

pub(crate) mod calendar;
pub(crate) mod copy;
pub(crate) mod count;
pub(crate) mod decimal;
pub(crate) mod kept;
pub(crate) mod question;
pub(crate) mod value;
