//! Figures of rows and events, by period and group: each row counts as it is now.
//!
//! `design` says what is counted, `contribution` what one event counts for, `counting` how that changes the figures. The
//! figures, the rows' contributions and the positions are one `store`; `changelog` and `restore` keep a copy of it in Kafka, and
//! `owner` says which instance writes. `question` answers.

pub(crate) mod calendar;
pub(crate) mod cell;
pub(crate) mod changelog;
pub(crate) mod changes;
pub(crate) mod codec;
pub(crate) mod contribution;
pub(crate) mod counter;
pub(crate) mod counting;
pub(crate) mod decimal;
pub(crate) mod design;
pub(crate) mod found;
pub(crate) mod keys;
pub(crate) mod owner;
pub(crate) mod question;
pub(crate) mod restore;
pub(crate) mod running_snapshot;
pub(crate) mod shelf;
pub(crate) mod snapshots;
pub(crate) mod store;
pub(crate) mod topics;
pub(crate) mod value;
