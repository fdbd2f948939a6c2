//! Who asks for a page, and what they send with a form.

use std::net::SocketAddr;

use axum::Form;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use crate::error::misconfigured;
use crate::http::access::same_site::is_own_page;
use crate::http::page::login::session::LoggedIn;
use crate::http::page::urls::path_part;
use crate::http::problem::Problem;

/// Who asks.
#[derive(Clone)]
pub(crate) struct Visitor {
    /// None for who is not logged in.
    pub(crate) logged_in: Option<LoggedIn>,
    /// Where they are.
    client: Option<SocketAddr>,
}

/// What somebody who is logged in sends with a form that they got from here.
pub(crate) struct SentForm {
    /// Who.
    pub(crate) visitor: Visitor,
    fields: Vec<(String, String)>,
}

impl Visitor {
    /// Who asks, from where.
    pub(crate) fn new(logged_in: Option<LoggedIn>, client: Option<SocketAddr>) -> Visitor {
        Visitor { logged_in, client }
    }

    /// As whom decisions are noted.
    pub(crate) fn name(&self) -> String {
        let person = self.logged_in.as_ref().and_then(|who| who.person.clone());
        person.unwrap_or_else(|| {
            let client = self.client.map(|client| client.ip().to_string());
            format!("page {}", client.unwrap_or_default())
        })
    }
}

/// Sends who is not logged in to where they can.
pub(crate) async fn want_login(visitor: Visitor, request: Request, next: Next) -> Response {
    if visitor.logged_in.is_some() {
        return next.run(request).await;
    }
    if request.method() != Method::GET {
        return Problem::old_form().into_response();
    }
    if wants_events(request.headers()) {
        return Problem::unauthorized().into_response();
    }
    let wanted = request.uri().path_and_query();
    let wanted = wanted.map_or("/", |wanted| wanted.as_str());
    Redirect::to(&format!("/login?next={}", path_part(wanted))).into_response()
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT);
    accepted.is_some_and(|accepted| accepted.as_bytes().starts_with(b"text/event-stream"))
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let visitor = parts.extensions.get::<Visitor>().cloned();
        visitor.ok_or_else(Problem::unauthorized)
    }
}

/// The fields of a form, from a page of this site.
pub(crate) async fn own_fields<S: Send + Sync>(
    request: Request,
    state: &S,
) -> Result<Vec<(String, String)>, Problem> {
    if !is_own_page(request.headers()) {
        return Err(Problem::other_site());
    }
    let fields = Form::<Vec<(String, String)>>::from_request(request, state).await;
    let Form(fields) = fields.map_err(|wrong| {
        let hint = "Load the page with the form again, and send it from there.";
        Problem::from(misconfigured(wrong.body_text(), hint))
    })?;
    Ok(fields)
}

impl<S: Send + Sync> FromRequest<S> for SentForm {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let visitor = request.extensions().get::<Visitor>().cloned();
        let visitor = visitor.ok_or_else(Problem::unauthorized)?;
        let fields = own_fields(request, state).await?;
        let form = SentForm { visitor, fields };
        let secret = form.get("secret").unwrap_or_default();
        let who = form.visitor.logged_in.as_ref();
        match who.is_some_and(|who| who.made(secret)) {
            true => Ok(form),
            false => Err(Problem::old_form()),
        }
    }
}

impl SentForm {
    /// A field that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// The same, as it was sent.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self.fields.iter();
        fields.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// One that must be there.
    pub(crate) fn wanted(&self, name: &str, what: &str) -> Result<&str, Problem> {
        self.get(name).ok_or_else(|| {
            misconfigured(
                format!("{what} is missing"),
                "Go back, fill the field in, and send the form again.",
            )
            .into()
        })
    }
}
