//! Topics, as their readers have them and as the broker keeps them.

pub mod topic;
pub mod topic_admin;
pub mod topic_log;
