//! Instances that share the partitions of a replica.

pub mod barrier;
pub mod partition_locks;
