//! The tables of the target: which there are, whose topics they are, and the changes of their definitions.

pub(crate) mod casts;

pub(crate) mod schema_event;

pub(crate) mod definition;

pub(crate) mod target;

pub(crate) mod bindings;
pub(crate) mod definitions;
pub(crate) mod tables;
