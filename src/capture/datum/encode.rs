//! How a datum becomes bytes, and when two are the same.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};

use change::value::kind::{ARRAY_ITEMS, ARRAY_TEXT};
use change::wire::put_varint;
use pgrx::pg_sys;

use super::mask;
use super::output::{MoneyToNumeric, Output};
use super::row_type::RowType;
use super::varlena::{LargeVarlena, bytes_at, put_counted, put_varlena, same_varlena};
use crate::reserve::reserve;

/// How a datum becomes bytes.
pub(crate) enum Encode {
    /// Passed by value: its low bytes.
    ByValue(usize),
    /// Passed by reference, of fixed length.
    ByReference(usize),
    /// A varlena whose content is taken as it is.
    Varlena,
    /// The same, converted from the database's encoding.
    VarlenaText,
    /// The fixed name type.
    Name,
    /// As the type's output function writes it.
    Output(Box<Output>),
    /// An enum: its labels, as they were met. A renamed label makes the plan invalid.
    Enum {
        labels: RefCell<HashMap<pg_sys::Oid, Vec<u8>>>,
        output: Box<Output>,
    },
    /// money, by way of numeric: its text depends on a setting.
    Money(Box<MoneyToNumeric>),
    Array(Box<ArrayEncode>),
    /// Not at all: the image has NULL.
    Redacted,
    /// The digest of the text.
    Hashed(Box<(Output, mask::Hasher)>),
    /// So many characters of the text.
    Truncated(Box<Output>, u32),
    /// Indexes of the attributes that are not dropped, and how each is encoded.
    Composite(Vec<(usize, Encode)>),
}

/// How the elements of an array are encoded.
pub(crate) struct ArrayEncode {
    pub element: Encode,
    pub element_type: pg_sys::Oid,
    pub length: i16,
    pub by_value: bool,
    pub align: c_char,
    /// For lower bounds that are not 1.
    pub output: Output,
}

/// Whether two datums of a column have the same bytes. Unchanged TOAST pointers are equal, and so are never fetched
/// for the new image.
#[inline]
pub(crate) unsafe fn same_bytes(encode: &Encode, old: pg_sys::Datum, new: pg_sys::Datum) -> bool {
    // SAFETY: both are non-NULL datums of the column's type.
    unsafe {
        match encode {
            Encode::Redacted => true,
            Encode::ByValue(_) | Encode::Enum { .. } | Encode::Money(_) => old == new,
            Encode::ByReference(len) => bytes_at(old, *len) == bytes_at(new, *len),
            Encode::Name => {
                CStr::from_ptr(old.cast_mut_ptr()) == CStr::from_ptr(new.cast_mut_ptr())
            }
            Encode::Varlena | Encode::VarlenaText | Encode::Array(_) | Encode::Composite(_) => {
                same_varlena(old, new)
            }
            Encode::Output(output) | Encode::Truncated(output, _) => output.is_same(old, new),
            Encode::Hashed(hashed) => hashed.0.is_same(old, new),
        }
    }
}

/// The value, if it is one that is taken as it is and longer than `limit_bytes`.
///
/// # Safety
/// `datum` is a non-NULL value of the column's type.
#[inline]
pub(crate) unsafe fn large_varlena(
    encode: &Encode,
    datum: pg_sys::Datum,
    limit_bytes: usize,
) -> Option<LargeVarlena> {
    match encode {
        // SAFETY: what is encoded so is a varlena.
        Encode::Varlena => unsafe { LargeVarlena::beyond(datum, limit_bytes) },
        _ => None,
    }
}

/// Appends one value.
///
/// # Safety
/// `datum` is a non-NULL value of the column's type.
#[inline]
pub(crate) unsafe fn put_datum(out: &mut Vec<u8>, encode: &Encode, datum: pg_sys::Datum) {
    // SAFETY: as the caller promises.
    unsafe {
        match encode {
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
            Encode::Output(output) => output.with_text(datum, |text| put_counted(out, text)),
            // Images have NULL for it.
            Encode::Redacted => {}
            Encode::Hashed(hashed) => hashed
                .0
                .with_text(datum, |text| put_counted(out, &hashed.1.hash(text))),
            Encode::Truncated(output, characters) => output.with_text(datum, |text| {
                put_counted(out, mask::truncate(text, *characters));
            }),
            Encode::Enum { labels, output } => put_enum(out, labels, output, datum),
            Encode::Money(to_numeric) => {
                put_varlena(out, to_numeric.numeric(datum), false);
            }
            Encode::Array(array) => put_array(out, array, datum),
            Encode::Composite(attributes) => put_composite(out, attributes, datum),
        }
    }
}

unsafe fn put_enum(
    out: &mut Vec<u8>,
    labels: &RefCell<HashMap<pg_sys::Oid, Vec<u8>>>,
    output: &Output,
    datum: pg_sys::Datum,
) {
    let value = pg_sys::Oid::from(datum.value() as u32);
    if let Some(label) = labels.borrow().get(&value) {
        return put_counted(out, label);
    }
    // SAFETY: the output function of the datum's type.
    unsafe {
        output.with_text(datum, |label| {
            labels.borrow_mut().insert(value, label.to_vec());
            put_counted(out, label);
        });
    }
}

/// Begins a value whose length is known only at its end.
fn begin_counted(out: &mut Vec<u8>) -> usize {
    reserve(out, PADDED_LENGTH_BYTES);
    let start = out.len();
    out.extend_from_slice(&[0; PADDED_LENGTH_BYTES]);
    start
}

/// A variable-length integer of always this many bytes: enough for the 1 GB that a value may have.
const PADDED_LENGTH_BYTES: usize = 5;

fn end_counted(out: &mut [u8], start: usize) {
    let mut len = out.len() - start - PADDED_LENGTH_BYTES;
    for (place, byte) in out[start..start + PADDED_LENGTH_BYTES]
        .iter_mut()
        .enumerate()
    {
        let more = if place + 1 < PADDED_LENGTH_BYTES {
            0x80
        } else {
            0
        };
        *byte = (len & 0x7f) as u8 | more;
        len >>= 7;
    }
}

/// Appends the NULL bitmap of `nulls`.
fn put_nulls(out: &mut Vec<u8>, count: usize, is_null: impl Fn(usize) -> bool) {
    let bytes = count.div_ceil(8);
    reserve(out, bytes);
    let start = out.len();
    out.resize(start + bytes, 0);
    for index in (0..count).filter(|index| is_null(*index)) {
        out[start + index / 8] |= 1 << (index % 8);
    }
}

unsafe fn put_array(out: &mut Vec<u8>, encode: &ArrayEncode, datum: pg_sys::Datum) {
    // SAFETY: the datum is an array of the element type; dimensions and lower bounds follow its header (utils/array.h),
    // and what is taken apart lies in the trigger's per-tuple memory.
    unsafe {
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let dimensions = (*array).ndim as usize;
        let bounds: *const c_int = array.add(1).cast();
        let lengths = std::slice::from_raw_parts(bounds, dimensions);
        let lower_bounds = std::slice::from_raw_parts(bounds.add(dimensions), dimensions);
        let start = begin_counted(out);
        if lower_bounds.iter().any(|bound| *bound != 1) {
            reserve(out, 1);
            out.push(ARRAY_TEXT);
            encode.output.with_text(pg_sys::Datum::from(array), |text| {
                reserve(out, text.len());
                out.extend_from_slice(text);
            });
            return end_counted(out, start);
        }
        reserve(out, 2 + PADDED_LENGTH_BYTES * dimensions);
        out.extend_from_slice(&[ARRAY_ITEMS, dimensions as u8]);
        lengths
            .iter()
            .for_each(|length| put_varint(out, *length as u64));
        let (mut items, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            encode.element_type,
            encode.length.into(),
            encode.by_value,
            encode.align,
            &mut items,
            &mut nulls,
            &mut count,
        );
        let count = count as usize;
        if count > 0 {
            let items = std::slice::from_raw_parts(items, count);
            let nulls = std::slice::from_raw_parts(nulls, count);
            put_nulls(out, count, |index| nulls[index]);
            for (item, _) in items.iter().zip(nulls).filter(|(_, null)| !**null) {
                put_datum(out, &encode.element, *item);
            }
        }
        end_counted(out, start);
    }
}

unsafe fn put_composite(out: &mut Vec<u8>, attributes: &[(usize, Encode)], datum: pg_sys::Datum) {
    // SAFETY: the datum is a row of a composite type, whose header names the type; its values and NULL flags get room
    // for every attribute of the descriptor, in the trigger's per-tuple memory.
    unsafe {
        let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let fields = &(*header).t_choice.t_datum;
        let descriptor = RowType::look_up(fields.datum_typeid, fields.datum_typmod);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: pgrx::varsize_any(header.cast()) as u32,
            t_data: header,
            ..Default::default()
        };
        let room = (*descriptor.0).natts as usize;
        let values: *mut pg_sys::Datum =
            pg_sys::palloc(room.max(1) * size_of::<pg_sys::Datum>()).cast();
        let nulls: *mut bool = pg_sys::palloc(room.max(1)).cast();
        pg_sys::heap_deform_tuple(&mut tuple, descriptor.0, values, nulls);
        // An attribute that the plan has and the descriptor has not: the type changed a moment ago.
        let is_null = |attribute: usize| attribute >= room || *nulls.add(attribute);
        let start = begin_counted(out);
        put_nulls(out, attributes.len(), |index| is_null(attributes[index].0));
        for (attribute, encode) in attributes
            .iter()
            .filter(|(attribute, _)| !is_null(*attribute))
        {
            put_datum(out, encode, *values.add(*attribute));
        }
        end_counted(out, start);
    }
}
