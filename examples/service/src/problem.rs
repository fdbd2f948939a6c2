//! What a caller is told when something is wrong, as `application/problem+json` (RFC 9457).

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio_postgres::error::SqlState;

/// A problem: the status, and what is wrong in one sentence.
#[derive(Debug)]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// What is wrong, for whoever wrote the request.
    pub detail: String,
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
        }
    }

    /// 404: there is no such thing.
    pub fn not_found(what: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, what)
    }

    /// 422: the request is understood, but says something that cannot be.
    pub fn unprocessable(what: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what)
    }

    /// 500: something in the service does not work; the log has the reason.
    pub fn broken(error: impl std::fmt::Display) -> Problem {
        eprintln!("{error}");
        let what = "this instance has failed; its log has the reason";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what)
    }

    /// 503: something that the service needs does not answer. The log has the reason.
    pub fn unavailable(what: &str, error: &dyn std::fmt::Display) -> Problem {
        eprintln!("{what} does not answer: {error}");
        let detail = format!("{what} does not answer; try again later");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Problem");
        let body = json!({"title": title, "status": self.status.as_u16(), "detail": self.detail});
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, content_type, body.to_string()).into_response()
    }
}

/// What PostgreSQL refuses because of the values that it was given is the caller's problem, the rest is the service's.
impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Problem {
        let Some(refused) = error.as_db_error() else {
            return Problem::unavailable("the database", &error);
        };
        let code = refused.code();
        let status = match code.code() {
            _ if *code == SqlState::UNIQUE_VIOLATION => StatusCode::CONFLICT,
            _ if *code == SqlState::FOREIGN_KEY_VIOLATION => StatusCode::CONFLICT,
            _ if *code == SqlState::RAISE_EXCEPTION => StatusCode::CONFLICT,
            code if code.starts_with("22") => StatusCode::UNPROCESSABLE_ENTITY,
            code if code.starts_with("23") => StatusCode::UNPROCESSABLE_ENTITY,
            code if code.starts_with("40") => StatusCode::SERVICE_UNAVAILABLE,
            _ => return Problem::unavailable("the database", &error),
        };
        Problem::new(status, refused.message())
    }
}

impl From<deadpool_postgres::PoolError> for Problem {
    fn from(error: deadpool_postgres::PoolError) -> Problem {
        Problem::unavailable("the database", &error)
    }
}
