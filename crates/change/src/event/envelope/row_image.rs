//! A row's image as JSON, and the marks of its columns.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::event::row_key::{Columns, SHORT_IN_KEY_BYTES, is_too_long_in_key, longest_of_column};
use crate::hex::put_hex;
use crate::value::json::put_integer;
use crate::value::{Mark, put_bounded, put_value};
use crate::wal::image::Value;
use crate::wal::relation::{Column, Masked};
use crate::wire::{WireError, make_room};

/// Values that are not longer than this are no stubs, for a stub would not be shorter.
pub(in crate::event) const SHORTEST_STUB_BYTES: usize = 256;

/// How large an event may become.
#[derive(Debug, Clone, Copy)]
pub(in crate::event) struct Bounds {
    /// Values that are longer become stubs.
    pub(in crate::event) longest: usize,
    /// The event, in bytes; none where it is small anyway.
    pub(in crate::event) most: Option<usize>,
    /// Values become stubs where it is larger.
    pub(in crate::event) stubs: bool,
}

impl Bounds {
    pub(in crate::event) const NONE: Bounds = Bounds {
        longest: usize::MAX,
        most: None,
        stubs: true,
    };
}

/// Appends an image as a JSON object; names of columns with a mark go to `marks`, comma after each. Values that are too long
/// become stubs. What has not changed since the image `before`, which is in `out` already, is copied from
/// there: `texts` has its places, and gets them from the first image.
pub(in crate::event) fn put_image(
    out: &mut Vec<u8>,
    marks: &mut Vec<u8>,
    columns: Columns<'_>,
    image: Option<&[Value<'_>]>,
    before: Option<&[Value<'_>]>,
    texts: &mut Vec<Range<usize>>,
    bounds: &Bounds,
) -> Result<(), WireError> {
    marks.clear();
    let Some(image) = image else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    out.push(b'{');
    let mut index = 0;
    while let Some(value) = image.get(index) {
        let unchanged = before.map_or(0, |before| {
            let pairs = before[index..].iter().zip(&image[index..]);
            let places = texts[index..].iter();
            pairs
                .zip(places)
                .take_while(|((old, new), place)| is_same(old, new) && !place.is_empty())
                .count()
        });
        if unchanged > 0 {
            let copied = texts[index].start..texts[index + unchanged - 1].end;
            if let Some(most) = bounds.most {
                if out.len() + copied.len() > most {
                    return Err(WireError::TooLong);
                }
                make_room(out, copied.len())?;
            }
            out.extend_from_within(copied);
            index += unchanged;
            continue;
        }
        let (start, marks_before) = (out.len(), marks.len());
        if index > 0 {
            out.push(b',');
        }
        put_column(out, marks, columns, index, *value, bounds)?;
        if before.is_none() {
            let has_mark = marks.len() > marks_before;
            texts.push(start..if has_mark { start } else { out.len() });
        }
        index += 1;
    }
    out.push(b'}');
    Ok(())
}

/// Whether a column of the new image refers to the old one.
fn is_same(old: &Value<'_>, new: &Value<'_>) -> bool {
    match (old, new) {
        (Value::Null, Value::Null) => true,
        (Value::Given(old), Value::Given(new)) => std::ptr::eq(*old, *new),
        _ => false,
    }
}

/// Appends name and value of one column, and what is to be said of it.
fn put_column(
    out: &mut Vec<u8>,
    marks: &mut Vec<u8>,
    columns: Columns<'_>,
    index: usize,
    value: Value<'_>,
    bounds: &Bounds,
) -> Result<(), WireError> {
    let (relation, texts) = columns;
    let name = &texts.columns[index];
    out.extend_from_slice(name);
    let Column { kind, masked, .. } = &relation.columns[index];
    let digest;
    let mut given = None;
    let value = match value {
        Value::Given(bytes)
            if bytes.len() > bounds.longest.min(SHORT_IN_KEY_BYTES)
                && bytes.len() > longest_of_column(relation, index, bounds.longest) =>
        {
            digest = Sha256::digest(bytes);
            Value::Stub {
                bytes: bytes.len() as u64,
                sha256: &digest,
            }
        }
        Value::Given(bytes) => {
            let start = out.len();
            given = match bounds.most {
                None => put_value(out, kind, bytes)?,
                Some(most) => put_bounded(out, kind, bytes, most)?,
            };
            let became = out.len() - start;
            if became > 6 * SHORT_IN_KEY_BYTES && is_too_long_in_key(relation, index, became) {
                out.truncate(start);
                digest = Sha256::digest(bytes);
                Value::Stub {
                    bytes: bytes.len() as u64,
                    sha256: &digest,
                }
            } else {
                value
            }
        }
        value => value,
    };
    let mark: &[u8] = match (value, masked) {
        (Value::Null, masked) => {
            out.extend_from_slice(b"null");
            // Whether it was NULL is not to be told either.
            match masked {
                Some(Masked::Redacted) => b"\"redacted\",",
                _ => return Ok(()),
            }
        }
        (Value::Given(_), masked) => match (given, masked) {
            (_, Some(Masked::Hashed)) => b"\"hashed\",",
            (_, Some(Masked::Truncated)) => b"\"truncated\",",
            (Some(Mark::Base64), _) => b"\"base64\",",
            (None, _) => return Ok(()),
        },
        (Value::Stub { bytes, sha256 }, _) => {
            out.extend_from_slice(b"null");
            marks.extend_from_slice(name);
            marks.extend_from_slice(b"{\"stub\":{\"bytes\":");
            put_integer(marks, bytes);
            marks.extend_from_slice(b",\"sha256\":\"");
            put_hex(marks, sha256);
            marks.extend_from_slice(b"\"}},");
            return Ok(());
        }
    };
    marks.extend_from_slice(name);
    marks.extend_from_slice(mark);
    Ok(())
}

/// `crossed` says how an update made the row cross the table's filter.
pub(in crate::event) fn put_marks(
    out: &mut Vec<u8>,
    before: &[u8],
    after: &[u8],
    crossed: Option<&str>,
) {
    if before.is_empty() && after.is_empty() && crossed.is_none() {
        return;
    }
    out.extend_from_slice(b",\"marks\":");
    let mut separator = b'{';
    for (name, marks) in [(&b"\"before\":{"[..], before), (&b"\"after\":{"[..], after)] {
        if let Some(marks) = marks.strip_suffix(b",") {
            out.push(separator);
            out.extend_from_slice(name);
            out.extend_from_slice(marks);
            out.push(b'}');
            separator = b',';
        }
    }
    if let Some(crossed) = crossed {
        out.push(separator);
        out.extend_from_slice(b"\"filter\":\"");
        out.extend_from_slice(crossed.as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
}
