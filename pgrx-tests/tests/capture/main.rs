//! What reaches the topics of what SQL does to tracked tables: values, statements, transactions, options, partitions.

mod audit;
mod control;
mod debezium;
mod emit;
mod extremes;
mod forgery;
mod large_rows;
mod late_rows;
mod options;
mod partitions;
mod sealed_triggers;
mod statements;
mod transactions;
mod values;
