//! Requests to decide: who asks, about what, and what they say.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::misconfigured;
use crate::http::access::same_site;
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;

/// Of which sink.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SinkParameter {
    pub(crate) sink: Option<String>,
}

/// The body of a decision.
pub(crate) struct DecisionBody<T>(pub(crate) T);

/// To try again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retry {
    pub(crate) by: Option<String>,
}

/// To leave out for good.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Skip {
    pub(crate) reason: String,
    pub(crate) by: Option<String>,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for DecisionBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        same_site::check(request.headers())?;
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|wrong| wrong_body(wrong.body_text()))?;
        let json: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let body = serde_json::from_slice(json);
        // The text would quote what was sent.
        body.map(DecisionBody).map_err(|error| {
            let what = match error.is_data() {
                true => "has other fields than it should, or lacks one",
                false => "is not JSON",
            };
            wrong_body(format!("the body {what}, at column {}", error.column()))
        })
    }
}

/// What is wrong with a body.
pub(crate) fn wrong_body(what: String) -> Problem {
    let hint = "Send {\"set\":{\"after.COLUMN\":VALUE},\"reason\":\"…\"} to edit, {\"reason\":\"…\"} to skip, {} to retry; \"by\" may say who decides.";
    misconfigured(what, hint).into()
}

/// A request to decide: about which event, and who asks.
pub(crate) struct DecisionRequest {
    pub(crate) id: String,
    pub(crate) sink: Option<String>,
    client: SocketAddr,
}

impl DecisionRequest {
    /// Who decides; `by` is who they say they are.
    pub(crate) fn decider(&self, by: Option<String>) -> String {
        by.unwrap_or_else(|| format!("http {}", self.client.ip()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DecisionRequest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Parameters(of) = Parameters::<SinkParameter>::from_request_parts(parts, state).await?;
        let id = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = id.map_err(|wrong| wrong_body(wrong.body_text()))?;
        let client = ConnectInfo::<SocketAddr>::from_request_parts(parts, state).await;
        let ConnectInfo(client) = client.map_err(|wrong| wrong_body(wrong.body_text()))?;
        Ok(DecisionRequest {
            id,
            sink: of.sink,
            client,
        })
    }
}
