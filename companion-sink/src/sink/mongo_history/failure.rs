//! What MongoDB's errors mean: the event, its collection, the way there, or the target as a whole.

use change::trouble::Trouble;
use mongodb::error::{Error as MongoError, ErrorKind, IndexedWriteError, WriteFailure};

use crate::error::Code;

const DUPLICATE_KEY: i32 = 11000;

/// Codes about what a document holds, and what they say.
const DOCUMENT_CODES: [(i32, &str); 19] = [
    (2, "a bad value"),
    (9, "a value that cannot be parsed"),
    (14, "a value of another type than it wants"),
    (15, "a number out of its range, or objects nested too deep"),
    (21, "objects nested too deep"),
    (22, "invalid BSON"),
    (52, "a name that begins with $"),
    (56, "an empty name"),
    (57, "a name with a dot"),
    (121, "the collection's validation rules"),
    (171, "two lists in one index"),
    (238, "something that this server has not got"),
    (10334, "more than 16 MB"),
    (16755, "a value that an index cannot take"),
    (17280, "a value that is too long for an index"),
    (17419, "more than 16 MB"),
    (17420, "more than 16 MB"),
    (DUPLICATE_KEY, "a unique index of the collection"),
    (51270, "an index's limit"),
];

/// Codes about privileges.
const REFUSED_CODES: [i32; 3] = [13, 18, 8000];

/// Codes about one collection: its name, what it is, its indexes.
const COLLECTION_CODES: [i32; 6] = [67, 73, 85, 86, 166, 17316];

/// Codes about the server as a whole that do not pass by themselves: it lacks a command or an option.
const LACKING_CODES: [i32; 5] = [20, 59, 72, 115, 238];

/// Codes of what passes: another primary, a shutdown, a timeout, a conflict, a lost connection, a full disk.
const PASSING_CODES: [i32; 26] = [
    6, 7, 24, 50, 63, 64, 89, 91, 100, 112, 134, 149, 189, 234, 246, 250, 262, 9001, 10107, 11600,
    11602, 13388, 13435, 13436, 14031, 290,
];

/// What became of one document that was not inserted.
pub(crate) enum Rejected {
    /// It is there already.
    AlreadyThere,
    /// The document itself is refused: why.
    Document(String),
    /// Something that passes.
    Passing,
}

/// What became of the documents that an unordered insert did not insert, with their places; none where it failed as a whole.
pub(crate) fn rejected(error: &MongoError) -> Option<impl Iterator<Item = (usize, Rejected)>> {
    let ErrorKind::InsertMany(many) = error.kind.as_ref() else {
        return None;
    };
    let errors = many.write_errors.iter().flatten();
    (many.write_concern_error.is_none()).then(|| errors.map(|error| (error.index, sort(error))))
}

/// What is said about one document is about what it holds, unless it passes.
fn sort(error: &IndexedWriteError) -> Rejected {
    let other_index = error.message.contains("index: ") && !error.message.contains("index: _id_");
    match error.code {
        DUPLICATE_KEY if !other_index => Rejected::AlreadyThere,
        code if PASSING_CODES.contains(&code) || REFUSED_CODES.contains(&code) => Rejected::Passing,
        code => Rejected::Document(refusal(code)),
    }
}

/// Why a document is refused, by the server's code: its own text may quote the document.
fn refusal(code: i32) -> String {
    let known = DOCUMENT_CODES.iter().find(|(known, _)| *known == code);
    match known {
        Some((_, what)) => format!("{what} (code {code})"),
        None => format!("code {code}"),
    }
}

/// Why an insert of one document failed, if that is what the document holds.
pub(crate) fn refused_document(error: &MongoError) -> Option<String> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => {
            let known = DOCUMENT_CODES
                .iter()
                .any(|(known, _)| *known == command.code);
            known.then(|| refusal(command.code))
        }
        // The driver does not send it.
        ErrorKind::BsonSerialization(_) | ErrorKind::InvalidArgument { .. } => {
            Some("a form that cannot be sent".to_owned())
        }
        _ => None,
    }
}

/// Why a collection is refused, whatever is to be done with it.
pub(crate) fn refused_collection(error: &MongoError) -> Option<String> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) if COLLECTION_CODES.contains(&command.code) => {
            Some(format!("{} (code {})", command.code_name, command.code))
        }
        _ => None,
    }
}

/// Whether a server does not take the name of a collection.
pub(crate) fn is_about_name(error: &MongoError) -> bool {
    const INVALID_NAMESPACE: i32 = 73;
    matches!(error.kind.as_ref(), ErrorKind::Command(error) if error.code == INVALID_NAMESPACE)
}

/// Whether a single insert failed because its `_id` is there already.
pub(crate) fn is_duplicate_id(error: &MongoError) -> bool {
    matches!(
        error.kind.as_ref(),
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE_KEY
    )
}

/// Whether a command failed because its collection does not exist.
pub(crate) fn is_missing_collection(error: &MongoError) -> bool {
    const NAMESPACE_NOT_FOUND: i32 = 26;
    matches!(error.kind.as_ref(), ErrorKind::Command(error) if error.code == NAMESPACE_NOT_FOUND)
}

/// Whether a single write failed because of what the document holds.
pub(crate) fn is_about_document(error: &MongoError) -> bool {
    let is_known = |code: i32| DOCUMENT_CODES.iter().any(|(known, _)| *known == code);
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => is_known(error.code),
        ErrorKind::Command(error) => is_known(error.code),
        _ => false,
    }
}

/// An error that concerns more than one document. Its text is the driver's, which holds no values.
pub(crate) fn classify(doing: &str, error: &MongoError) -> Trouble {
    let code = match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        _ => None,
    };
    let is_one_of = |codes: &[i32]| code.is_some_and(|code| codes.contains(&code));
    let what = format!("mongodb: {doing}: {}", brief(error));
    if matches!(error.kind.as_ref(), ErrorKind::Authentication { .. }) || is_one_of(&REFUSED_CODES)
    {
        return Trouble::new(
            Code::TargetRefuses,
            what,
            "Grant readWrite on the sink's database to its user, then send SIGHUP; or correct the user in url, and restart.",
        );
    }
    if is_one_of(&LACKING_CODES) || is_one_of(&COLLECTION_CODES) {
        return Trouble::new(
            Code::TargetRefuses,
            what,
            "The server refuses it for good: look at what its log says, correct it there, then send SIGHUP.",
        );
    }
    let hint = match code {
        Some(_) => "The server answers with an error: look at its log; it is tried again.",
        None => "Check url, the server and the network; it is tried again.",
    };
    Trouble::new(Code::Unreachable, what, hint)
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
