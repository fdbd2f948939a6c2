//! The newest control event about each topic. The topic's rows name it, so that who reads both knows what comes first.

use std::collections::HashMap;

use crate::event::op::Op;
use crate::wal::relation::Relation;

/// The versions of the newest control events, by the topics that they are about.
#[derive(Debug, Default)]
pub struct Controls {
    newest: HashMap<String, String>,
    /// How often they changed.
    changes: u64,
}

impl Controls {
    /// As they are known before the first event.
    pub fn new(newest: HashMap<String, String>) -> Controls {
        Controls { newest, changes: 0 }
    }

    /// There is a newer one about `topic`.
    pub(in crate::event) fn note(&mut self, topic: &str, version: &str) {
        self.newest.insert(topic.to_owned(), version.to_owned());
        self.changes += 1;
    }
}

/// Those that the rows of one relation name.
#[derive(Debug)]
pub(in crate::event) struct RelationControls {
    of_table: Option<String>,
    /// Of the topics that inserts, updates and deletes have of their own.
    own: [Option<String>; 3],
    /// Which [`Controls::changes`] they are of.
    changes: u64,
}

impl RelationControls {
    pub(in crate::event) fn of(relation: &Relation<'_>, controls: &Controls) -> RelationControls {
        let newest = |topic: &str| controls.newest.get(topic).cloned();
        let [insert, update, delete, _] = relation.topics;
        RelationControls {
            of_table: newest(relation.topic),
            own: [insert, update, delete].map(|topic| topic.and_then(newest)),
            changes: controls.changes,
        }
    }

    #[inline]
    pub(in crate::event) fn is_outdated(&self, controls: &Controls) -> bool {
        self.changes != controls.changes
    }

    /// What a row's event of this operation names.
    #[inline]
    pub(in crate::event) fn of_row(&self, op: Op, relation: &Relation<'_>) -> Option<&str> {
        let place = match op {
            Op::Create => 0,
            Op::Update => 1,
            Op::Delete | Op::Tombstone => 2,
            _ => return self.of_table.as_deref(),
        };
        match relation.topics[place] {
            Some(_) => self.own[place].as_deref(),
            None => self.of_table.as_deref(),
        }
    }
}
