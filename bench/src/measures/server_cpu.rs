//! What a PostgreSQL server costs: time on a core of all its processes.

use std::fs;

use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::process;

use crate::measures::threads;

/// Seconds on a core of the processes that the server has now. The difference of two looks leaves out those that began and
/// ended between them: keep the connections that count.
///
/// # Panics
/// When the server does not run.
pub(crate) fn seconds(server: &Postgres) -> f64 {
    let processes = process::children_of(server.pid());
    processes.into_iter().filter_map(cpu_s).sum()
}

/// None for a process that has just ended.
fn cpu_s(pid: u32) -> Option<f64> {
    threads::cpu_s(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}
