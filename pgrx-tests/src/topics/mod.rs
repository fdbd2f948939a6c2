//! Topics, as their readers have them and as the broker keeps them, and commands that follow them.

pub mod plain_events;
pub mod printing_command;
pub mod topic;
pub mod topic_admin;
pub mod topic_log;
