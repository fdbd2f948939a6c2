//! Messages in PostgreSQL's form: what happened, DETAIL, and a HINT with the remedy that ends in the code.

use std::cell::RefCell;

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys::panic::{ErrorReport, ErrorReportWithLevel};
use pgrx::prelude::*;

thread_local! {
    /// The ERROR that was raised last, as its catcher sees it.
    static RAISED: RefCell<Option<(Code, String)>> = const { RefCell::new(None) };
}

/// How a trouble is said to whoever uses the server. On the main thread only.
pub(crate) trait Raise: Sized {
    /// Says it at a level of PostgreSQL's.
    fn send(self, level: PgLogLevel);

    /// Ends the statement with this error.
    fn raise(self) -> ! {
        self.send(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Ends the session with this error. No Rust code behind it runs, and what it had taken apart is looked at by nobody again.
    fn end_session(self) -> ! {
        self.send(PgLogLevel::FATAL);
        unreachable!("FATAL does not return")
    }

    fn warn(self) {
        self.send(PgLogLevel::WARNING);
    }

    /// To the server log only.
    fn log(self) {
        self.send(PgLogLevel::LOG);
    }
}

impl Raise for Trouble {
    fn send(self, level: PgLogLevel) {
        let sqlstate = match level {
            PgLogLevel::WARNING => PgSqlErrorCode::ERRCODE_WARNING,
            _ => sqlstate(self.code),
        };
        let message = in_server_encoding(self.message);
        if matches!(level, PgLogLevel::ERROR) {
            RAISED.replace(Some((self.code, message.clone())));
        }
        let hint = format!("{} [{}]", self.remedy, self.code);
        let mut report =
            ErrorReport::new(sqlstate, message, "pg_cdc").set_hint(in_server_encoding(hint));
        if let Some(detail) = self.detail {
            report = report.set_detail(in_server_encoding(detail));
        }
        report.report(level);
    }
}

/// The code of a caught ERROR, if it is one of ours.
pub(crate) fn code_of(caught: &ErrorReportWithLevel) -> Option<Code> {
    RAISED.with_borrow(|raised| {
        let (code, message) = raised.as_ref()?;
        (message == caught.message() && caught.sql_error_code() == sqlstate(*code)).then_some(*code)
    })
}

/// As the server has it: six bits for each character.
fn sqlstate(code: Code) -> PgSqlErrorCode {
    let characters = code.sqlstate().bytes().rev();
    let number = characters.fold(0, |number, character| {
        (number << 6) + i32::from((character - b'0') & 0x3F)
    });
    PgSqlErrorCode::from(number)
}

/// A NOTICE.
pub(crate) fn notice(message: String) {
    pgrx::notice!("{}", in_server_encoding(message));
}

/// PostgreSQL takes messages in the database's encoding, and pgrx gives it UTF-8: in other encodings what is not ASCII
/// becomes a question mark.
fn in_server_encoding(message: String) -> String {
    // SAFETY: reads the encoding of the connected database; a process without one has SQL_ASCII.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    if message.is_ascii()
        || encoding == pg_sys::pg_enc::PG_UTF8 as i32
        || encoding == pg_sys::pg_enc::PG_SQL_ASCII as i32
    {
        return message;
    }
    message
        .chars()
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect()
}

/// CDC0001: the library was not loaded at server start.
pub(crate) fn not_loaded() -> Trouble {
    // SAFETY: the setting's name is a constant; the returned text is PostgreSQL's own and copied at once.
    let libraries = unsafe {
        let value = pg_sys::GetConfigOption(c"shared_preload_libraries".as_ptr(), true, false);
        if value.is_null() {
            String::new()
        } else {
            std::ffi::CStr::from_ptr(value)
                .to_string_lossy()
                .into_owned()
        }
    };
    Trouble::new(
        Code::NotLoaded,
        "pg_cdc is not loaded",
        "Add pg_cdc to shared_preload_libraries in postgresql.conf and restart the server.",
    )
    .detail(format!(
        "The library must be loaded at server start; shared_preload_libraries is \"{libraries}\"."
    ))
}

/// CDC0005: the sender could not be started.
pub(crate) fn no_worker() -> Trouble {
    Trouble::new(
        Code::NoFreeWorker,
        "no free worker for the sender",
        "Raise max_worker_processes and restart the server.",
    )
    .detail("The sender is a background worker, and it is not running.")
}
