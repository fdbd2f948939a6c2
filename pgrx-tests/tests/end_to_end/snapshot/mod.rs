//! Snapshots of rows that were there before: a reader who applies events in the order of each partition ends with exactly
//! the rows of the source, whatever happens meanwhile.

mod changes;
mod gap;
mod interruptions;
mod keys;
mod progress;
mod reader;
mod tracking;
