//! What the process does: whether it lives, whether it is ready, state, and metrics.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use change::position::lsn_text;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::http::metrics::put_metrics;
use crate::kafka::discovery::Cluster;
use crate::kafka::positions;
use crate::status::SinkStatus;
use crate::status::prometheus::Metrics;
use crate::status::sender;
use crate::status::sender::SourceStatus;

/// What the requests need.
#[derive(Clone)]
pub(crate) struct ServerState {
    pub(crate) sinks: Vec<SinkStatus>,
    pub(crate) cluster: watch::Receiver<Cluster>,
    pub(crate) position: positions::Newest,
    pub(crate) source: Option<Arc<SourceStatus>>,
}

/// What watches over processes: it wants no token.
pub(crate) fn health(shared: &ServerState) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shared.clone())
}

/// The figures.
pub(crate) fn figures(shared: &ServerState) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(shared.clone())
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
    Json(status_json(&shared).await).into_response()
}

/// What every sink is doing, and the sender.
pub(crate) async fn status_json(shared: &ServerState) -> Value {
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
    body
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
