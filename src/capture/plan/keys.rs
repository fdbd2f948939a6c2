//! The columns that the Kafka key and the identity of a row consist of.

use change::options::Options;
use change::wal::relation::Masked;

use super::columns::Columns;

/// Indexes of shipped columns.
pub(super) struct Keys {
    /// Of the Kafka key.
    pub key: Vec<usize>,
    /// Of the identity, where the key has other columns.
    pub other_identity: Option<Vec<usize>>,
    /// A deleted row's key identifies it: a tombstone may follow.
    pub tombstones: bool,
}

impl Keys {
    /// `identity`: attributes of the table's own key.
    pub(super) fn of(columns: &Columns, identity: &[usize], options: &Options) -> Keys {
        let column_of = |attribute: usize| {
            let mut columns = columns.encoded.iter();
            columns.position(|column| column.attribute == attribute)
        };
        // In part, or masked so that two rows may look alike, it identifies nothing.
        let identifies =
            |column: &usize| matches!(columns.named[*column].masked, None | Some(Masked::Hashed));
        let identity: Vec<usize> = identity
            .iter()
            .map(|attribute| column_of(*attribute).filter(identifies))
            .collect::<Option<_>>()
            .unwrap_or_default();
        let key: Vec<usize> = if options.key.is_empty() {
            identity.clone()
        } else {
            let position = |wanted: &String| {
                let mut columns = columns.named.iter();
                columns.position(|column| column.name == *wanted)
            };
            options.key.iter().filter_map(position).collect()
        };
        let same =
            key.len() == identity.len() && key.iter().all(|column| identity.contains(column));
        Keys {
            tombstones: same && !key.is_empty(),
            other_identity: (!same && !identity.is_empty()).then_some(identity),
            key,
        }
    }

    /// Columns whose change is a change of the key or the identity.
    pub(super) fn columns(&self) -> Vec<usize> {
        let mut columns = self.key.clone();
        let others = self.other_identity.iter().flatten();
        columns.extend(others.filter(|column| !self.key.contains(column)));
        columns
    }
}
