//! What an event tells of.

/// What happened. Written as the header `cdc.op`, and, as Debezium has it, as `op` in the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A row was inserted, or a changed key arrived.
    Create,
    Update,
    /// A row was deleted, or a changed key left.
    Delete,
    /// A row that a snapshot found.
    Read,
    /// The table was emptied.
    Truncate,
    /// The null record after a delete.
    Tombstone,
    /// The table's definition.
    Schema,
    /// The beginning or the end of a snapshot's chunk.
    Snapshot,
    /// An event of the application's own.
    Emit,
}

impl Op {
    /// Every one.
    pub const ALL: [Op; 9] = [
        Op::Create,
        Op::Update,
        Op::Delete,
        Op::Read,
        Op::Truncate,
        Op::Tombstone,
        Op::Schema,
        Op::Snapshot,
        Op::Emit,
    ];

    /// In the header `cdc.op`.
    pub const fn header(self) -> &'static str {
        match self {
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Read => "r",
            Op::Truncate => "t",
            Op::Tombstone => "tombstone",
            Op::Schema => "schema",
            Op::Snapshot => "snapshot",
            Op::Emit => "emit",
        }
    }

    /// In the envelope; what has none is empty.
    pub const fn envelope(self) -> &'static str {
        match self {
            Op::Schema | Op::Snapshot => "m",
            Op::Tombstone | Op::Emit => "",
            row => row.header(),
        }
    }

    /// In the key of a control event.
    pub const fn control(self) -> &'static str {
        match self {
            Op::Truncate => "truncate",
            other => other.header(),
        }
    }

    /// Of the header `cdc.op`.
    pub fn parse(header: &str) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.header() == header)
    }

    /// Whether the event carries a row.
    pub const fn is_row(self) -> bool {
        matches!(self, Op::Create | Op::Update | Op::Delete | Op::Read)
    }

    /// Whether it is about the table as a whole: a control event, which goes to the control topic.
    pub const fn is_about_table(self) -> bool {
        matches!(self, Op::Truncate | Op::Schema | Op::Snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_comes_back() {
        for op in Op::ALL {
            assert_eq!(Op::parse(op.header()), Some(op));
        }
        assert_eq!(Op::parse("m"), None);
    }
}
