//! What goes aside of a replica.

use std::borrow::Cow;

use crate::event::Headers;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::sink::postgres::parked::store;
use crate::sink::postgres::parked::store::ParkedKeys;
use crate::sink::postgres::write::change::{RowChange, identity_of};

/// Something that goes aside: parked, and with a failure to the dead letters as well.
pub(crate) struct Park<'b> {
    pub(crate) record: &'b Record,
    pub(crate) key: Cow<'b, [u8]>,
    pub(crate) failure: Option<Failure>,
}

impl<'b> Park<'b> {
    /// What goes aside of a change.
    pub(crate) fn of(change: &RowChange<'b>, failure: Option<Failure>) -> Self {
        Park {
            record: change.record,
            key: change.key.into(),
            failure,
        }
    }

    /// A row event that goes aside, and its key to those that are `parked`.
    pub(crate) fn aside(
        record: &'b Record,
        headers: &Headers<'b>,
        failure: Option<Failure>,
        parked: &mut ParkedKeys,
    ) -> Self {
        if let Some(failure) = failure.as_ref().filter(|failure| failure.is_forged()) {
            return Park::apart(record, failure.clone());
        }
        let key = identity_of(record, headers);
        parked.insert((record.topic.clone(), key.into()));
        Park {
            record,
            key: key.into(),
            failure,
        }
    }

    /// An event that is refused.
    pub(crate) fn refused(record: &'b Record, key: &'b [u8], failure: Failure) -> Self {
        Park {
            record,
            key: key.into(),
            failure: Some(failure),
        }
    }

    /// An event that cannot come from its topic's table, or that is of no row: under a key that no row has, so that none waits
    /// behind it.
    pub(crate) fn apart(record: &'b Record, failure: Failure) -> Self {
        Park {
            record,
            key: store::apart(record).into(),
            failure: Some(failure),
        }
    }
}
