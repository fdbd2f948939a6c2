//! A row's image: bitmaps and values, one after the other in the order of the columns.

use super::relation::Column;
use crate::value::take_value;
use crate::wire::{Cursor, WireError};

const IMAGE_NULLS: u8 = 1;
const IMAGE_CHANGED: u8 = 2;
const IMAGE_STUBS: u8 = 4;
/// Bytes of a stub.
const STUB_BYTES: usize = 8 + 32;
/// Positions of the bitmaps of an image that is being written.
#[derive(Debug, Clone, Copy)]
pub struct ImageMarks {
    changed: Option<usize>,
    nulls: Option<usize>,
    stubs: Option<usize>,
}

/// Bytes that [`begin_image`] appends at most.
pub fn image_head_capacity(columns: usize) -> usize {
    1 + 3 * columns.div_ceil(8)
}

/// The bitmaps that an image has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bitmaps {
    pub nulls: bool,
    /// Only for the new image of an UPDATE.
    pub changed: bool,
    pub stubs: bool,
}

/// Begins an image of `columns` columns with room for the bitmaps it needs; the values follow in column order.
#[inline]
pub fn begin_image(out: &mut Vec<u8>, columns: usize, bitmaps: Bitmaps) -> ImageMarks {
    let bitmap_bytes = columns.div_ceil(8);
    let flag = |flag: u8, wanted: bool| if wanted { flag } else { 0 };
    out.push(
        flag(IMAGE_NULLS, bitmaps.nulls)
            | flag(IMAGE_CHANGED, bitmaps.changed)
            | flag(IMAGE_STUBS, bitmaps.stubs),
    );
    let mut bitmap = |wanted: bool| {
        wanted.then(|| {
            let start = out.len();
            out.resize(start + bitmap_bytes, 0);
            start
        })
    };
    ImageMarks {
        changed: bitmap(bitmaps.changed),
        nulls: bitmap(bitmaps.nulls),
        stubs: bitmap(bitmaps.stubs),
    }
}

impl ImageMarks {
    /// Says that column `index` is NULL. Only for images begun with `nulls`.
    #[inline]
    pub fn set_null(&self, out: &mut [u8], index: usize) {
        if let Some(start) = self.nulls {
            out[start + index / 8] |= 1 << (index % 8);
        }
    }

    /// Appends a stub for column `index`: the value has `bytes` bytes and this digest. Only for images begun with
    /// `stubs`.
    pub fn put_stub(&self, out: &mut Vec<u8>, index: usize, bytes: u64, sha256: &[u8; 32]) {
        if let Some(start) = self.stubs {
            out[start + index / 8] |= 1 << (index % 8);
            out.extend_from_slice(&bytes.to_le_bytes());
            out.extend_from_slice(sha256);
        }
    }

    /// Says that column `index` changed, and so is in the image. Only for images begun with `changed`.
    #[inline]
    pub fn set_changed(&self, out: &mut [u8], index: usize) {
        if let Some(start) = self.changed {
            out[start + index / 8] |= 1 << (index % 8);
        }
    }
}

/// What an image has for a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Given(&'a [u8]),
    /// The value was too large: its length and SHA-256.
    Stub {
        bytes: u64,
        sha256: &'a [u8],
    },
}

/// Reads a whole image into `values`: one entry per column.
pub fn read_image<'a>(
    cursor: &mut Cursor<'a>,
    columns: &[Column<'_>],
    values: &mut Vec<Value<'a>>,
) -> Result<(), WireError> {
    read_values(cursor, columns, None, values)
}

/// Reads the new image of an UPDATE: unchanged columns are taken from `before`.
pub fn read_new_image<'a>(
    cursor: &mut Cursor<'a>,
    columns: &[Column<'_>],
    before: &[Value<'a>],
    values: &mut Vec<Value<'a>>,
) -> Result<(), WireError> {
    read_values(cursor, columns, Some(before), values)
}

fn read_values<'a>(
    cursor: &mut Cursor<'a>,
    columns: &[Column<'_>],
    before: Option<&[Value<'a>]>,
    values: &mut Vec<Value<'a>>,
) -> Result<(), WireError> {
    let flags = cursor.u8()?;
    if flags & !(IMAGE_NULLS | IMAGE_CHANGED | IMAGE_STUBS) != 0
        || (flags & IMAGE_CHANGED != 0) != before.is_some()
    {
        return Err(WireError::Invalid("image flags"));
    }
    let bitmap_bytes = columns.len().div_ceil(8);
    let mut bitmap = |flag: u8| match flags & flag {
        0 => Ok(None),
        _ => cursor.take(bitmap_bytes).map(Some),
    };
    let changed = bitmap(IMAGE_CHANGED)?;
    let nulls = bitmap(IMAGE_NULLS)?;
    let stubs = bitmap(IMAGE_STUBS)?;
    let is_set = |bitmap: Option<&[u8]>, index: usize| {
        bitmap.is_some_and(|bitmap| bitmap[index / 8] >> (index % 8) & 1 == 1)
    };
    values.clear();
    for (index, column) in columns.iter().enumerate() {
        let value = match before {
            Some(before) if !is_set(changed, index) => {
                *before.get(index).ok_or(WireError::Invalid("old image"))?
            }
            _ if is_set(nulls, index) => Value::Null,
            _ if is_set(stubs, index) => {
                let mut stub = Cursor::new(cursor.take(STUB_BYTES)?);
                Value::Stub {
                    bytes: stub.u64()?,
                    sha256: stub.rest(),
                }
            }
            _ => Value::Given(take_value(cursor, &column.kind)?),
        };
        values.push(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::kind::Kind;
    use crate::wire::put_varint;
    use proptest::prelude::*;

    /// A value of a fixed and of a counted kind, or NULL.
    type Pair = (Option<i64>, Option<Vec<u8>>);

    fn put(out: &mut Vec<u8>, kind: &Kind, bytes: &[u8]) {
        if kind.fixed_len().is_none() {
            put_varint(out, bytes.len() as u64);
        }
        out.extend_from_slice(bytes);
    }

    fn flat(rows: &[Pair]) -> Vec<Option<Vec<u8>>> {
        rows.iter()
            .flat_map(|(number, bytes)| {
                [
                    number.map(|number| number.to_le_bytes().to_vec()),
                    bytes.clone(),
                ]
            })
            .collect()
    }

    proptest! {
        #[test]
        fn images_come_back(old: [Pair; 5], new: [Pair; 5], same in any::<[bool; 5]>(), large in 2usize..20, stubs: bool) {
            let kinds: Vec<Kind> = (0..5).flat_map(|_| [Kind::Int8, Kind::Bytea]).collect();
            let columns: Vec<Column<'_>> = kinds.iter().map(|kind| Column { name: "c", kind: kind.clone(), masked: None }).collect();
            let new: Vec<Pair> = old.iter().zip(&new).zip(same).map(|((old, new), same)| if same { old.clone() } else { new.clone() }).collect();
            let (old, new) = (flat(&old), flat(&new));
            let is_stub = |value: &[u8]| stubs && value.len() > large;
            let digest = [7; 32];

            let mut out = Vec::new();
            let put_one = |out: &mut Vec<u8>, marks: &ImageMarks, index: usize, value: &Option<Vec<u8>>| match value {
                None => marks.set_null(out, index),
                Some(value) if is_stub(value) => marks.put_stub(out, index, value.len() as u64, &digest),
                Some(value) => put(out, &kinds[index], value),
            };
            let marks = begin_image(&mut out, kinds.len(), Bitmaps { nulls: old.contains(&None), changed: false, stubs });
            old.iter().enumerate().for_each(|(index, value)| put_one(&mut out, &marks, index, value));
            let marks = begin_image(&mut out, kinds.len(), Bitmaps { nulls: new.contains(&None), changed: true, stubs });
            for (index, value) in new.iter().enumerate().filter(|(index, value)| old[*index] != **value) {
                marks.set_changed(&mut out, index);
                put_one(&mut out, &marks, index, value);
            }

            let mut cursor = Cursor::new(&out);
            let (mut before, mut after) = (Vec::new(), Vec::new());
            read_image(&mut cursor, &columns, &mut before).unwrap();
            read_new_image(&mut cursor, &columns, &before, &mut after).unwrap();
            prop_assert!(cursor.is_empty());
            for (read, written) in [(&before, &old), (&after, &new)] {
                let expected: Vec<Value<'_>> = written.iter().map(|value| match value {
                    None => Value::Null,
                    Some(value) if is_stub(value) => Value::Stub { bytes: value.len() as u64, sha256: &digest },
                    Some(value) => Value::Given(value),
                }).collect();
                prop_assert_eq!(read, &expected);
            }
        }
    }
}
