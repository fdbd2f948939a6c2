//! What MongoDB's errors mean: the event, the way there, or the target as a whole.

use mongodb::error::{Error as MongoError, ErrorKind, IndexedWriteError, WriteFailure};

use crate::error::{Code, Error};

const DUPLICATE_KEY: i32 = 11000;

/// Codes about one document: bad value, failed to parse, `$` or `.` in a name, validation, too large, nested too deep.
const DOCUMENT_CODES: [i32; 8] = [2, 9, 15, 52, 57, 121, 10334, 17280];

/// Codes about privileges.
const REFUSED_CODES: [i32; 3] = [13, 18, 8000];

/// What became of one document that was not inserted.
pub enum Rejected {
    /// It is there already.
    AlreadyThere,
    /// The document itself is refused.
    Document,
    /// Something that passes.
    Passing,
}

/// What became of the documents that an unordered insert did not insert, with their places and codes; none where it failed as
/// a whole.
pub fn rejected(error: &MongoError) -> Option<impl Iterator<Item = (usize, i32, Rejected)>> {
    let ErrorKind::InsertMany(many) = error.kind.as_ref() else {
        return None;
    };
    let errors = many.write_errors.iter().flatten();
    (many.write_concern_error.is_none())
        .then(|| errors.map(|error| (error.index, error.code, sort(error))))
}

fn sort(error: &IndexedWriteError) -> Rejected {
    let other_index = error.message.contains("index: ") && !error.message.contains("index: _id_");
    match error.code {
        DUPLICATE_KEY if other_index => Rejected::Document,
        DUPLICATE_KEY => Rejected::AlreadyThere,
        code if DOCUMENT_CODES.contains(&code) => Rejected::Document,
        _ => Rejected::Passing,
    }
}

/// Whether a single insert failed because its `_id` is there already.
pub fn is_duplicate_id(error: &MongoError) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE_KEY
    )
}

/// Whether a command failed because its collection does not exist.
pub fn is_missing_collection(error: &MongoError) -> bool {
    const NAMESPACE_NOT_FOUND: i32 = 26;
    matches!(error.kind.as_ref(), ErrorKind::Command(error) if error.code == NAMESPACE_NOT_FOUND)
}

/// Whether a single write failed because of what the document holds.
pub fn is_about_document(error: &MongoError) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => DOCUMENT_CODES.contains(&error.code),
        ErrorKind::Command(error) => DOCUMENT_CODES.contains(&error.code),
        _ => false,
    }
}

/// An error that concerns more than one document. Its text is the driver's, which holds no values.
pub fn classify(doing: &str, error: &MongoError) -> Error {
    let refused = match error.kind.as_ref() {
        ErrorKind::Authentication { .. } => true,
        ErrorKind::Command(command) => REFUSED_CODES.contains(&command.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => REFUSED_CODES.contains(&error.code),
        _ => false,
    };
    if refused {
        return Error::new(
            Code::TargetRefuses,
            format!("mongodb: {doing}: {}", brief(error)),
            "Grant readWrite on the sink's database to its user, then send SIGHUP; or correct the user in url, and restart.",
        );
    }
    Error::new(
        Code::Unreachable,
        format!("mongodb: {doing}: {}", brief(error)),
        "Check url, the server and the network; it is tried again.",
    )
}

/// The driver's text without the details of single writes, which may quote a document.
fn brief(error: &MongoError) -> String {
    match error.kind.as_ref() {
        ErrorKind::InsertMany(many) => match &many.write_concern_error {
            Some(concern) => format!("write concern not met (code {})", concern.code),
            None => {
                let codes = many.write_errors.iter().flatten().map(|error| error.code);
                format!(
                    "documents not written (codes {:?})",
                    codes.take(5).collect::<Vec<_>>()
                )
            }
        },
        ErrorKind::Write(WriteFailure::WriteError(error)) => {
            format!("not written (code {})", error.code)
        }
        // The whole error quotes the server's answer as bytes.
        kind => kind.to_string(),
    }
}
