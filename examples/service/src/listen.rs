//! How a service listens and stops.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::problem::Problem;
use crate::setting;

/// Serves `routes`, and `/healthz`, on the address that the variable `LISTEN` has (`127.0.0.1:0` takes a free port), until
/// SIGTERM or SIGINT; requests that are under way are answered. Says on standard output where it listens.
pub async fn serve(routes: Router) -> std::io::Result<()> {
    let listener = TcpListener::bind(setting::required("LISTEN")).await?;
    println!("listens on http://{}", listener.local_addr()?);
    let routes = routes.route("/healthz", get(async || "ok"));
    let routes = routes.fallback(async || Problem::not_found("there is nothing at this path"));
    let routes = routes.method_not_allowed_fallback(async || {
        let what = "this path takes other methods; Allow has them";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, what)
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    };
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop)
        .await
}
