//! Which topic an event goes to.

use super::op::Op;

/// The topic of an operation's events: its own, or the table's. `topics` are those of inserts, updates, deletes and truncates.
#[inline]
pub(super) fn topic_of<'a>(table_topic: &'a str, topics: [Option<&'a str>; 4], op: Op) -> &'a str {
    let [insert, update, delete, truncate] = topics;
    let own = match op {
        Op::Create => insert,
        Op::Update => update,
        Op::Delete | Op::Tombstone => delete,
        Op::Truncate => truncate,
        Op::Read | Op::Schema | Op::Snapshot | Op::Emit => None,
    };
    own.unwrap_or(table_topic)
}
