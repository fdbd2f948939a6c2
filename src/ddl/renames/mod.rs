//! What follows names: options and filters name columns and types, and types have names in definitions.

pub(crate) mod changed_types;
pub(crate) mod options;
pub(crate) mod types;
