//! Errors as RFC 9457 has them, with the code of the catalogue.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use change::trouble::Trouble;
use serde_json::json;

use crate::error::Code;

/// An answer in JSON, or why there is none.
pub(crate) type JsonAnswer = Result<Json<serde_json::Value>, Problem>;

/// Why a request has no answer.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) title: String,
    pub(crate) detail: Option<String>,
    pub(crate) code: Option<Code>,
}

impl Problem {
    /// There is no such thing.
    pub(crate) fn not_found(what: &str) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: format!("there is no history of {what}"),
            detail: None,
            code: None,
        }
    }

    /// There is no such refused event.
    pub(crate) fn no_event(id: &str) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: format!("there is no refused event {id}"),
            detail: Some("GET /v1/dlq has those that there are.".to_owned()),
            code: None,
        }
    }

    /// There is no such topic; `what` says so.
    pub(crate) fn no_topic(what: &str) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: what.to_owned(),
            detail: Some("GET /v1/topics?pattern=* has those that there are.".to_owned()),
            code: None,
        }
    }

    /// No effect of such an event waits.
    pub(crate) fn no_effect(id: &str) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: format!("no effect of event {id} waits"),
            detail: Some("GET /v1/effects has those that do.".to_owned()),
            code: None,
        }
    }

    /// There is no such sink of figures.
    pub(crate) fn no_figures(sink: &str) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: format!("there is no sink {sink} of kind statistics"),
            detail: None,
            code: None,
        }
    }

    /// There is no such view.
    pub(crate) fn no_view(sink: &str) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: format!("there is no sink {sink} of kind mongo_view"),
            detail: None,
            code: None,
        }
    }

    /// A view has no such document.
    pub(crate) fn no_document(sink: &str, id: &str) -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: format!("{sink} has no document with the _id {id}"),
            detail: Some(
                "Write a number as it is, a text without quotes, an _id of several columns as JSON."
                    .to_owned(),
            ),
            code: None,
        }
    }

    /// What was asked for may be several things.
    pub(crate) fn conflict(error: Trouble) -> Problem {
        Problem {
            status: StatusCode::CONFLICT,
            ..Problem::from(error)
        }
    }

    /// Something changes only for who sends JSON.
    pub(crate) fn not_json() -> Problem {
        Problem {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            title: "the request has no JSON".to_owned(),
            detail: Some("Send the header Content-Type: application/json.".to_owned()),
            code: None,
        }
    }

    /// A page of another site asks.
    pub(crate) fn other_site() -> Problem {
        Problem {
            status: StatusCode::FORBIDDEN,
            title: "the request comes from a page of another site".to_owned(),
            detail: Some(
                "Ask 127.0.0.1 or localhost, from a page of that name or without the header Origin; or with the token."
                    .to_owned(),
            ),
            code: None,
        }
    }

    /// Nothing is served there.
    pub(crate) fn no_page() -> Problem {
        Problem {
            status: StatusCode::NOT_FOUND,
            title: "there is no such page".to_owned(),
            detail: Some("Choose one of the list above.".to_owned()),
            code: None,
        }
    }

    /// A form that was not got from here, or too long ago.
    pub(crate) fn old_form() -> Problem {
        Problem {
            status: StatusCode::FORBIDDEN,
            title: "the form is not of this session".to_owned(),
            detail: Some(
                "Log in, load the page with the form again, and send it from there.".to_owned(),
            ),
            code: None,
        }
    }

    /// More pages follow what comes than there is room for.
    pub(crate) fn too_many_follow() -> Problem {
        Problem {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "too many pages follow what comes".to_owned(),
            detail: Some("Close some of them, or load this one again now and then.".to_owned()),
            code: None,
        }
    }

    /// The answer takes too long.
    pub(crate) fn too_slow() -> Problem {
        Problem {
            status: StatusCode::GATEWAY_TIMEOUT,
            title: "the answer takes too long".to_owned(),
            detail: Some("Ask for less, or ask the command line.".to_owned()),
            code: None,
        }
    }

    /// Who asks has not said who they are.
    pub(crate) fn unauthorized() -> Problem {
        Problem {
            status: StatusCode::UNAUTHORIZED,
            title: "the token is missing or wrong".to_owned(),
            detail: Some(
                "Send the header Authorization: Bearer, with the token of [http] token_file; without that, of the file that the log names at the start."
                    .to_owned(),
            ),
            code: None,
        }
    }
}

impl From<Trouble> for Problem {
    fn from(error: Trouble) -> Problem {
        Problem {
            status: match error.code {
                Code::Configuration => StatusCode::BAD_REQUEST,
                Code::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            title: error.message,
            detail: Some(error.remedy),
            code: Some(error.code),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({ "status": self.status.as_u16(), "title": self.title });
        if let Some(detail) = &self.detail {
            body["detail"] = detail.as_str().into();
        }
        if let Some(code) = self.code {
            body["code"] = code.to_string().into();
        }
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response =
            (self.status, kind, Json(body).into_response().into_body()).into_response();
        // For who shows it in another way.
        response.extensions_mut().insert(self);
        response
    }
}
