//! Instances that share the partitions of a replica.

pub mod barrier;
pub mod meeting;
pub mod partition_locks;
pub mod partitions;
