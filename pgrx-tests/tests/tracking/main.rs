//! What can be tracked, and what is told of it and of its definition.

mod bad_input;
mod column_options;
mod configuration;
mod definitions;
mod library;
mod preload;
mod races;
mod tables;
