//! Logging in: with the token, or with a code that `companion-sink page` has made and that is good once.

pub(crate) mod session;
pub(crate) mod visitor;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use crate::http::access::is_secret;
use crate::http::page::layout::{PageAnswer, PageHead, Section};
use crate::http::page::login::session::CODE_MAX;
use crate::http::page::login::visitor::{SentForm, Visitor, own_fields};
use crate::http::page::pages::Pages;
use crate::http::page::urls::is_local;
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;

/// Before somebody is told that a token is wrong.
const PAUSE: Duration = Duration::from_millis(500);

type AskedPages = Extract<Arc<Pages>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LoginParameters {
    next: String,
    code: String,
}

/// The pages with which people log in and out; nobody needs to be logged in for them.
pub(crate) fn router() -> Router<Arc<Pages>> {
    Router::new()
        .route("/login", get(asked).post(login))
        .route("/logout", post(logout))
}

/// What makes codes, for who has the token.
pub(crate) fn codes(pages: Arc<Pages>) -> Router {
    Router::new()
        .route("/v1/login-codes", post(make_code))
        .with_state(pages)
}

async fn make_code(
    Extract(pages): AskedPages,
) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    let code = pages.sessions.make_code()?;
    let answer = json!({ "code": code, "seconds": CODE_MAX.as_secs() });
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn asked(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Parameters(parameters): Parameters<LoginParameters>,
) -> PageAnswer {
    form(&pages, &visitor, &parameters, None)
}

fn form(
    pages: &Pages,
    visitor: &Visitor,
    parameters: &LoginParameters,
    wrong: Option<&str>,
) -> PageAnswer {
    let head = PageHead::new(Section::Login, "Log in");
    let content = json!({
        "next": parameters.next, "code": parameters.code, "wrong": wrong,
        "has_token_file": !pages.access.token.is_empty(),
    });
    pages.page(visitor.logged_in.as_ref(), &head, "login.html", &content)
}

async fn login(
    Extract(pages): AskedPages,
    visitor: Visitor,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let fields = own_fields(request, &()).await?;
    let field = |name: &str| {
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim()).unwrap_or_default()
    };
    let (code, token, person) = (field("code"), field("token"), field("person"));
    let is_right = match code {
        "" => is_secret(token, &pages.access.own_token),
        code => pages.sessions.use_code(code),
    };
    if !is_right {
        sleep(PAUSE).await;
        tracing::warn!(who = %visitor.name(), "http: a login was refused");
        let parameters = LoginParameters {
            next: field("next").to_owned(),
            code: String::new(),
        };
        let wrong = match code {
            "" => "That is not the token.",
            _ => "That code was used, or is too old. Make another one, or use the token.",
        };
        let page = form(&pages, &visitor, &parameters, Some(wrong))?;
        return Ok((StatusCode::UNAUTHORIZED, page).into_response());
    }
    // Only the browser knows whether there is TLS between it and us; of a form it says so.
    let origin = headers.get(header::ORIGIN).map(|origin| origin.as_bytes());
    let is_secure = origin.is_some_and(|origin| origin.starts_with(b"https://"));
    let person = person.replace(char::is_control, " ");
    let person = Some(person).filter(|person| !person.is_empty());
    let cookie = pages.sessions.open(person, is_secure)?;
    let next = Some(field("next"))
        .filter(|next| is_local(next))
        .unwrap_or("/");
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response())
}

async fn logout(Extract(pages): AskedPages, form: SentForm) -> Response {
    let cookie = form
        .visitor
        .logged_in
        .as_ref()
        .map(|who| pages.sessions.close(who));
    let cookie = cookie.unwrap_or_default();
    ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}
