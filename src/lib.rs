//! pg_cdc: ships row changes straight to Kafka.
//!
//! A row goes through `capture` (in the writer's backend: trigger, buffer, one WAL message just before commit) and
//! `sender` (one background worker: reads the WAL, puts transactions together; the crate `shipper` produces). `snapshot`
//! reads rows that were there before, `ddl` turns changes of a table's definition into events, `api` holds the SQL
//! functions. `tracked` is what all of them ask of a tracked table.

pgrx::pg_module_magic!();

mod api;
mod backtrace;
mod capture;
mod catalog;
mod cluster_secret;
mod ddl;
mod ffi;
mod memory;
mod report;
mod reserve;
mod sender;
mod settings;
mod shared;
mod snapshot;
mod text;
mod tracked;
mod transaction_end;
mod wait_event;

/// Loading the library: at server start everything, later only what a session needs to say that this is too late.
#[allow(non_snake_case)]
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: a plain read, on the only thread.
    let preloading = unsafe { pgrx::pg_sys::process_shared_preload_libraries_in_progress };
    backtrace::settle();
    settings::define(preloading);
    if preloading {
        shared::request(sender::source::id_at_server_start);
        transaction_end::register();
        ddl::drop_hook::install();
        ddl::touched::register();
        sender::worker::register();
    }
}
