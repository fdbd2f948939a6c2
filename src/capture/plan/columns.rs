//! The columns of a table that are shipped.

use change::options::{Mask, Options};
use change::value::kind::Kind;
use change::wal::relation::{Column, Masked};
use pgrx::pg_sys;

use super::attributes::{generated, is_virtual};
use super::table_plan::PlanColumn;
use super::validity::Validity;
use crate::capture::datum::described::{Describing, encoding_of, masked_encoding_of};
use crate::capture::filter::row_expression::RowExpression;
use crate::catalog::{name_of, tuple_attribute};

/// What events say of a column.
pub(super) struct NamedColumn {
    pub name: String,
    kind: Kind,
    pub masked: Option<Masked>,
}

impl NamedColumn {
    pub(super) fn entry(&self) -> Column<'_> {
        Column {
            name: &self.name,
            kind: self.kind.clone(),
            masked: self.masked,
        }
    }
}

/// Shipped columns, in order.
#[derive(Default)]
pub(super) struct Columns {
    pub encoded: Vec<PlanColumn>,
    pub named: Vec<NamedColumn>,
    /// Of them those that a tuple does not hold, by their attributes, and what computes them.
    pub computed: Vec<(usize, RowExpression)>,
}

impl Columns {
    /// Of these attributes those that the options ship. The plan depends on the composite types that are met.
    ///
    /// # Safety
    /// The relation is open, and has these attributes.
    pub(super) unsafe fn of(
        relation: pg_sys::Relation,
        attributes: &[usize],
        options: &Options,
        validity: &Validity,
    ) -> Columns {
        let mut columns = Columns::default();
        let mut describing = Describing::default();
        for &attribute in attributes {
            // SAFETY: as the caller promises; the types of its columns exist.
            unsafe {
                let form = tuple_attribute((*relation).rd_att, attribute);
                let name = name_of(form);
                if !options.ships(&name) {
                    continue;
                }
                let mask = options.mask.get(&name).copied();
                let (kind, encode) = match mask {
                    None => encoding_of(form.atttypid, form.atttypmod, &mut describing),
                    Some(mask) => masked_encoding_of(form.atttypid, mask),
                };
                let row_types = std::mem::take(&mut describing.row_types);
                if !row_types.is_empty() {
                    validity.depend_on(&row_types);
                }
                if is_virtual(form) {
                    let expression = generated(relation, attribute);
                    columns.computed.push((attribute, expression));
                }
                columns.named.push(NamedColumn {
                    name,
                    kind,
                    masked: mask.map(masked),
                });
                columns.encoded.push(PlanColumn { attribute, encode });
            }
        }
        columns
    }
}

fn masked(mask: Mask) -> Masked {
    match mask {
        Mask::Hash => Masked::Hashed,
        Mask::Redact => Masked::Redacted,
        Mask::Truncate(_) => Masked::Truncated,
    }
}
