//! Who calls, and why.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use tokio_postgres::{Client, Transaction};

use crate::problem::Problem;
use crate::setting;

/// Whose token is whose: a file with a line `NAME TOKEN` for each caller. In a system of your own this is what your identity
/// provider says.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<HashMap<String, String>>);

/// Who calls, why, and the request's id.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose token came with the request.
    pub actor: String,
    /// `X-Reason`.
    pub reason: Option<String>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

impl Tokens {
    /// Reads the file that the variable `TOKENS_FILE` names.
    pub fn from_environment() -> Tokens {
        let file = setting::required("TOKENS_FILE");
        let text = std::fs::read_to_string(&file);
        let text = text.unwrap_or_else(|error| setting::wrong(&format!("{file}: {error}")));
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let tokens = lines.map(|(name, token)| (token.trim().to_owned(), name.to_owned()));
        Tokens(Arc::new(tokens.collect()))
    }
}

impl Caller {
    /// Begins a transaction whose changes are recorded as this caller's.
    pub async fn begin<'a>(&self, client: &'a mut Client) -> Result<Transaction<'a>, Problem> {
        let transaction = client.transaction().await?;
        let who = "SELECT cdc_context($1, $2, $3)";
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&self.actor, &self.reason, &self.request_id];
        transaction.execute(who, &parameters).await?;
        Ok(transaction)
    }
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Tokens: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Caller, Problem> {
        let text = |name: &str| text_of(&parts.headers, name);
        let token = text(header::AUTHORIZATION.as_str());
        let token = token
            .as_deref()
            .and_then(|value| value.strip_prefix("Bearer "));
        let actor = token.and_then(|token| Tokens::from_ref(state).0.get(token).cloned());
        let Some(actor) = actor else {
            let what =
                "say who you are: Authorization: Bearer TOKEN, with a token of the file of tokens";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, what));
        };
        Ok(Caller {
            actor,
            reason: text("x-reason"),
            request_id: text("x-request-id"),
        })
    }
}

/// A header's text. HTTP has no encoding of its own; what people type is UTF-8.
fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}
