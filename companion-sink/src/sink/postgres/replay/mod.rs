//! The tables that a replay builds beside those that readers use, and how they take their place.

pub mod control;
pub mod difference;
pub mod shadow;
