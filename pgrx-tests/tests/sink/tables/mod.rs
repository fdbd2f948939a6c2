//! Tables of a target that are not as the events need them, or refuse what the events bring.

mod deferred_constraints;
mod sink_refusals;
mod sink_tables;
mod special_tables;
