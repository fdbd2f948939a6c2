//! Figures by day: companion-sink counts them, this asks it.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use service::problem::Problem;

use crate::peers::send;

/// Those of the sink `daily` (companion-sink/companion-sink.toml).
const FIGURES: &str = "/v1/statistics/daily";

/// Where the figures are.
pub(crate) struct Statistics {
    /// The address of companion-sink.
    pub(crate) address: String,
    /// The file with its token, which companion-sink makes itself; empty for none.
    pub(crate) token_file: String,
}

/// Asks for the figures of `from` up to `to`, and answers what companion-sink does.
pub(crate) async fn ask(State(statistics): State<Arc<Statistics>>, uri: Uri) -> Response {
    let question = uri.query().unwrap_or_default();
    let token = match statistics.token_file.as_str() {
        "" => String::new(),
        file => match std::fs::read_to_string(file) {
            Ok(token) => token.trim().to_owned(),
            Err(error) => return Problem::unavailable("companion-sink", &error).into_response(),
        },
    };
    let request = Request::get(format!("{FIGURES}?{question}")).body(());
    let parts = request.map(|request| request.into_parts().0);
    let token = HeaderValue::try_from(format!("Bearer {token}"));
    let (Ok(mut parts), Ok(token)) = (parts, token) else {
        return Problem::unprocessable("the question cannot be sent on").into_response();
    };
    parts.headers.insert(header::AUTHORIZATION, token);
    let host = HeaderValue::try_from(statistics.address.as_str());
    parts
        .headers
        .extend(host.ok().map(|host| (header::HOST, host)));
    let answer = send(&statistics.address, &parts, Bytes::new()).await;
    match answer.status() {
        StatusCode::MISDIRECTED_REQUEST => {
            Problem::unavailable("companion-sink", &"no connection").into_response()
        }
        _ => answer,
    }
}
