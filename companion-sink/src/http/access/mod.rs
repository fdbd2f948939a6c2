//! Who may ask what.

pub(crate) mod own_token;
pub(crate) mod same_site;

use std::sync::Arc;

use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::{Result, misconfigured};
use crate::http::access::same_site::is_loopback;
use crate::http::problem::Problem;

/// Who may ask what.
#[derive(Clone)]
pub(crate) struct Access {
    /// Of `[http] token_file`, empty for none: everything but health wants it.
    pub(crate) token: Arc<str>,
    /// Where that is empty: what shows rows or takes decisions wants this one.
    pub(crate) own_token: Arc<str>,
    /// Only this machine reaches the address, under names of its own.
    pub(crate) is_loopback: bool,
}

/// Whether two secrets are the same; an empty one is none, and nobody has it. The time that it takes tells nothing but the length.
pub(crate) fn is_secret(given: &str, secret: &str) -> bool {
    !secret.is_empty()
        && given.len() == secret.len()
        && openssl::memcmp::eq(given.as_bytes(), secret.as_bytes())
}

/// A secret that nobody guesses, as text.
pub(crate) fn random_secret() -> Result<String> {
    const BYTES: usize = 32;
    let mut bytes = [0; BYTES];
    openssl::rand::rand_bytes(&mut bytes).map_err(|error| {
        misconfigured(
            format!("no random numbers: {error}"),
            "See to the system's source of random numbers.",
        )
    })?;
    Ok(change::hex::hex(&bytes))
}

/// Whether who asks has a token.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or_default();
    is_secret(given, token)
}

/// Lets nobody in who has not got the token, where there is one.
pub(crate) async fn want_token(
    Extract(token): Extract<Arc<str>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    match token.is_empty() || has_token(&headers, &token) {
        true => next.run(request).await,
        false => Problem::unauthorized().into_response(),
    }
}

/// Where only this machine is meant to ask, a page of another site could have its own name pointed here for a moment, and its
/// reader's browser ask: of names that are not this machine's only those are answered who have the token.
pub(crate) async fn want_our_name(
    Extract(access): Extract<Access>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let host = headers.get(header::HOST);
    let is_ours = host.is_none_or(|host| host.to_str().is_ok_and(is_loopback));
    match !access.is_loopback || is_ours || has_token(&headers, &access.own_token) {
        true => next.run(request).await,
        false => Problem::other_site().into_response(),
    }
}
