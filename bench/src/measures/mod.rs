//! What is measured of processes, servers and the machine, and what is made of several figures.

pub(crate) mod median;
pub(crate) mod memory;
pub(crate) mod server_cpu;
pub(crate) mod stolen;
pub(crate) mod threads;
pub(crate) mod visibility;
pub(crate) mod wal;
