//! What capture knows of a table.

use change::wal::relation::Relation as RelationEntry;
use pgrx::pg_sys;

use super::validity::Validity;
use crate::capture::datum::encode::Encode;
use crate::capture::filter::row_expression::RowExpression;

/// A live column.
pub(crate) struct PlanColumn {
    /// Index into the tuple's attributes.
    pub attribute: usize,
    pub encode: Encode,
}

/// A table as capture sees it.
pub(crate) struct Plan {
    /// Differs for every plan that this backend ever made.
    pub id: u64,
    /// `schema.table`, for messages.
    pub name: String,
    /// The relation's entry for messages, with its length.
    pub blob: Vec<u8>,
    pub columns: Vec<PlanColumn>,
    /// Columns whose change is a change of the Kafka key or the identity (indexes into `columns`).
    pub key_columns: Vec<usize>,
    /// Attributes of a tuple, dropped ones included.
    pub attributes: usize,
    /// Rows of this table are not captured: it is a copy, or the trigger is not ours, and a warning said so.
    pub silent: bool,
    /// The server's identity when `silent` was decided (`shared::identity_number`).
    pub identity_number: u32,
    /// What a subscription applies is not captured.
    pub local_only: bool,
    /// An UPDATE that changes nothing of what is shipped makes no event.
    pub skip_unchanged: bool,
    pub filter: Option<RowExpression>,
    /// Attributes that a tuple does not hold: virtual generated columns (18), and what computes them.
    pub computed: Vec<(usize, RowExpression)>,
    pub validity: Validity,
}

impl Plan {
    /// A plan that captures no row.
    fn without_rows(id: u64, validity: Validity) -> Plan {
        Plan {
            id,
            name: String::new(),
            blob: Vec::new(),
            columns: Vec::new(),
            key_columns: Vec::new(),
            attributes: 0,
            silent: false,
            identity_number: 0,
            local_only: false,
            skip_unchanged: false,
            filter: None,
            computed: Vec::new(),
            validity,
        }
    }

    /// The plan of a trigger that captures nothing; `name` is the table's.
    pub(super) fn silent(id: u64, validity: Validity, name: String) -> Plan {
        Plan {
            name,
            silent: true,
            ..Plan::without_rows(id, validity)
        }
    }

    /// The plan for events of the application's own.
    pub(super) fn of_topic(id: u64, validity: Validity, topic: &str) -> Plan {
        let entry = RelationEntry {
            oid: 0,
            schema: "",
            table: "",
            topic,
            topics: [None; 4],
            columns: Vec::new(),
            key: Vec::new(),
            identity: None,
            tombstones: false,
        };
        let mut plan = Plan::without_rows(id, validity);
        entry.put(&mut plan.blob);
        plan
    }

    /// Whether the table's filter lets a row pass.
    ///
    /// # Safety
    /// The tuple is a row of the plan's relation.
    #[inline]
    pub(crate) unsafe fn passes(&self, tuple: pg_sys::HeapTuple) -> bool {
        match &self.filter {
            None => true,
            // SAFETY: as the caller promises.
            Some(filter) => unsafe { filter.holds(tuple) },
        }
    }
}
