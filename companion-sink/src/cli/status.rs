//! `companion-sink status`: what the running instances are doing, as they tell over HTTP.

use std::io::IsTerminal;
use std::time::Duration;

use change::trouble::Trouble;
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::cli::answer::{Answer, Format, Look};
use crate::config::Loaded;
use crate::error::{Code, Result, misconfigured};
use crate::http::access::own_token;
use crate::terminal::Color;
use crate::terminal::print;

const TIMEOUT: Duration = Duration::from_secs(5);
const HEADER: &[&str] = &[
    "SINK",
    "KIND",
    "STATE",
    "LAG EVENTS",
    "LAG",
    "RATE/s",
    "APPLIED",
    "PARKED",
    "LAST ERROR",
];

/// How to ask.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Ask again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

impl Status {
    /// Prints what the instances say; whether no sink is halted.
    ///
    /// # Errors
    /// CDC1003 when none of them answers.
    pub(crate) async fn run(&self, config: &Loaded, json: bool, color: Color) -> Result<bool> {
        let http = &config.http;
        if http.listen.is_empty() && http.peers.is_empty() {
            return Err(misconfigured(
                "[http] listen is empty, and there are no peers",
                "Set [http] listen to the address of the running instance.",
            ));
        }
        loop {
            if self.watch.is_some() && std::io::stdout().is_terminal() {
                // Clears the screen.
                print("\x1b[2J\x1b[H");
            }
            let all_work = self.once(config, json, color).await?;
            match self.watch {
                Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                None => return Ok(all_work),
            }
        }
    }

    async fn once(&self, config: &Loaded, json: bool, color: Color) -> Result<bool> {
        let own = Some(&config.http.listen).filter(|listen| !listen.is_empty());
        let addresses: Vec<&String> = own.into_iter().chain(&config.http.peers).collect();
        let mut answer = Answer::new(json.then_some(Format::Json), None, color, HEADER)?;
        let mut title = Vec::new();
        let mut failed = None;
        let mut all_work = true;
        let token = match &config.token {
            None => own_token::read(config).unwrap_or_default(),
            Some(token) => token.reveal().clone(),
        };
        for address in &addresses {
            let instance = match get(address, "/v1/status", &token).await {
                Ok(instance) => instance,
                Err(error) => {
                    title.push(error.to_string());
                    failed = Some(error);
                    continue;
                }
            };
            let mut sinks = instance["sinks"].as_object().into_iter().flatten();
            all_work &= sinks.all(|(_, sink)| sink["state"] != "halted");
            if answer.is_json() {
                let mut object = json!({ "instance": address });
                if let (Value::Object(object), Value::Object(told)) = (&mut object, instance) {
                    object.extend(told);
                }
                answer.row(|| object, Vec::new(), Look::Plain)?;
                continue;
            }
            title.extend(source_line(&instance));
            let sinks = instance["sinks"].as_object().into_iter().flatten();
            for (name, sink) in sinks {
                let name = match addresses.len() {
                    1 => name.clone(),
                    _ => format!("{name} @ {address}"),
                };
                let look = match sink["state"].as_str() {
                    Some("halted") => Look::Gone,
                    _ => Look::Plain,
                };
                answer.row(|| Value::Null, cells(name, sink), look)?;
            }
        }
        if title.is_empty() {
            title.push("companion-sink".to_owned());
        }
        match (answer.count(), failed) {
            (0, Some(error)) => Err(error),
            _ => {
                answer.finish_below(&title)?;
                Ok(all_work)
            }
        }
    }
}

/// What an instance knows of the sender: its position in Kafka, and what it says itself where it is asked.
fn source_line(instance: &Value) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(position) = instance.get("position") {
        parts.push(format!(
            "SOURCE {}  generation {}  timeline {}  position {}  age {:.1} s",
            position["source_name"].as_str().unwrap_or("-"),
            position["generation"],
            position["timeline"],
            position["lsn"].as_str().unwrap_or("-"),
            position["age_seconds"].as_f64().unwrap_or_default(),
        ));
    }
    if let Some(source) = instance.get("source") {
        parts.push(match source["error"]["message"].as_str() {
            Some(error) => error.to_owned(),
            None => source["sender"]["state"].as_str().unwrap_or("-").to_owned(),
        });
    }
    (!parts.is_empty()).then(|| parts.join("  "))
}

/// Effects that wait, and why one of them does.
fn waiting_effects(sink: &Value) -> Option<String> {
    let effects = &sink["effects"];
    let waiting = effects["waiting"].as_u64().filter(|waiting| *waiting > 0)?;
    let seconds = effects["oldest_waiting_seconds"]
        .as_f64()
        .unwrap_or_default();
    let failure = effects["last_failure"].as_str();
    let failure = failure.map_or(String::new(), |why| format!(", last failure: {why}"));
    Some(format!("{waiting} waiting since {seconds:.0} s{failure}"))
}

fn cells(name: String, sink: &Value) -> Vec<String> {
    let text = |field: &str| sink[field].as_str().unwrap_or("-").to_owned();
    let count = |field: &str| sink[field].as_u64().unwrap_or_default().to_string();
    let error = &sink["last_error"];
    let error = match (error["code"].as_str(), error["message"].as_str()) {
        (Some(code), Some(message)) => match error["over_since"].as_str() {
            Some(since) => format!("over since {since}: {code} {message}"),
            None => format!("{code} {message}"),
        },
        _ => "-".to_owned(),
    };
    // Where instances share them.
    let state = match sink["partitions"].as_u64() {
        Some(partitions) => format!(
            "{}, {}",
            text("state"),
            count_of(
                usize::try_from(partitions).unwrap_or(usize::MAX),
                "partition"
            )
        ),
        None => text("state"),
    };
    let state = match (
        sink["retrying_since"].as_str(),
        sink["stuck_because"].as_str(),
    ) {
        (_, Some(because)) => format!("{state}, STUCK: {because}"),
        (Some(since), None) => format!("{state}, retrying since {since}"),
        (None, None) => state,
    };
    let state = match waiting_effects(sink) {
        Some(waiting) => format!("{state}, {waiting}"),
        None => state,
    };
    let stopped = sink["stopped_topics"].as_object();
    let stopped = stopped.filter(|stopped| !stopped.is_empty());
    let (state, error) = match stopped {
        None => (state, error),
        Some(stopped) => {
            let reasons = stopped.iter().map(|(topic, why)| {
                let part = |field: &str| why[field].as_str().unwrap_or("-");
                format!("{topic}: {} {}", part("code"), part("message"))
            });
            let reasons: Vec<String> = reasons.collect();
            (
                format!("{state}, {} stopped", count_of(stopped.len(), "topic")),
                reasons.join("; "),
            )
        }
    };
    vec![
        name,
        text("kind"),
        state,
        // What is not known is not 0.
        sink["apply_lag_events"]
            .as_u64()
            .map_or_else(|| "?".to_owned(), |events| events.to_string()),
        sink["apply_lag_seconds"]
            .as_f64()
            .map_or_else(|| "?".to_owned(), |seconds| format!("{seconds:.1} s")),
        format!(
            "{:.0}",
            sink["events_per_second"].as_f64().unwrap_or_default()
        ),
        count("applied_total"),
        count("parked_keys"),
        error,
    ]
}

fn count_of(count: usize, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {what}{ending}")
}

/// What an instance answers.
pub(crate) async fn get(address: &str, path: &str, token: &str) -> Result<Value> {
    ask(address, Method::GET, path, token).await
}

/// What an instance answers to a request without a body.
pub(crate) async fn ask(address: &str, method: Method, path: &str, token: &str) -> Result<Value> {
    let failed = |why: String| {
        Trouble::new(
            Code::Unreachable,
            format!("{address}: {why}"),
            "Start `companion-sink run` there, or correct [http] listen and peers.",
        )
    };
    let asked = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let broken = |error: hyper::Error| failed(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Ends with the answer.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        if status == StatusCode::UNAUTHORIZED {
            return Err(misconfigured(
                format!("{address} wants another token"),
                "Set [http] token_file to the file that the instance has.",
            ));
        }
        serde_json::from_slice(&body).map_err(|error| failed(format!("no JSON: {error}")))
    };
    let answered = timeout(TIMEOUT, asked).await;
    answered.unwrap_or_else(|_| Err(failed("no answer".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_is_a_line() {
        let sink = json!({
            "kind": "postgres", "state": "running", "apply_lag_events": 12, "apply_lag_seconds": 0.123, "events_per_second": 1190.4,
            "applied_total": 1_000_400, "parked_keys": 1,
            "last_error": { "code": "CDC1007", "message": "numeric field overflow" },
        });
        assert_eq!(
            cells("replica".to_owned(), &sink),
            [
                "replica",
                "postgres",
                "running",
                "12",
                "0.1 s",
                "1190",
                "1000400",
                "1",
                "CDC1007 numeric field overflow"
            ]
        );
        let stuck = json!({
            "kind": "postgres", "state": "retrying", "apply_lag_events": null, "apply_lag_seconds": null,
            "retrying_since": "2026-01-01T10:00:00Z", "stuck": true, "stuck_because": "tried again for more than 60 s",
            "last_error": { "code": "CDC1003", "message": "away", "over_since": "2026-01-01T11:00:00Z" },
        });
        let cells_of_stuck = cells("replica".to_owned(), &stuck);
        assert_eq!(
            [&cells_of_stuck[2..5], &cells_of_stuck[8..]].concat(),
            [
                "retrying, STUCK: tried again for more than 60 s",
                "?",
                "?",
                "over since 2026-01-01T11:00:00Z: CDC1003 away"
            ]
        );
        let shared = json!({ "kind": "postgres", "state": "running", "partitions": 2 });
        assert_eq!(
            cells("replica".to_owned(), &shared)[2],
            "running, 2 partitions"
        );
        let stopped = json!({
            "kind": "postgres", "state": "running", "partitions": 1,
            "stopped_topics": { "shop.public.t": { "code": "CDC1011", "message": "no type mood" } },
        });
        let cells_of_stopped = cells("replica".to_owned(), &stopped);
        assert_eq!(
            [&cells_of_stopped[2], &cells_of_stopped[8]],
            [
                "running, 1 partition, 1 topic stopped",
                "shop.public.t: CDC1011 no type mood"
            ]
        );
        let effects = json!({
            "kind": "mail", "state": "running",
            "effects": { "waiting": 3, "oldest_waiting_seconds": 12.3, "last_failure": "the server answers 451" },
        });
        assert_eq!(
            cells("welcome".to_owned(), &effects)[2],
            "running, 3 waiting since 12 s, last failure: the server answers 451"
        );
        let instance = json!({
            "position": { "source_name": "pg", "generation": 1, "timeline": 2, "lsn": "0/15A3098", "age_seconds": 0.41 },
            "source": { "sender": { "state": "streaming" } },
        });
        assert_eq!(
            source_line(&instance).as_deref(),
            Some("SOURCE pg  generation 1  timeline 2  position 0/15A3098  age 0.4 s  streaming")
        );
        assert_eq!(source_line(&json!({})), None);
    }
}
