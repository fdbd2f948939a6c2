//! pg_cdc.
pgrx::pg_module_magic!();
