//! Values of any length inside documents, which have at most 16 MB: a longer one is kept in pieces, in the collection
//! `companion_bodies`.

use change::trouble::Trouble;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};
use mongodb::{Collection, Database};

use crate::error::{Code, Result};
use crate::sink::mongo_history::failure::{classify, is_duplicate_id};

const COLLECTION: &str = "companion_bodies";
/// Up to here a value is in the document that it belongs to: two of them are in one.
const INLINE_BYTES_MAX: usize = 4 << 20;
const PIECE_BYTES: usize = 8 << 20;

/// The values that are kept in pieces.
pub(crate) struct Bodies {
    collection: Collection<Document>,
}

impl Bodies {
    /// Those of `database`.
    pub(crate) fn new(database: &Database) -> Self {
        Bodies {
            collection: database.collection(COLLECTION),
        }
    }

    /// What a document is to hold for `value`. `owner` names it, for ever: once more writes the same.
    pub(crate) async fn keep(&self, owner: &str, value: Option<&[u8]>) -> Result<Bson> {
        let Some(value) = value else {
            return Ok(Bson::Null);
        };
        if value.len() <= INLINE_BYTES_MAX {
            return Ok(binary(value));
        }
        let mut pieces = 0;
        for piece in value.chunks(PIECE_BYTES) {
            let document = doc! { "_id": piece_id(owner, pieces), "bytes": binary(piece) };
            match self.collection.insert_one(document).await {
                Err(error) if !is_duplicate_id(&error) => {
                    return Err(classify("keeping an event", &error));
                }
                _ => pieces += 1,
            }
        }
        Ok(Bson::Document(doc! { "owner": owner, "pieces": pieces }))
    }

    /// The value that a document holds so.
    pub(crate) async fn load(&self, kept: &Bson) -> Result<Option<Vec<u8>>> {
        let Some((owner, pieces)) = pieces_of(kept) else {
            return Ok(bytes_of(kept).map(<[u8]>::to_vec));
        };
        let mut value = Vec::new();
        for piece in 0..pieces {
            let id = piece_id(owner, piece);
            let found = self.collection.find_one(doc! { "_id": &id }).await;
            let found = found.map_err(|error| classify("reading a kept event", &error))?;
            match found
                .as_ref()
                .and_then(|found| bytes_of(found.get("bytes")?))
            {
                Some(bytes) => value.extend_from_slice(bytes),
                None => return Err(missing(&id)),
            }
        }
        Ok(Some(value))
    }

    /// Forgets the pieces of a value.
    pub(crate) async fn forget(&self, kept: &Bson) -> Result<()> {
        let Some((owner, pieces)) = pieces_of(kept) else {
            return Ok(());
        };
        for piece in 0..pieces {
            let piece = doc! { "_id": piece_id(owner, piece) };
            let deleted = self.collection.delete_one(piece).await;
            deleted.map_err(|error| classify("forgetting a kept event", &error))?;
        }
        Ok(())
    }
}

/// Bytes as documents hold them.
pub(crate) fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    })
}

/// The bytes that a document holds.
pub(crate) fn bytes_of(value: &Bson) -> Option<&[u8]> {
    match value {
        Bson::Binary(binary) => Some(&binary.bytes),
        _ => None,
    }
}

fn pieces_of(kept: &Bson) -> Option<(&str, i32)> {
    let kept = kept.as_document()?;
    Some((kept.get_str("owner").ok()?, kept.get_i32("pieces").ok()?))
}

fn piece_id(owner: &str, piece: i32) -> String {
    format!("{owner} {piece}")
}

fn missing(id: &str) -> Trouble {
    Trouble::new(
        Code::TargetRefuses,
        format!("mongodb: the piece {id} of a parked event is missing in {COLLECTION}"),
        "Restore it, or remove the event from companion_parked; then send SIGHUP.",
    )
}
