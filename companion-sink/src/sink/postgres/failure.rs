//! What PostgreSQL's errors mean, by SQLSTATE: the event, something that passes, or the target as a whole.

use tokio_postgres::Error as PgError;

use crate::dead_letter::Failure;
use crate::error::{Code, Error, Result};

/// A failed statement.
pub enum Fault {
    /// The event's values are refused.
    Event(Failure),
    /// Not the event's fault.
    Other(Error),
}

impl Fault {
    /// The event's failure by itself, anything else as the error that it is.
    pub fn refusal<T>(self) -> Result<std::result::Result<T, Failure>> {
        match self {
            Fault::Event(failure) => Ok(Err(failure)),
            Fault::Other(error) => Err(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Other(error)
    }
}

/// Sorts an error that happened while `doing`.
pub fn sort(doing: &str, error: &PgError) -> Fault {
    let Some(db) = error.as_db_error() else {
        return Fault::Other(unreachable(doing, &chain(error)));
    };
    let state = db.code().code();
    match (&state[..2], state) {
        ("22" | "23" | "44" | "P0", _) => Fault::Event(refused(state, db)),
        // Disk full, and a file that cannot be written: more of the same does not help.
        (_, "53100" | "58030") | ("42" | "28" | "3D" | "3F" | "0A" | "0L" | "0P", _) => {
            let hint = match state {
                "53100" | "58030" => "Free or add disk space on the target, then send SIGHUP.",
                "42501" => "Grant the sink's role what the message names, then send SIGHUP.",
                "42P01" | "42703" | "3F000" => {
                    "Create what the message names, then send SIGHUP; or set create_tables = true and restart."
                }
                "42P10" => "Create a unique index on the key's columns, then send SIGHUP.",
                "0A000" => {
                    "Change the target so that it is possible, then send SIGHUP; for TRUNCATE set truncate = \"delete\" and restart."
                }
                _ => {
                    "Correct the sink's role or the target, then send SIGHUP; or its url, and restart."
                }
            };
            Fault::Other(Error::new(
                Code::TargetRefuses,
                format!("postgres: {doing}: {} (SQLSTATE {state})", db.message()),
                hint,
            ))
        }
        // Messages of other classes may quote values.
        _ => Fault::Other(unreachable(
            doing,
            &format!("SQLSTATE {state} {}", meaning(state)),
        )),
    }
}

/// As [`sort`], where no event is concerned.
pub fn classify(doing: &str, error: &PgError) -> Error {
    match sort(doing, error) {
        Fault::Other(error) => error,
        Fault::Event(failure) => Error::new(
            Code::TargetRefuses,
            format!("postgres: {doing}: {}", failure.message),
            "Look at the target's state schema, then send SIGHUP.",
        ),
    }
}

/// The target refused an event: told by state and names, for the server's message may quote the value.
fn refused(state: &str, db: &tokio_postgres::error::DbError) -> Failure {
    let mut what = format!(
        "the target refused it: {} (SQLSTATE {state}",
        meaning(state)
    );
    for (name, value) in [
        ("table", db.table()),
        ("column", db.column()),
        ("constraint", db.constraint()),
    ] {
        if let Some(value) = value {
            what += &format!(", {name} {value}");
        }
    }
    what.push(')');
    match state {
        "23505" | "23P01" => Failure::unique(what),
        _ => Failure::refused(what),
    }
}

fn unreachable(doing: &str, why: &str) -> Error {
    Error::new(
        Code::Unreachable,
        format!("postgres: {doing}: {why}"),
        "Check the sink's url, the server and the network; it is tried again.",
    )
}

/// The driver's error with its causes, which its own text leaves out.
fn chain(error: &PgError) -> String {
    let mut out = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        out += &format!(": {cause}");
        source = cause.source();
    }
    out
}

fn meaning(state: &str) -> &'static str {
    match state {
        "22001" => "value too long",
        "22003" => "number out of range",
        "22007" | "22008" => "not a date or time of the type",
        "22021" => "not in the target's encoding",
        "22P02" => "not a text of the type",
        "22P03" => "not a binary form of the type",
        "23502" => "null in a column that is not null",
        "23503" => "foreign key violated",
        "23505" => "unique key violated",
        "23514" => "check violated",
        "23P01" => "exclusion violated",
        "40001" => "serialization failure",
        "40P01" => "deadlock",
        "53300" => "too many connections",
        "55P03" => "lock not available",
        "57P01" | "57P02" | "57P03" => "the server shuts down or starts",
        _ => match &state[..2] {
            "22" => "data exception",
            "23" => "constraint violated",
            "P0" => "raised by a trigger",
            _ => "failed",
        },
    }
}
