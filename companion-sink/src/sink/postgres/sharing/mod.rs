//! Instances that share the partitions of a replica.

pub(crate) mod barrier;
pub(crate) mod meeting;
pub(crate) mod partition_locks;
pub(crate) mod partitions;
