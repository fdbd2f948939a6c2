//! Messages in PostgreSQL's form: what happened, DETAIL, and a HINT with the remedy that ends in the code.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// A coded message. Each code has its page in `docs/errors`.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub code: &'static str,
    pub sqlstate: PgSqlErrorCode,
    pub message: String,
    pub detail: Option<String>,
    /// A sentence; the code is added.
    pub hint: String,
}

impl Report {
    pub(crate) fn new(
        code: &'static str,
        sqlstate: PgSqlErrorCode,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Report {
        Report {
            code,
            sqlstate,
            message: message.into(),
            detail: None,
            hint: hint.into(),
        }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Report {
        self.detail = Some(detail.into());
        self
    }

    fn send(self, level: PgLogLevel) {
        let mut report =
            ErrorReport::new(self.sqlstate, in_server_encoding(self.message), "pg_cdc")
                .set_hint(in_server_encoding(format!("{} [{}]", self.hint, self.code)));
        if let Some(detail) = self.detail {
            report = report.set_detail(in_server_encoding(detail));
        }
        report.report(level);
    }

    /// Ends the statement with this error.
    pub(crate) fn raise(self) -> ! {
        self.send(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Ends the session with this error. No Rust code behind it runs, and what it had taken apart is looked at by nobody again.
    pub(crate) fn end_session(self) -> ! {
        self.send(PgLogLevel::FATAL);
        unreachable!("FATAL does not return")
    }

    pub(crate) fn warn(self) {
        self.send(PgLogLevel::WARNING);
    }

    /// To the server log only.
    pub(crate) fn log(self) {
        self.send(PgLogLevel::LOG);
    }
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
pub(crate) fn not_loaded() -> Report {
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
    Report::new(
        "CDC0001",
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "pg_cdc is not loaded",
        "Add pg_cdc to shared_preload_libraries in postgresql.conf and restart the server.",
    )
    .detail(format!(
        "The library must be loaded at server start; shared_preload_libraries is \"{libraries}\"."
    ))
}

/// CDC0005: the sender could not be started.
pub(crate) fn no_worker() -> Report {
    Report::new(
        "CDC0005",
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "no free worker for the sender",
        "Raise max_worker_processes and restart the server.",
    )
    .detail("The sender is a background worker, and it is not running.")
}
