//! A row's key as JSON, bounded whatever the values are.

use sha2::{Digest, Sha256};

use crate::event::envelope::texts::RelationTexts;
use crate::hex::put_hex;
use crate::value::put_bounded;
use crate::wal::image::Value;
use crate::wal::relation::Relation;
use crate::wire::WireError;

/// What the values of a key have together at most, before they are rendered; a longer value, or one that becomes more than six
/// times as long, is a stub, in images too.
const MAX_KEY_BYTES: usize = 64 * 1024;
/// A value of a key may have so much however many columns the key has.
pub(super) const SHORT_IN_KEY_BYTES: usize = 2048;

/// A relation and the texts of its columns.
pub(super) type Columns<'a> = (&'a Relation<'a>, &'a RelationTexts);

/// Renders the columns of `key` of an image.
pub(super) fn put_key(
    out: &mut Vec<u8>,
    (relation, texts): Columns<'_>,
    key: &[usize],
    image: &[Value<'_>],
) -> Result<(), WireError> {
    out.clear();
    for &index in key {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(&texts.columns[index]);
        match image.get(index).ok_or(WireError::Invalid("key column"))? {
            // Equal values still go to one partition.
            Value::Given(bytes) if bytes.len() > longest_in_key(relation) => {
                put_digest(out, &Sha256::digest(bytes));
            }
            Value::Given(bytes) => {
                let kind = &relation.columns[index].kind;
                let start = out.len();
                let most = start + most_in_key(relation);
                let put = put_bounded(out, kind, bytes, most);
                if put == Err(WireError::TooLong) || out.len() > most {
                    out.truncate(start);
                    put_digest(out, &Sha256::digest(bytes));
                } else {
                    put?;
                }
            }
            Value::Null => out.extend_from_slice(b"null"),
            Value::Stub { sha256, .. } => put_digest(out, sha256),
        }
    }
    out.push(b'}');
    Ok(())
}

/// What stands in a key instead of a value that is not shipped.
pub(super) fn put_digest(out: &mut Vec<u8>, sha256: &[u8]) {
    out.push(b'"');
    put_hex(out, sha256);
    out.push(b'"');
}

/// How long a value of the key or of the identity may be.
fn longest_in_key(relation: &Relation<'_>) -> usize {
    let identity = relation.identity.as_ref().map_or(0, Vec::len);
    let columns = relation.key.len().max(identity).max(1);
    (MAX_KEY_BYTES / columns).max(SHORT_IN_KEY_BYTES)
}

/// How long it may become: a text of control characters is six times as long, but a few bytes can be an array of thousands of
/// names.
fn most_in_key(relation: &Relation<'_>) -> usize {
    6 * longest_in_key(relation) + 2
}

/// Whether a column belongs to the key or to the identity.
fn is_in_key(relation: &Relation<'_>, column: usize) -> bool {
    let has = |columns: &[usize]| columns.contains(&column);
    has(&relation.key) || relation.identity.as_deref().is_some_and(has)
}

/// How long values of a column may be.
#[cold]
pub(super) fn longest_of_column(relation: &Relation<'_>, column: usize, longest: usize) -> usize {
    match is_in_key(relation, column) {
        true => longest.min(longest_in_key(relation)),
        false => longest,
    }
}

/// Whether a value that became so long is a stub, for the key has its digest.
#[cold]
pub(super) fn is_too_long_in_key(relation: &Relation<'_>, column: usize, became: usize) -> bool {
    became > most_in_key(relation) && is_in_key(relation, column)
}
