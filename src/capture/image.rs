//! A tuple as a row image: one pass over its columns, no allocation but the buffer's own growth.
//!
//! What is too large is not shipped: a stub stands in its place, with length and hash. A row that turns out to need
//! one is begun again, for an image says first whether it has any.

use change::wal::image::{Bitmaps, ImageMarks, begin_image, image_head_capacity};
use change::wal::record::{end_record, mark_key_changed};
use pgrx::pg_sys;
use sha2::{Digest, Sha256};

use super::datum::encode::{Encode, large_varlena, put_datum, same_bytes};
use super::plan::table_plan::{Plan, PlanColumn};
use crate::reserve::reserve;
use crate::settings;

/// Bytes that the images of one row may have: with the rows and names before it they must fit into one WAL record
/// (XLogRecordMaxSize, 1020 MB, since 16; before, what the reader can allocate, 1 GB).
const MAX_ROW_BYTES: usize = 900 * 1024 * 1024;

/// How large values and rows may be.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    value_bytes: usize,
    /// Larger values become stubs; else they make the row [`TooLarge`].
    stubs: bool,
}

/// The row must be begun again, with [`Limits::lowered`].
pub(crate) struct TooLarge;

impl Limits {
    /// `cdc.max_value_size`.
    #[inline]
    pub(crate) fn of_setting() -> Limits {
        Limits {
            value_bytes: settings::MAX_VALUE_SIZE.get() as usize * 1024,
            stubs: false,
        }
    }

    pub(crate) fn has_stubs(self) -> bool {
        self.stubs
    }

    pub(crate) fn value_bytes(self) -> usize {
        self.value_bytes
    }

    /// For the same row once more: with stubs, then with smaller values, until it fits.
    pub(crate) fn lowered(self) -> Limits {
        Limits {
            value_bytes: if self.stubs {
                self.value_bytes / 2
            } else {
                self.value_bytes
            },
            stubs: true,
        }
    }
}

/// Room for a stub.
const STUB_BYTES: usize = 64;
/// Bytes before a value that say how long it is, at most.
const LENGTH_BYTES: usize = 5;

/// A deformed tuple: its datums and NULL flags, in buffers that are used again and again.
#[derive(Default)]
pub(crate) struct Deformed {
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
    /// `tuple` belongs to the plan's relation, which has this descriptor, and both outlive the use of the values.
    #[inline]
    pub(crate) unsafe fn deform(
        &mut self,
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        plan: &Plan,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            self.take_apart(tuple, descriptor, plan.attributes);
            for (attribute, expression) in &plan.computed {
                let value = expression.value(tuple);
                self.nulls[*attribute] = value.is_none();
                self.values[*attribute] = value.unwrap_or(pg_sys::Datum::from(0));
            }
        };
    }

    /// Into the buffers, which get room for `attributes`.
    #[inline]
    unsafe fn take_apart(
        &mut self,
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        attributes: usize,
    ) {
        if self.values.len() < attributes {
            self.values.resize(attributes, pg_sys::Datum::from(0));
            self.nulls.resize(attributes, false);
        }
        // SAFETY: the caller passes a tuple with this descriptor, of at most so many attributes.
        unsafe {
            pg_sys::heap_deform_tuple(
                tuple,
                descriptor,
                self.values.as_mut_ptr(),
                self.nulls.as_mut_ptr(),
            );
        }
    }

    /// Takes a tuple apart that has the plan's columns alone, in their order.
    ///
    /// # Safety
    /// `tuple` has this descriptor, with a column of the same type for each of the plan's, and both outlive the use of
    /// the values.
    pub(crate) unsafe fn spread(
        &mut self,
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
        plan: &Plan,
    ) {
        let attributes = plan.attributes.max(plan.columns.len());
        // SAFETY: as the caller promises.
        unsafe { self.take_apart(tuple, descriptor, attributes) };
        let found: Vec<(pg_sys::Datum, bool)> = (0..plan.columns.len())
            .map(|index| (self.values[index], self.nulls[index]))
            .collect();
        for (column, (value, is_null)) in plan.columns.iter().zip(found) {
            self.values[column.attribute] = value;
            self.nulls[column.attribute] = is_null;
        }
    }
}

/// Begins an image: of all columns, or of those that `changed`.
#[inline]
fn begin(
    out: &mut Vec<u8>,
    plan: &Plan,
    tuple: &Deformed,
    changed: bool,
    limits: Limits,
) -> ImageMarks {
    let columns = plan.columns.len();
    reserve(out, image_head_capacity(columns));
    let bitmaps = Bitmaps {
        nulls: plan.columns.iter().any(|column| tuple.is_null(column)),
        changed,
        stubs: limits.stubs,
    };
    begin_image(out, columns, bitmaps)
}

/// Appends a whole image.
///
/// # Safety
/// `tuple` was deformed from a row of the plan's relation that is still there.
#[inline]
pub(crate) unsafe fn put_image(
    out: &mut Vec<u8>,
    plan: &Plan,
    tuple: &Deformed,
    limits: Limits,
) -> Result<(), TooLarge> {
    let marks = begin(out, plan, tuple, false, limits);
    let start = out.len();
    for (index, column) in plan.columns.iter().enumerate() {
        if tuple.is_null(column) {
            marks.set_null(out, index);
        } else {
            // SAFETY: as the caller promises; the value is not NULL.
            unsafe { put_value(out, &marks, index, column, tuple, limits)? };
            if out.len() - start > MAX_ROW_BYTES {
                return Err(TooLarge);
            }
        }
    }
    Ok(())
}

/// Appends the value of one column, or a stub where it is too large.
///
/// # Safety
/// As for [`put_image`]; the value is not NULL.
#[inline]
unsafe fn put_value(
    out: &mut Vec<u8>,
    marks: &ImageMarks,
    index: usize,
    column: &PlanColumn,
    tuple: &Deformed,
    limits: Limits,
) -> Result<(), TooLarge> {
    let datum = tuple.values[column.attribute];
    // SAFETY: as the caller promises.
    unsafe {
        if let Some(large) = large_varlena(&column.encode, datum, limits.value_bytes) {
            if !limits.stubs {
                return Err(TooLarge);
            }
            let (bytes, digest) = large.with_bytes(|bytes| (bytes.len(), Sha256::digest(bytes)));
            reserve(out, STUB_BYTES);
            marks.put_stub(out, index, bytes as u64, &digest.into());
            return Ok(());
        }
        let start = out.len();
        put_datum(out, &column.encode, datum);
        if out.len() - start > limits.value_bytes + LENGTH_BYTES {
            return cut_to_stub(out, start, marks, index, limits);
        }
    }
    Ok(())
}

/// Puts a stub in the place of the value that begins at `start`.
#[cold]
fn cut_to_stub(
    out: &mut Vec<u8>,
    start: usize,
    marks: &ImageMarks,
    index: usize,
    limits: Limits,
) -> Result<(), TooLarge> {
    if !limits.stubs {
        return Err(TooLarge);
    }
    // Behind the length, whose last byte is the first one without the high bit.
    let length_bytes = out[start..].iter().position(|byte| *byte < 0x80);
    let value = &out[start + length_bytes.map_or(0, |place| place + 1)..];
    let (bytes, digest) = (value.len(), Sha256::digest(value));
    out.truncate(start);
    marks.put_stub(out, index, bytes as u64, &digest.into());
    Ok(())
}

/// Appends the images of an UPDATE, the row's record having begun at `start`: the whole old one, and of the new one
/// the columns that changed. Ends the record.
///
/// # Safety
/// As for `put_image`, for both tuples.
pub(crate) unsafe fn put_update(
    out: &mut Vec<u8>,
    plan: &Plan,
    start: usize,
    old: &Deformed,
    new: &Deformed,
    limits: Limits,
) -> Result<Changes, TooLarge> {
    // SAFETY: as the caller promises.
    unsafe { put_image(out, plan, old, limits)? };
    let marks = begin(out, plan, new, true, limits);
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
                let (old, new_value) = (old.values[attribute], new.values[attribute]);
                // SAFETY: as the caller promises; a NULL is not compared.
                let same = !old_is_null
                    && unsafe {
                        same_bytes(&column.encode, old, new_value)
                            || (plan.skip_unchanged && same_encoded(&column.encode, old, new_value))
                    };
                if !same {
                    changed = true;
                    marks.set_changed(out, index);
                    // SAFETY: as above.
                    unsafe { put_value(out, &marks, index, column, new, limits)? };
                    if out.len() - start > MAX_ROW_BYTES {
                        return Err(TooLarge);
                    }
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
    Ok(Changes {
        any: changed,
        key: key_changed,
    })
}

/// What an UPDATE changed of what is shipped.
pub(crate) struct Changes {
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
