//! A tuple as a row image: one pass over its columns, no allocation but the buffer's own growth.

use change::body::{begin_image, end_record, mark_key_changed};
use pgrx::pg_sys;

use super::datum::{Encode, put_datum, same_bytes};
use super::relation_plan::{Plan, PlanColumn};
use super::reserve;

/// A deformed tuple: its datums and NULL flags, in buffers that are used again and again.
#[derive(Default)]
pub struct Deformed {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Deformed {
    /// Whether the image has NULL for a column.
    #[inline]
    fn is_null(&self, column: &PlanColumn) -> bool {
        self.nulls[column.attribute] || matches!(column.encode, Encode::Redacted)
    }

    /// Takes a tuple apart.
    ///
    /// # Safety
    /// `tuple` belongs to a relation with this descriptor, and both outlive the use of the values.
    #[inline]
    pub unsafe fn deform(
        &mut self,
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        attributes: usize,
    ) {
        if self.values.len() < attributes {
            self.values.resize(attributes, pg_sys::Datum::from(0));
            self.nulls.resize(attributes, false);
        }
        // SAFETY: as the caller promises; both buffers have room for every attribute.
        unsafe {
            pg_sys::heap_deform_tuple(
                tuple,
                descriptor,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            )
        };
    }
}

/// Appends a whole image.
///
/// # Safety
/// `tuple` was deformed from a row of the plan's relation that is still there.
#[inline]
pub unsafe fn put_image(out: &mut Vec<u8>, plan: &Plan, tuple: &Deformed) {
    let columns = plan.columns.len();
    reserve(out, columns / 8 + 16);
    let nulls = plan.columns.iter().any(|column| tuple.is_null(column));
    let marks = begin_image(out, columns, nulls, false);
    for (index, column) in plan.columns.iter().enumerate() {
        if tuple.is_null(column) {
            marks.set_null(out, index);
        } else {
            // SAFETY: as the caller promises; the value is not NULL.
            unsafe { put_datum(out, &column.encode, tuple.values[column.attribute]) };
        }
    }
}

/// Appends the images of an UPDATE, the row's record having begun at `start`: the whole old one, and of the new one
/// the columns that changed. Ends the record.
///
/// # Safety
/// As for `put_image`, for both tuples.
pub unsafe fn put_update(
    out: &mut Vec<u8>,
    plan: &Plan,
    start: usize,
    old: &Deformed,
    new: &Deformed,
) -> Changes {
    // SAFETY: as the caller promises.
    unsafe { put_image(out, plan, old) };
    let columns = plan.columns.len();
    reserve(out, columns / 4 + 16);
    let nulls = plan.columns.iter().any(|column| new.is_null(column));
    let marks = begin_image(out, columns, nulls, true);
    let mut changed = false;
    for (index, column) in plan.columns.iter().enumerate() {
        let attribute = column.attribute;
        match (old.is_null(column), new.is_null(column)) {
            (true, true) => {}
            (_, true) => {
                changed = true;
                marks.set_changed(out, index);
                marks.set_null(out, index);
            }
            (old_is_null, false) => {
                let (old, new) = (old.values[attribute], new.values[attribute]);
                // SAFETY: as the caller promises; a NULL is not compared.
                let same = !old_is_null
                    && unsafe {
                        same_bytes(&column.encode, old, new)
                            || (plan.skip_unchanged && same_encoded(&column.encode, old, new))
                    };
                if !same {
                    changed = true;
                    marks.set_changed(out, index);
                    // SAFETY: as above.
                    unsafe { put_datum(out, &column.encode, new) };
                }
            }
        }
    }
    // SAFETY: as above.
    let key_changed = unsafe { key_changed(plan, old, new) };
    if key_changed {
        mark_key_changed(out, start);
    }
    end_record(out, start);
    Changes {
        any: changed,
        key: key_changed,
    }
}

/// What an UPDATE changed of what is shipped.
pub struct Changes {
    pub any: bool,
    pub key: bool,
}

/// Whether a key column's value, as it is shipped, differs.
unsafe fn key_changed(plan: &Plan, old: &Deformed, new: &Deformed) -> bool {
    plan.key_columns.iter().any(|&index| {
        let column = &plan.columns[index];
        let attribute = column.attribute;
        match (old.is_null(column), new.is_null(column)) {
            (true, true) => false,
            // SAFETY: as the caller of `put_update` promises; neither value is NULL.
            (false, false) => unsafe {
                let (old, new) = (old.values[attribute], new.values[attribute]);
                !same_bytes(&column.encode, old, new) && !same_encoded(&column.encode, old, new)
            },
            _ => true,
        }
    })
}

/// Whether two values are one as they are shipped: different bytes in the tuple may still be one value (compressed
/// here, plain there).
unsafe fn same_encoded(encode: &Encode, old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    let mut encoded = [Vec::new(), Vec::new()];
    // SAFETY: as the caller of `put_update` promises; neither value is NULL.
    unsafe {
        put_datum(&mut encoded[0], encode, old);
        put_datum(&mut encoded[1], encode, new);
    }
    encoded[0] == encoded[1]
}
