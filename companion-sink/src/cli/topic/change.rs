//! A record on a line of the terminal.

use change::event::op::Op;

use crate::cli::answer::Look;
use crate::topic::told::ToldRecord;

pub(super) const HEADER: &[&str] = &["WHEN (UTC)", "PLACE", "OP", "KEY", "ACTOR", "CHANGE"];

pub(super) fn look(told: &ToldRecord<'_>) -> Look {
    match told.entry.op() {
        _ if told.refusal().is_some() || told.undecodable.is_some() => Look::Gone,
        Some(Op::Create) => Look::New,
        Some(Op::Delete | Op::Truncate) => Look::Gone,
        _ => Look::Plain,
    }
}
