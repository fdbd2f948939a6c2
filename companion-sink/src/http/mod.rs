//! Health, state, metrics, questions to the history and to topics, and decisions about refused events and effects over HTTP. Only the
//! latter change something.

use crate::http::metrics::put_metrics;

pub(crate) mod metrics;

mod connections;
mod decision;
mod dlq;
mod effects;
mod history;
pub(crate) mod own_token;
mod parameters;
mod problem;
mod same_site;
mod statistics;
mod topics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use change::position::lsn_text;
use change::trouble::Trouble;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config;
use crate::config::Loaded;
use crate::dlq::Dlq;
use crate::effect::listing::EffectSinks;
use crate::error::{Result, misconfigured};
use crate::history::table::Histories;
use crate::http::problem::Problem;
pub(crate) use crate::http::same_site::is_loopback;
use crate::kafka::discovery::Cluster;
use crate::kafka::positions;
use crate::statistics::kept::shelf::Shelf;
use crate::status::SinkStatus;
use crate::status::prometheus::Metrics;
use crate::status::sender;
use crate::status::sender::SourceStatus;

/// Where a process listens, for as long as it lives.
pub(crate) struct Listener(std::net::TcpListener);

/// Answers what comes to a listener. Another one may follow it there, with other secrets.
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct ServerState {
    sinks: Vec<SinkStatus>,
    cluster: watch::Receiver<Cluster>,
    position: positions::Newest,
    source: Option<Arc<SourceStatus>>,
}

/// Who may ask what.
#[derive(Clone)]
struct Access {
    /// Of `[http] token_file`, empty for none: everything but health wants it.
    token: Arc<str>,
    /// Where that is empty: what shows rows or takes decisions wants this one.
    own_token: Arc<str>,
    /// Only this machine reaches the address, under names of its own.
    is_loopback: bool,
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
        tracing::info!(%address, "http");
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
        let router = router(config, &shared, shelf, access)?;
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
fn router(config: &Loaded, shared: &ServerState, shelf: &Shelf, access: Access) -> Result<Router> {
    let rows = Router::new()
        .merge(history::router(Arc::new(Histories::new(config))))
        .merge(dlq::router(Arc::new(Dlq::new(config))))
        .merge(topics::router(config))
        .merge(effects::router(Arc::new(EffectSinks::new(config))))
        .merge(statistics::router(config, shelf)?)
        .layer(from_fn_with_state(
            Arc::clone(&access.own_token),
            want_token,
        ));
    let figures = Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .with_state(shared.clone())
        .layer(from_fn_with_state(Arc::clone(&access.token), want_token));
    Ok(Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shared.clone())
        .merge(figures)
        .merge(rows)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(access, want_our_name)))
}

/// A decision with all values of a row.
const BODY_BYTES_MAX: usize = 2 << 20;

/// Whether who asks has a token; an empty one is none, and nobody has it.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or_default();
    // The time that it takes tells nothing but the length.
    !token.is_empty()
        && given.len() == token.len()
        && openssl::memcmp::eq(given.as_bytes(), token.as_bytes())
}

/// Lets nobody in who has not got the token, where there is one.
async fn want_token(
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
async fn want_our_name(
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

async fn openapi() -> Response {
    let text = include_str!("openapi.json").replacen("VERSION", env!("CARGO_PKG_VERSION"), 1);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// 200 while the process works, whatever its sinks do: who starts it anew because of this changes nothing for a sink that waits
/// for a person, and holds up the others.
async fn healthz() -> Response {
    Json(json!({ "state": "ok" })).into_response()
}

/// 503 until every sink applies events (or stands by), and when one is halted or stuck.
async fn readyz(Extract(shared): Extract<ServerState>) -> Response {
    let mut bad = Map::new();
    for sink in &shared.sinks {
        if let Some(trouble) = sink.figures().trouble() {
            bad.insert(sink.name.clone(), Value::String(trouble));
        }
    }
    if bad.is_empty() {
        return Json(json!({ "state": "ok" })).into_response();
    }
    let body = Json(json!({ "state": "not ready", "sinks": bad }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn status(Extract(shared): Extract<ServerState>) -> Response {
    let mut sinks = Map::new();
    for sink in &shared.sinks {
        let figures = sink.figures().clone();
        let total = figures.applied_total();
        let rate = figures.rate.per_second(Instant::now());
        let mut value = match serde_json::to_value(figures) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        value.insert("kind".into(), sink.kind.into());
        value.insert("applied_total".into(), total.into());
        value.insert("events_per_second".into(), rate.into());
        sinks.insert(sink.name.clone(), Value::Object(value));
    }
    let kafka = shared
        .cluster
        .borrow()
        .error
        .as_ref()
        .map(|error| error.message.clone());
    let mut body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kafka": { "error": kafka },
        "sinks": sinks,
    });
    if let Some(position) = shared.position.borrow().as_deref() {
        body["position"] = json!({
            "source_name": position.name,
            "generation": position.generation,
            "timeline": position.timeline,
            "lsn": lsn_text(position.complete_lsn()),
            "node": position.node,
            "age_seconds": positions::age_seconds(position),
        });
    }
    if let Some(source) = &shared.source {
        body["source"] = sender::status(&source.look().await);
    }
    Json(body).into_response()
}

async fn metrics(Extract(shared): Extract<ServerState>) -> Response {
    let mut metrics = Metrics::default();
    put_metrics(&mut metrics, &shared.sinks);
    let ready = shared.sinks.iter().map(|sink| {
        let is_ready = sink.figures().trouble().is_none();
        let labels = format!("{{sink=\"{}\"}}", sink.name);
        (labels, f64::from(u8::from(is_ready)))
    });
    metrics.family(
        "companion_sink_ready",
        "gauge",
        "Whether /readyz has nothing against the sink.",
        ready.collect(),
    );
    if let Some(position) = shared.position.borrow().as_deref() {
        metrics.family(
            "companion_sink_position_age_seconds",
            "gauge",
            "Since the sender last wrote its position; it does so every cdc.heartbeat_interval at least.",
            vec![(String::new(), positions::age_seconds(position))],
        );
    }
    if let Some(source) = &shared.source {
        sender::put_metrics(&mut metrics, &source.look().await);
    }
    let body = metrics.into_text();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::now_us;

    #[test]
    fn metrics_are_prometheus_text() {
        let sink = SinkStatus::new("replica", "postgres");
        sink.figures().applied.insert("c", 3);
        sink.applied(std::time::Duration::from_millis(3), Some(now_us() - 20_000));
        let mut metrics = Metrics::default();
        put_metrics(&mut metrics, &[sink]);
        let text = metrics.into_text();
        for line in [
            "companion_sink_events_total{sink=\"replica\",op=\"c\"} 3",
            "companion_sink_state{sink=\"replica\",state=\"starting\"} 1",
            "companion_sink_apply_duration_seconds_bucket{sink=\"replica\",le=\"0.005\"} 1",
            "companion_sink_event_latency_seconds_count{sink=\"replica\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    /// The source of this folder, whose routes are found in it as they stand there.
    fn sources() -> String {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http");
        let files = std::fs::read_dir(folder).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|end| end == "rs"));
        files
            .map(|file| std::fs::read_to_string(file).unwrap())
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
        let sources = sources();
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

    #[test]
    fn every_metric_is_documented() {
        let sink = SinkStatus::new("replica", "postgres");
        let mut figures = sink.figures();
        figures.applied.insert("c", 3);
        figures.dead_letters.insert("refused".into(), 1);
        figures.apply_lag_events = Some(1);
        figures.apply_lag_seconds = Some(1.0);
        figures.unmoved_seconds = Some(1.0);
        figures.store_keys = Some(1);
        figures.store_bytes = Some(1);
        figures.effects = Some(crate::status::EffectFigures::default());
        drop(figures);
        let mut metrics = Metrics::default();
        put_metrics(&mut metrics, &[sink]);
        sender::put_metrics(&mut metrics, &Ok(sender::Seen::of_everything()));
        let text = metrics.into_text();
        let families = text.lines().filter_map(|line| {
            let (name, _) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some(name)
        });
        let operations = include_str!("../../../docs/operations.md");
        for name in families.chain([
            "companion_sink_ready",
            "companion_sink_position_age_seconds",
        ]) {
            let is_named = |end: &str| operations.contains(&format!("`{name}{end}"));
            assert!(is_named("`") || is_named("{"), "{name}");
        }
    }
}
