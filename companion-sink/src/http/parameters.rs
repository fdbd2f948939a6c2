//! What stands behind the question mark; what is wrong there is a problem like others.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::misconfigured;
use crate::http::problem::Problem;

/// The parameters of a request.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(value)| Parameters(value)).map_err(|wrong| {
            misconfigured(wrong.body_text(), "/openapi.json has the parameters.").into()
        })
    }
}
