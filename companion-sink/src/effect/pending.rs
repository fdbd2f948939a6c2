//! What is to be written into the state next, and what follows from that.

use tokio::sync::oneshot;

use crate::effect::state::content::Change;
use crate::effect::state::unfinished::Unfinished;

/// Events that a sink has taken, with what changes by that.
pub(crate) struct Accepted {
    /// How far the partitions are then.
    pub(crate) changes: Vec<Change>,
    /// The events, which are tried when they are written.
    pub(crate) events: Vec<Unfinished>,
    /// Is told when they are.
    pub(crate) done: oneshot::Sender<()>,
}

/// What one transaction writes.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) changes: Vec<Change>,
    accepted: Vec<(Vec<Unfinished>, oneshot::Sender<()>)>,
    /// Orders before this offset are carried out then.
    orders_done: Option<i64>,
}

impl Pending {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.accepted.is_empty() && self.orders_done.is_none()
    }

    /// Adds a change.
    pub(crate) fn add(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Adds what a sink has taken.
    pub(crate) fn accept(&mut self, accepted: Accepted) {
        self.changes.extend(accepted.changes);
        let events = accepted.events.iter().map(Change::unfinished);
        self.changes.extend(events);
        self.accepted.push((accepted.events, accepted.done));
    }

    /// The order at `offset` is carried out by what was added.
    pub(crate) fn carries_out(&mut self, offset: i64) {
        self.orders_done = Some(offset + 1);
    }

    /// It is written: the events to try, whom to tell, and before which offset the orders are done.
    pub(crate) fn written(self) -> Written {
        let (events, tell): (Vec<_>, Vec<_>) = self.accepted.into_iter().unzip();
        Written {
            events: events.into_iter().flatten().collect(),
            tell,
            orders_done: self.orders_done,
        }
    }
}

/// What follows when it is written.
pub(crate) struct Written {
    pub(crate) events: Vec<Unfinished>,
    pub(crate) tell: Vec<oneshot::Sender<()>>,
    pub(crate) orders_done: Option<i64>,
}
