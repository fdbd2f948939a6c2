//! Pages for people: HTML that is made here, from templates that are part of the program. They work without JavaScript.
//!
//! All addresses are in this file, and in `login` those with which people log in.

mod dead_letters;
mod drawing;
mod effects;
mod entity;
mod flow;
mod history;
mod layout;
pub(crate) mod login;
mod model;
pub(crate) mod pages;
mod statistics;
mod topics;
mod urls;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State as Extract};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::time::timeout;

use crate::http::access::want_our_name;
use crate::http::page::login::visitor::{Visitor, want_login};
use crate::http::page::pages::Pages;
use crate::http::problem::Problem;

/// For making a page.
const PAGE_WITHIN: Duration = Duration::from_secs(60);
/// An edit with all values of a row.
const FORM_BYTES_MAX: usize = 2 << 20;

/// All pages.
pub(crate) fn router(pages: &Arc<Pages>) -> Router {
    let flow = Router::new()
        .route("/", get(flow::page))
        .route("/flow/events", get(flow::events));
    let for_logged_in = Router::new()
        .route("/history", get(history::tables))
        .route("/history/{table}", get(history::rows))
        .route("/history/{table}/{key}", get(entity::page))
        .route("/models", get(model::list))
        .route("/models/{sink}", get(model::documents))
        .route("/models/{sink}/{id}", get(model::document))
        .route("/statistics", get(statistics::list))
        .route("/statistics/{sink}", get(statistics::page))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{sink}/{id}", get(dead_letters::shown))
        .route("/dead-letters/{sink}/{id}/retry", post(dead_letters::retry))
        .route("/dead-letters/{sink}/{id}/edit", post(dead_letters::edit))
        .route("/dead-letters/{sink}/{id}/skip", post(dead_letters::skip))
        .route("/effects", get(effects::list))
        .route("/effects/{sink}/{id}", get(effects::shown))
        .route("/effects/{sink}/{id}/retry", post(effects::retry))
        .route("/effects/{sink}/{id}/skip", post(effects::skip))
        .route("/topics", get(topics::list))
        .route("/topics/{topic}", get(topics::tail))
        .route("/topics/{topic}/events", get(topics::events));
    let (flow, for_logged_in) = match pages.is_flow_open() {
        true => (flow, for_logged_in),
        false => (Router::new(), for_logged_in.merge(flow)),
    };
    for_logged_in
        .layer(from_fn(want_login))
        .merge(flow)
        .merge(login::router())
        .route("/page/style.css", get(style))
        .route("/page/script.js", get(script))
        .route("/page/icon.svg", get(icon))
        .fallback(nothing)
        .with_state(Arc::clone(pages))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(from_fn_with_state(pages.access.clone(), want_our_name))
        .layer(from_fn_with_state(Arc::clone(pages), as_page))
}

/// Notes who asks, and shows problems as pages.
async fn as_page(
    Extract(pages): Extract<Arc<Pages>>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = request
        .extensions()
        .get::<ConnectInfo<std::net::SocketAddr>>();
    let client = client.map(|ConnectInfo(client)| *client);
    let visitor = Visitor::new(pages.sessions.find(request.headers()), client);
    let who = visitor.logged_in.clone();
    // What is nowhere, programs look for in vain, too.
    let is_page = !request.uri().path().starts_with("/v1/");
    request.extensions_mut().insert(visitor);
    let answered = timeout(PAGE_WITHIN, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| Problem::too_slow().into_response());
    if is_page
        && let Some(problem) = response.extensions().get::<Problem>()
        && let Ok(page) = pages.problem(who.as_ref(), problem)
    {
        response = (problem.status, page).into_response();
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // With none at all, a browser would not say from where a form comes.
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn nothing() -> Problem {
    Problem::no_page()
}

const KEPT: (header::HeaderName, &str) = (header::CACHE_CONTROL, "max-age=3600");

async fn style() -> Response {
    let kind = (header::CONTENT_TYPE, "text/css; charset=utf-8");
    ([kind, KEPT], include_str!("templates/style.css")).into_response()
}

async fn script() -> Response {
    let kind = (header::CONTENT_TYPE, "text/javascript; charset=utf-8");
    ([kind, KEPT], include_str!("templates/script.js")).into_response()
}

async fn icon() -> Response {
    let kind = (header::CONTENT_TYPE, "image/svg+xml");
    ([kind, KEPT], include_str!("templates/icon.svg")).into_response()
}
