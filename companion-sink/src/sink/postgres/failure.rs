//! What PostgreSQL's errors mean, by SQLSTATE: the event, something that passes, or the target as a whole.
//!
//! "Unreachable" is only what passes by itself. Whatever else a server says about a statement that carries events is said about
//! these events, unless it is about the target as a whole; where an SQLSTATE can mean both (a `regclass` that names no table, and
//! a table of the target that is missing), it is looked who is to blame.

use change::trouble::Trouble;
use tokio_postgres::Error as PgError;
use tokio_postgres::error::DbError;

use crate::error::Code;
use crate::rejected::failure::{Failure, NotApplied};

/// A failed statement.
pub(crate) enum Fault {
    /// The event is refused for what it holds.
    Event(Failure),
    /// For what the event holds, or for what the target is like: the same SQLSTATE says both. Who knows the table looks
    /// (`refusal`).
    Doubtful {
        /// What it is if the event is to blame.
        failure: Box<Failure>,
        /// What it is if the target is.
        lack: Lack,
    },
    /// The table of the target is not as the event needs it.
    Lack(Lack),
    /// Neither the event's fault nor its table's.
    Other(Trouble),
}

/// What a table of the target lacks for events of its source.
#[derive(Debug, Clone)]
pub(crate) struct Lack {
    /// CDC1004 or CDC1011.
    pub(crate) code: Code,
    /// What is missing, without any value.
    pub(crate) what: String,
    /// The remedy: a sentence without its full stop.
    pub(crate) remedy: String,
}

impl Lack {
    /// As it stops a whole sink.
    pub(crate) fn error(&self) -> Trouble {
        Trouble::new(
            self.code,
            format!("postgres: {}", self.what),
            format!("{}, then send SIGHUP.", self.remedy),
        )
    }

    /// As it keeps an event of the table back.
    pub(crate) fn failure(&self) -> Failure {
        Failure::lack(self.code, format!("{}: {}", self.what, self.remedy))
    }
}

impl Fault {
    /// As it stops a whole sink that is `doing` something.
    pub(crate) fn error(self, doing: &str) -> Trouble {
        match self {
            Fault::Doubtful { lack, .. } | Fault::Lack(lack) => lack.error(),
            Fault::Other(error) => error,
            Fault::Event(failure) => Trouble::new(
                Code::TargetRefuses,
                format!("postgres: {doing}: {}", failure.message),
                "Look at the target's state schema, then send SIGHUP.",
            ),
        }
    }

    /// As it is where no value was looked at yet: nothing of an event is to blame.
    pub(crate) fn of_table(self) -> Fault {
        match self {
            Fault::Doubtful { lack, .. } => Fault::Lack(lack),
            fault => fault,
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Fault::Event(failure)
    }
}

impl From<NotApplied> for Fault {
    fn from(not_applied: NotApplied) -> Self {
        match not_applied {
            NotApplied::Refused(failure) => Fault::Event(failure),
            NotApplied::Failed(error) => Fault::Other(error),
        }
    }
}

impl From<Fault> for NotApplied {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Event(failure) => NotApplied::Refused(failure),
            Fault::Doubtful { failure, .. } => NotApplied::Refused(*failure),
            Fault::Lack(lack) => NotApplied::Refused(lack.failure()),
            Fault::Other(error) => NotApplied::Failed(error),
        }
    }
}

impl From<Trouble> for Fault {
    fn from(error: Trouble) -> Self {
        Fault::Other(error)
    }
}

/// What an SQLSTATE says, as far as it says anything by itself.
enum StateClass {
    /// The server is away, on its way, or short of something that comes back.
    Outage,
    /// Another session was in the way.
    Conflict,
    /// The server takes no writes at present.
    ReadOnly,
    /// The target as a whole refuses.
    Target,
    /// A value, or the target.
    Doubtful,
    /// The target's table, whatever the values are.
    Table,
    /// A value, a constraint, a trigger.
    Value,
    /// Everything else.
    Unknown,
}

impl StateClass {
    fn of(state: &str) -> StateClass {
        match (state.get(..2).unwrap_or_default(), state) {
            // Disk full, and a file that cannot be written: more of the same does not help.
            (_, "53100" | "58030") | ("28" | "3D", _) => StateClass::Target,
            ("08" | "53", _) | (_, "57P01" | "57P02" | "57P03" | "57P04" | "57P05") => {
                StateClass::Outage
            }
            ("40", _) | (_, "55P03" | "57014") => StateClass::Conflict,
            (_, "25006") => StateClass::ReadOnly,
            // ON CONFLICT finds no unique index.
            (_, "42P10") => StateClass::Table,
            ("0A" | "0L" | "0P" | "3F" | "42", _) => StateClass::Doubtful,
            ("22" | "23" | "44" | "54" | "P0", _) => StateClass::Value,
            _ => StateClass::Unknown,
        }
    }
}

/// Sorts an error that happened while `doing` something with events.
pub(crate) fn sort(doing: &str, error: &PgError) -> Fault {
    let Some(db) = error.as_db_error() else {
        return Fault::Other(unreachable(doing, &chain(error)));
    };
    let state = db.code().code();
    match StateClass::of(state) {
        StateClass::Outage => Fault::Other(unreachable(doing, &of_state(state))),
        StateClass::Conflict | StateClass::ReadOnly => Fault::Other(passing(doing, state)),
        StateClass::Target => Fault::Other(lack(doing, db).error()),
        StateClass::Table => Fault::Lack(lack(doing, db)),
        StateClass::Doubtful => Fault::Doubtful {
            failure: Box::new(refused(state, db)),
            lack: lack(doing, db),
        },
        // A server that is there and refuses something refuses what it was given.
        StateClass::Value | StateClass::Unknown => Fault::Event(refused(state, db)),
    }
}

/// As [`sort`], where no event is concerned.
pub(crate) fn classify(doing: &str, error: &PgError) -> Trouble {
    let state = error.as_db_error().map(|db| db.code().code());
    if let Some(state) = state
        && matches!(StateClass::of(state), StateClass::Unknown)
    {
        return unreachable(doing, &of_state(state));
    }
    sort(doing, error).error(doing)
}

/// The SQLSTATE of the server's answer, if it is one.
pub(crate) fn state_of(error: &PgError) -> Option<&str> {
    error.as_db_error().map(|db| db.code().code())
}

/// The target as a whole, or its table, is not as it has to be.
fn lack(doing: &str, db: &DbError) -> Lack {
    let state = db.code().code();
    let remedy = match state {
        "53100" | "58030" => "Free or add disk space on the target",
        "42501" => "Grant the sink's role what the message names",
        "42P01" | "42703" | "3F000" => {
            "Create what the message names (with create_tables = true missing tables are made when they are tracked)"
        }
        "42P10" => "Create a unique index on the key's columns",
        "0A000" => {
            "Change the target so that it is possible, for TRUNCATE with truncate = \"delete\" and a restart"
        }
        _ => "Correct the sink's role, its url or the target",
    };
    Lack {
        code: Code::TargetRefuses,
        what: format!("{doing}: {} (SQLSTATE {state})", db.message()),
        remedy: remedy.to_owned(),
    }
}

/// The target refused an event: told with the server's own words, but for values that they quote.
fn refused(state: &str, db: &DbError) -> Failure {
    let mut what = format!(
        "the target refused it: {} (SQLSTATE {state}",
        said(state, db)
    );
    for (name, value) in [
        ("table", db.table()),
        ("column", db.column()),
        ("type", db.datatype()),
        ("constraint", db.constraint()),
    ] {
        if let Some(value) = value {
            what += &format!(", {name} {value}");
        }
    }
    what.push(')');
    // Where the server does not name the column, who has the event can find it.
    let is_unplaced = db.column().is_none() && db.where_().is_none();
    Failure {
        state: is_unplaced.then(|| state.into()),
        ..match state {
            "23505" | "23P01" => Failure::unique(what),
            _ => Failure::refused(what),
        }
    }
}

/// What the server said, without values.
fn said(state: &str, db: &DbError) -> String {
    // What code on the target says may hold anything; where it is, is told.
    if let Some(context) = db.where_() {
        let function = context.lines().next().unwrap_or_default();
        return match function.starts_with("PL/pgSQL function ") {
            true => format!("{}, {}", meaning(state), shortened(function)),
            false => meaning(state).to_owned(),
        };
    }
    match state.get(..2).unwrap_or_default() {
        // These name constraints, columns, indexes and sizes.
        "0A" | "23" | "54" => shortened(db.message()),
        _ => shortened(&without_values(db.message())),
    }
}

/// A message without what it quotes, and without what follows a colon.
fn without_values(message: &str) -> String {
    const QUOTES: [char; 8] = ['"', '«', '»', '„', '“', '”', '‹', '›'];
    let mut text = message.to_owned();
    if let (Some(first), Some(last)) = (text.find(QUOTES), text.rfind(QUOTES))
        && first < last
    {
        text.replace_range(first..last, "\"…");
    }
    if let Some(colon) = text.find(": ") {
        text.replace_range(colon.., ": …");
    }
    text
}

fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 300;
    text.chars().take(CHARACTERS_MAX).collect()
}

fn of_state(state: &str) -> String {
    format!("SQLSTATE {state} {}", meaning(state))
}

fn unreachable(doing: &str, why: &str) -> Trouble {
    Trouble::new(
        Code::Unreachable,
        format!("postgres: {doing}: {why}"),
        "Check the sink's url, the server and the network; it is tried again.",
    )
}

/// Nothing is wrong with the event nor, for good, with the target.
fn passing(doing: &str, state: &str) -> Trouble {
    Trouble::new(
        Code::Unreachable,
        format!("postgres: {doing}: {} (SQLSTATE {state})", meaning(state)),
        match state {
            "25006" => {
                "Let url name a server that takes writes: this one is a standby, or default_transaction_read_only is on. It is tried again."
            }
            _ => {
                "Another session of the target is in the way (pg_locks, pg_stat_activity); it is tried again."
            }
        },
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
        "25006" => "the server takes no writes",
        "40001" => "serialization failure",
        "40P01" => "deadlock",
        "53300" => "too many connections",
        "55P03" => "lock not available",
        "57014" => "the statement was cancelled",
        "57P01" | "57P02" | "57P03" => "the server shuts down or starts",
        _ => match &state[..2] {
            "22" => "data exception",
            "23" => "constraint violated",
            "54" => "over a limit of the server",
            "P0" => "raised by a trigger",
            _ => "failed",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_left_out() {
        for (message, told) in [
            (
                "invalid input value for enum mood: \"ne\"w: x\"",
                "invalid input value for enum mood: …",
            ),
            (
                "value \"99999999999\" is out of range for type integer",
                "value \"…\" is out of range for type integer",
            ),
            (
                "relation \"secret\" does not exist",
                "relation \"…\" does not exist",
            ),
            (
                "improper qualified name (too many dotted names): a.b.c.d",
                "improper qualified name (too many dotted names): …",
            ),
            (
                "ungültige Eingabe für Typ integer: »x«",
                "ungültige Eingabe für Typ integer: …",
            ),
            (
                "value too long for type character varying(5)",
                "value too long for type character varying(5)",
            ),
        ] {
            assert_eq!(without_values(message), told);
        }
    }

    #[test]
    fn unreachable_is_only_what_passes() {
        for state in ["08006", "57P01", "57P03", "53300", "53200"] {
            assert!(
                matches!(StateClass::of(state), StateClass::Outage),
                "{state}"
            );
        }
        for state in ["54000", "22P02", "23505", "44000", "P0001"] {
            assert!(
                matches!(StateClass::of(state), StateClass::Value),
                "{state}"
            );
        }
        for state in ["21000", "27000", "XX000", "38000", "55000"] {
            assert!(
                matches!(StateClass::of(state), StateClass::Unknown),
                "{state}"
            );
        }
        for state in [
            "42P01", "42704", "42883", "3F000", "428C9", "0A000", "42501",
        ] {
            assert!(
                matches!(StateClass::of(state), StateClass::Doubtful),
                "{state}"
            );
        }
        for state in ["40001", "40P01", "55P03", "57014"] {
            assert!(
                matches!(StateClass::of(state), StateClass::Conflict),
                "{state}"
            );
        }
    }
}
