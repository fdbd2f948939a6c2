//! A tuple as a row image: one pass over its columns, no allocation but the buffer's own growth.

use std::ffi::{CStr, c_int};

use change::body::{begin_image, end_record, mark_key_changed};
use change::wire::put_varint;
use pgrx::pg_sys;

use super::relation_plan::{Encode, Plan, PlanColumn};
use super::{reserve, utf8};
use crate::ffi;

/// A deformed tuple: its datums and NULL flags, in buffers that are used again and again.
#[derive(Default)]
pub struct Deformed {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Deformed {
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
    let nulls = plan
        .columns
        .iter()
        .any(|column| tuple.nulls[column.attribute]);
    let marks = begin_image(out, columns, nulls, false);
    for (index, column) in plan.columns.iter().enumerate() {
        if tuple.nulls[column.attribute] {
            marks.set_null(out, index);
        } else {
            // SAFETY: as the caller promises; the value is not NULL.
            unsafe { put_datum(out, column, tuple.values[column.attribute]) };
        }
    }
}

/// Appends the images of an UPDATE, the row's record having begun at `start`: the whole old one, and of the new one
/// the columns that changed. Ends the record; returns whether the key changed.
///
/// # Safety
/// As for `put_image`, for both tuples.
pub unsafe fn put_update(
    out: &mut Vec<u8>,
    plan: &Plan,
    start: usize,
    old: &Deformed,
    new: &Deformed,
) -> bool {
    // SAFETY: as the caller promises.
    unsafe { put_image(out, plan, old) };
    let columns = plan.columns.len();
    reserve(out, columns / 4 + 16);
    let nulls = plan
        .columns
        .iter()
        .any(|column| new.nulls[column.attribute]);
    let marks = begin_image(out, columns, nulls, true);
    for (index, column) in plan.columns.iter().enumerate() {
        let attribute = column.attribute;
        match (old.nulls[attribute], new.nulls[attribute]) {
            (true, true) => {}
            (_, true) => {
                marks.set_changed(out, index);
                marks.set_null(out, index);
            }
            (old_is_null, false) => {
                let (old, new) = (old.values[attribute], new.values[attribute]);
                // SAFETY: as the caller promises; a NULL is not compared.
                if old_is_null || !unsafe { same_bytes(column, old, new) } {
                    marks.set_changed(out, index);
                    // SAFETY: as above.
                    unsafe { put_datum(out, column, new) };
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
    key_changed
}

/// Whether a key column's value, as it is shipped, differs. Different bytes in the tuple may still be one value
/// (compressed here, plain there), so the encoded forms are compared.
unsafe fn key_changed(plan: &Plan, old: &Deformed, new: &Deformed) -> bool {
    plan.key_columns.iter().any(|&index| {
        let column = &plan.columns[index];
        let attribute = column.attribute;
        match (old.nulls[attribute], new.nulls[attribute]) {
            (true, true) => false,
            // SAFETY: as the caller of `put_update` promises; neither value is NULL.
            (false, false) => unsafe {
                if same_bytes(column, old.values[attribute], new.values[attribute]) {
                    return false;
                }
                let mut encoded = [Vec::new(), Vec::new()];
                put_datum(&mut encoded[0], column, old.values[attribute]);
                put_datum(&mut encoded[1], column, new.values[attribute]);
                encoded[0] != encoded[1]
            },
            _ => true,
        }
    })
}

/// Whether two datums of a column have the same bytes. Unchanged TOAST pointers are equal, and so are never fetched
/// for the new image.
#[inline]
unsafe fn same_bytes(column: &PlanColumn, old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: both are non-NULL datums of the column's type.
    unsafe {
        match &column.encode {
            Encode::ByValue(_) => old == new,
            Encode::ByReference(len) => bytes_at(old, *len) == bytes_at(new, *len),
            Encode::Name => {
                CStr::from_ptr(old.cast_mut_ptr()) == CStr::from_ptr(new.cast_mut_ptr())
            }
            Encode::Varlena | Encode::VarlenaText => same_varlena(old, new),
            Encode::Output { by_value: true, .. } => old == new,
            Encode::Output { length: -1, .. } => same_varlena(old, new),
            Encode::Output {
                length: length @ 1..,
                ..
            } => bytes_at(old, *length as usize) == bytes_at(new, *length as usize),
            Encode::Output { .. } => false,
        }
    }
}

unsafe fn same_varlena(old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: both point to varlenas, whose full length VARSIZE_ANY gives.
    unsafe {
        let (old, new): (*mut pg_sys::varlena, *mut pg_sys::varlena) =
            (old.cast_mut_ptr(), new.cast_mut_ptr());
        let len = pgrx::varsize_any(old);
        len == pgrx::varsize_any(new)
            && std::slice::from_raw_parts(old.cast::<u8>(), len)
                == std::slice::from_raw_parts(new.cast::<u8>(), len)
    }
}

unsafe fn bytes_at<'a>(datum: pg_sys::Datum, len: usize) -> &'a [u8] {
    // SAFETY: the caller passes a by-reference datum of `len` bytes.
    unsafe { std::slice::from_raw_parts(datum.cast_mut_ptr(), len) }
}

/// Appends one value.
///
/// # Safety
/// `datum` is a non-NULL value of the column's type.
#[inline]
unsafe fn put_datum(out: &mut Vec<u8>, column: &PlanColumn, datum: pg_sys::Datum) {
    // SAFETY: as the caller promises.
    unsafe {
        match &column.encode {
            Encode::ByValue(len) => {
                reserve(out, 8);
                out.extend_from_slice(&(datum.value() as u64).to_le_bytes()[..*len]);
            }
            Encode::ByReference(len) => {
                reserve(out, *len);
                out.extend_from_slice(bytes_at(datum, *len));
            }
            Encode::Varlena => put_varlena(out, datum, false),
            Encode::VarlenaText => put_varlena(out, datum, true),
            Encode::Name => put_counted(out, CStr::from_ptr(datum.cast_mut_ptr()).to_bytes()),
            Encode::Output { function, .. } => put_output(out, function, datum),
        }
    }
}

#[inline]
unsafe fn put_varlena(out: &mut Vec<u8>, datum: pg_sys::Datum, convert: bool) {
    // SAFETY: the datum points to a varlena. Fetched or decompressed copies lie in the trigger's per-tuple memory.
    unsafe {
        let mut varlena: *mut pg_sys::varlena = datum.cast_mut_ptr();
        let header = *varlena.cast::<u8>();
        // Plain 4-byte header (low bits 00) or plain short header (low bit 1, not the external tag 1).
        let plain = header & 0x03 == 0 || (header & 0x01 == 1 && header != 0x01);
        if !plain {
            varlena = pg_sys::pg_detoast_datum_packed(varlena);
        }
        let len = pgrx::varsize_any_exhdr(varlena);
        let bytes = std::slice::from_raw_parts(pgrx::vardata_any(varlena).cast::<u8>(), len);
        if convert {
            put_counted(out, utf8(bytes).as_bytes());
        } else {
            put_counted(out, bytes);
        }
    }
}

#[inline]
fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    reserve(out, bytes.len() + 10);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

unsafe fn put_output(out: &mut Vec<u8>, info: &pg_sys::FmgrInfo, datum: pg_sys::Datum) {
    // SAFETY: the function is the output function of the datum's type; what it returns lies in per-tuple memory. Its
    // FmgrInfo is only written through by PostgreSQL itself, on this thread.
    unsafe {
        let _pinned = PinnedStyle::set();
        let text = pg_sys::OutputFunctionCall(std::ptr::from_ref(info).cast_mut(), datum);
        let bytes = CStr::from_ptr(text).to_bytes();
        if pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 {
            put_counted(out, bytes);
        } else {
            put_counted(out, utf8(bytes).as_bytes());
        }
    }
}

/// Pins the settings that output functions depend on, so that text means the same whoever writes; restores them on
/// every way out, errors included.
struct PinnedStyle {
    date_style: c_int,
    date_order: c_int,
    interval_style: c_int,
    extra_float_digits: c_int,
    bytea_output: c_int,
    time_zone: *mut pg_sys::pg_tz,
}

impl PinnedStyle {
    unsafe fn set() -> PinnedStyle {
        // SAFETY: these variables belong to this backend's only thread; the zone is looked up before anything is set.
        unsafe {
            let utc = pg_sys::pg_tzset(c"UTC".as_ptr());
            let before = PinnedStyle {
                date_style: pg_sys::DateStyle,
                date_order: pg_sys::DateOrder,
                interval_style: pg_sys::IntervalStyle,
                extra_float_digits: pg_sys::extra_float_digits,
                bytea_output: ffi::bytea_output,
                time_zone: pg_sys::session_timezone,
            };
            pg_sys::DateStyle = pg_sys::USE_ISO_DATES as c_int;
            pg_sys::DateOrder = pg_sys::DATEORDER_YMD as c_int;
            pg_sys::IntervalStyle = pg_sys::INTSTYLE_POSTGRES as c_int;
            pg_sys::extra_float_digits = 1;
            ffi::bytea_output = 1;
            if !utc.is_null() {
                pg_sys::session_timezone = utc;
            }
            before
        }
    }
}

impl Drop for PinnedStyle {
    fn drop(&mut self) {
        // SAFETY: as in `set`.
        unsafe {
            pg_sys::DateStyle = self.date_style;
            pg_sys::DateOrder = self.date_order;
            pg_sys::IntervalStyle = self.interval_style;
            pg_sys::extra_float_digits = self.extra_float_digits;
            ffi::bytea_output = self.bytea_output;
            pg_sys::session_timezone = self.time_zone;
        }
    }
}
