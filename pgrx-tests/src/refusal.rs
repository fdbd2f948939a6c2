//! Statements that must be refused, and the coded message that says so.

use postgres::Client;
use postgres::error::DbError;

/// Runs a statement that must fail, and returns PostgreSQL's error.
///
/// # Panics
/// When it succeeds, or fails by something else than an error of the server.
pub fn of(client: &mut Client, statement: &str) -> DbError {
    match client.simple_query(statement) {
        Ok(answer) => panic!("must be refused, and was not: {statement}; answer: {answer:?}"),
        Err(error) => match error.as_db_error() {
            Some(error) => error.clone(),
            None => panic!("{statement}: {error:?}"),
        },
    }
}

/// Asserts that a message has the SQLSTATE, and a HINT that is a sentence and ends with the code in brackets.
///
/// # Panics
/// With the message.
pub fn assert_coded(message: &DbError, sqlstate: &str, code: &str) {
    assert_eq!(message.code().code(), sqlstate, "SQLSTATE of {message:?}");
    let hint = message
        .hint()
        .unwrap_or_else(|| panic!("a HINT is missing in {message:?}"));
    let sentence = hint.strip_suffix(&format!(" [{code}]"));
    let sentence =
        sentence.unwrap_or_else(|| panic!("the HINT does not end with [{code}]: {message:?}"));
    assert!(
        sentence.ends_with(['.', '?']),
        "the HINT is not a sentence: {message:?}"
    );
    assert!(
        !message.message().ends_with('.'),
        "a message ends without a full stop: {message:?}"
    );
}

/// As [`of`] and [`assert_coded`]; returns the error for more.
///
/// # Panics
/// When the statement succeeds, or fails in another way.
pub fn coded(client: &mut Client, statement: &str, sqlstate: &str, code: &str) -> DbError {
    let error = of(client, statement);
    assert_coded(&error, sqlstate, code);
    error
}
