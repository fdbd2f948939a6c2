//! The tables that a replay builds beside those that readers use, and how they take their place.

mod built_table;
pub(crate) mod control;
mod difference;
pub(crate) mod shadow;
