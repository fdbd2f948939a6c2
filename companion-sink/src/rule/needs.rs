//! What of an event expressions look at.

use std::collections::BTreeSet;

/// The parts of an event that expressions look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    pub(crate) before: Members,
    pub(crate) after: Members,
    pub(crate) audit: Members,
    pub(crate) value: Members,
}

/// The members of one of these parts.
#[derive(Debug, Clone)]
pub(crate) enum Members {
    /// These.
    Named(BTreeSet<String>),
    /// All of them, for the expression has the part as a whole.
    All,
}

impl Needs {
    /// Adds what another expression needs.
    pub(crate) fn add(&mut self, other: &Needs) {
        self.before.add(&other.before);
        self.after.add(&other.after);
        self.audit.add(&other.audit);
        self.value.add(&other.value);
    }

    pub(crate) fn part(&mut self, variable: &str) -> Option<&mut Members> {
        match variable {
            "before" => Some(&mut self.before),
            "after" => Some(&mut self.after),
            "audit" => Some(&mut self.audit),
            "value" => Some(&mut self.value),
            _ => None,
        }
    }
}

impl Default for Members {
    fn default() -> Self {
        Members::Named(BTreeSet::new())
    }
}

impl Members {
    /// Whether none is needed, and so not the part itself.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Members::Named(names) if names.is_empty())
    }

    /// Whether the member `name` is needed.
    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Members::Named(names) => names.contains(name),
            Members::All => true,
        }
    }

    pub(crate) fn add(&mut self, other: &Members) {
        match (&mut *self, other) {
            (Members::Named(names), Members::Named(more)) => names.extend(more.iter().cloned()),
            _ => *self = Members::All,
        }
    }
}
