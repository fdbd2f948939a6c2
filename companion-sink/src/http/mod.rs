//! Health, state, metrics, questions to the history and to topics, and decisions about refused events and effects over HTTP, for
//! programs in JSON and for people as pages. Only decisions change something.

pub(crate) mod access;
mod connections;
mod decision;
mod dlq;
mod effects;
mod history;
pub(crate) mod metrics;
mod page;
mod parameters;
mod problem;
mod state;
mod statistics;
mod topics;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use change::trouble::Trouble;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config;
use crate::config::Loaded;
use crate::dlq::Dlq;
use crate::effect::listing::EffectSinks;
use crate::error::{Result, misconfigured};
use crate::history::table::Histories;
use crate::http::access::same_site::is_loopback;
use crate::http::access::{Access, own_token, want_our_name, want_token};
use crate::http::page::login::session::Sessions;
use crate::http::page::pages::Pages;
use crate::http::state::ServerState;
use crate::http::statistics::AskedFigures;
use crate::http::topics::TopicState;
use crate::kafka::discovery::Cluster;
use crate::kafka::positions;
use crate::sink::mongo_view::reading::Views;
use crate::statistics::kept::shelf::Shelf;
use crate::status::SinkStatus;
use crate::status::sender::SourceStatus;

/// Where a process listens, for as long as it lives.
pub(crate) struct Listener(std::net::TcpListener);

/// Answers what comes to a listener. Another one may follow it there, with other secrets.
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Fails for an address that others reach, without a token (CDC1001).
pub(crate) fn check_listen(config: &Loaded, address: Option<SocketAddr>) -> Result<()> {
    let listen = config.http.listen.as_str();
    if listen.is_empty() {
        return Ok(());
    }
    let is_loopback = match address.or_else(|| listen.parse().ok()) {
        Some(address) => address.ip().is_loopback(),
        None => is_loopback(listen),
    };
    if is_loopback || config.token.is_some() {
        return Ok(());
    }
    Err(misconfigured(
        format!("[http] listen = \"{listen}\" is not a loopback address, and there is no token"),
        "Write a secret into a file of mode 0600 and set [http] token_file, or listen on 127.0.0.1.",
    ))
}

impl Listener {
    /// Listens; an empty address is no HTTP at all.
    pub(crate) async fn bind(config: &Loaded) -> Result<Option<Listener>> {
        let settings = &config.http;
        let listen = settings.listen.as_str();
        if listen.is_empty() {
            return Ok(None);
        }
        let failed = |error| cannot_listen(settings, &error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let listener = listener.into_std().map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        check_listen(config, Some(address))?;
        tracing::info!(%address, "http: pages for people are at /, `companion-sink page` prints a link that logs in");
        Ok(Some(Listener(listener)))
    }
}

fn cannot_listen(settings: &config::Http, error: &std::io::Error) -> Trouble {
    misconfigured(
        format!("cannot listen on {}: {error}", settings.listen),
        "Change [http] listen, or set it to \"\" for no HTTP.",
    )
}

impl Server {
    /// Serves until [`Server::finish`].
    pub(crate) fn start(
        listener: &Listener,
        config: &Loaded,
        sinks: Vec<SinkStatus>,
        cluster: watch::Receiver<Cluster>,
        position: positions::Newest,
        shelf: &Shelf,
    ) -> Result<Server> {
        let settings = &config.http;
        let listener = listener.0.try_clone().and_then(TcpListener::from_std);
        let listener = listener.map_err(|error| cannot_listen(settings, &error))?;
        let shared = ServerState {
            sinks,
            cluster,
            position,
            source: SourceStatus::new(config.source.url.reveal()).map(Arc::new),
        };
        let address = listener.local_addr();
        let port = address.as_ref().map_or(0, SocketAddr::port);
        let token = config.token.as_ref();
        let token: Arc<str> = token.map_or("", |token| token.reveal()).into();
        let own_token = match token.is_empty() {
            true => own_token::open(config)?,
            false => Arc::clone(&token),
        };
        let access = Access {
            token,
            own_token,
            is_loopback: address.is_ok_and(|address| address.ip().is_loopback()),
        };
        let router = router(config, &shared, shelf, access, port)?;
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(async move {
            connections::serve(listener, router, stopped).await;
        });
        Ok(Server { stop, serving })
    }

    /// Takes no more connections, and closes each when its request is answered.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(true);
        // A client that holds its connection must not hold the process.
        self.serving.abort();
        let _ = self.serving.await;
    }
}

/// What answers. What watches over processes has no token; what shows rows or takes decisions has one always.
fn router(
    config: &Loaded,
    shared: &ServerState,
    shelf: &Shelf,
    access: Access,
    port: u16,
) -> Result<Router> {
    let pages = Arc::new(Pages {
        config: config.clone(),
        access: access.clone(),
        sessions: Sessions::new(port),
        shared: shared.clone(),
        histories: Arc::new(Histories::new(config)),
        dlq: Arc::new(Dlq::new(config)),
        effects: Arc::new(EffectSinks::new(config)),
        figures: Arc::new(AskedFigures::new(config, shelf)?),
        topics: Arc::new(TopicState::new(config)),
        views: Views::new(config),
    });
    let rows = Router::new()
        .merge(history::router(Arc::clone(&pages.histories)))
        .merge(dlq::router(Arc::clone(&pages.dlq)))
        .merge(topics::router(Arc::clone(&pages.topics)))
        .merge(effects::router(Arc::clone(&pages.effects)))
        .merge(statistics::router(Arc::clone(&pages.figures)))
        .merge(page::login::codes(Arc::clone(&pages)))
        .layer(from_fn_with_state(
            Arc::clone(&access.own_token),
            want_token,
        ));
    let figures = state::figures(shared)
        .route("/openapi.json", get(openapi))
        .layer(from_fn_with_state(Arc::clone(&access.token), want_token));
    let for_programs = state::health(shared)
        .merge(figures)
        .merge(rows)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(access, want_our_name));
    Ok(for_programs.merge(page::router(&pages)))
}

/// A decision with all values of a row.
const BODY_BYTES_MAX: usize = 2 << 20;

async fn openapi() -> Response {
    let text = include_str!("openapi.json").replacen("VERSION", env!("CARGO_PKG_VERSION"), 1);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    /// The source of a folder and those in it, whose routes are found in it as they stand there.
    fn sources(folder: &std::path::Path) -> String {
        let entries = std::fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .map(|path| match path.extension() {
                _ if path.is_dir() => sources(&path),
                Some(end) if end == "rs" => std::fs::read_to_string(path).unwrap(),
                _ => String::new(),
            })
            .collect()
    }

    #[test]
    fn every_route_is_described() {
        let described: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let methods = |operations: &Value| {
            let known = ["get", "post"].into_iter();
            let known = known.filter(|method| operations.get(method).is_some());
            known.collect::<Vec<_>>().join(" ")
        };
        let paths = described["paths"].as_object().unwrap().iter();
        let paths = paths.map(|(path, operations)| (path.clone(), methods(operations)));
        let mut paths: Vec<(String, String)> = paths.collect();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http");
        let sources = sources(folder.as_ref());
        let routes = sources.split(".route(\"").skip(1);
        let routes = routes.filter_map(|rest| {
            let (path, rest) = rest.split_once("\", ")?;
            let (method, _) = rest.split_once('(')?;
            // Pages are for people.
            let for_programs = ["/healthz", "/readyz", "/metrics"].contains(&path);
            (for_programs || path.starts_with("/v1/")).then(|| (path.to_owned(), method.to_owned()))
        });
        let mut routes: Vec<(String, String)> = routes.collect();
        paths.sort();
        routes.sort();
        assert_eq!(routes, paths);
    }
}
