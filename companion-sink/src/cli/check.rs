//! `companion-sink check`

use super::print;
use crate::config::{Config, Kind};
use crate::discovery::{Topics, follows, topics};
use crate::error::{Code, Error};
use crate::kafka_client;
use crate::positions;
use crate::sink::{mongo_history, postgres};
use crate::source::Source;

/// What the checks found, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// Something is configured wrongly, or refused.
    Error,
    /// Kafka or a target is out of reach.
    Unreachable,
}

/// One line for each thing that was looked at.
struct Report {
    json: bool,
    verdict: Verdict,
}

impl Report {
    fn line(&mut self, level: &str, item: &str, message: &str, code: Option<Code>, hint: &str) {
        let code = code.map(|code| code.to_string()).unwrap_or_default();
        if self.json {
            let line = serde_json::json!({
                "level": level, "item": item, "message": message, "code": code, "hint": hint,
            });
            print(&format!("{line}\n"));
            return;
        }
        let mut text = format!("{level:<8} {item:<16} {message}");
        if !code.is_empty() {
            text += &format!(" [{code}]");
        }
        if !hint.is_empty() {
            text += &format!("\n{:25} {hint}", "");
        }
        print(&(text + "\n"));
    }

    fn ok(&mut self, item: &str, message: &str) {
        self.line("ok", item, message, None, "");
    }

    fn warning(&mut self, item: &str, message: &str, hint: &str) {
        self.line("warning", item, message, None, hint);
    }

    fn error(&mut self, item: &str, error: &Error) {
        self.line("error", item, &error.what, Some(error.code), &error.hint);
        let verdict = match error.code {
            Code::Unreachable => Verdict::Unreachable,
            _ => Verdict::Error,
        };
        self.verdict = self.verdict.max(verdict);
    }
}

/// Looks at everything the sinks need; `offline` leaves out what wants a connection.
pub async fn check(config: &Config, json: bool, offline: bool) -> Verdict {
    let mut report = Report {
        json,
        verdict: Verdict::Ok,
    };
    report.ok("configuration", &format!("{} sinks", config.sinks.len()));
    if offline {
        return report.verdict;
    }
    let found = match ask_kafka(config).await {
        Ok(found) => {
            report.ok("kafka", &format!("{} topics", found.len()));
            let positions = positions::topic(config);
            match found.contains_key(&positions) {
                true => report.ok("positions", &positions),
                false => report.warning(
                    "positions",
                    &format!("topic {positions} is not there: a consistent replica waits for it"),
                    "Set [kafka] source to the server's cdc.source_name; the sender makes the topic when it starts.",
                ),
            }
            Some(found)
        }
        Err(error) => {
            report.error("kafka", &error);
            None
        }
    };
    if let Some(source) = Source::new(&config.source.url) {
        match source.look().await {
            Ok(seen) => {
                let state = seen.sender["state"].as_str().unwrap_or_default();
                report.ok("source", &format!("sender is {state}"));
            }
            Err(error) => report.error("source", &error),
        }
    }
    for (name, sink) in &config.sinks {
        let item = format!("sink.{name}");
        if !sink.enabled {
            report.ok(&item, "not enabled");
            continue;
        }
        if let Some(found) = &found {
            let followed = found
                .keys()
                .filter(|topic| follows(&sink.topics, topic))
                .count();
            match followed {
                0 => report.warning(
                    &item,
                    "no topic matches yet",
                    "Nothing to do if tables are tracked later; else correct topics.",
                ),
                _ => report.ok(&item, &format!("{followed} topics")),
            }
        }
        match &sink.kind {
            Kind::MongoHistory(settings) => {
                match mongo_history::connect(&sink.url, &settings.database).await {
                    Ok(_) => report.ok(&item, "mongodb answers"),
                    Err(error) => report.error(&item, &error),
                }
            }
            Kind::Postgres(_) => match postgres::try_connect(&sink.url, name).await {
                Ok(true) => report.ok(&item, "postgres answers"),
                Ok(false) => report.warning(
                    &item,
                    "postgres answers; foreign keys and triggers of the target stay active",
                    "GRANT SET ON PARAMETER session_replication_role TO the role (PostgreSQL 15 on).",
                ),
                Err(error) => report.error(&item, &error),
            },
        }
    }
    report.verdict
}

async fn ask_kafka(config: &Config) -> Result<Topics, Error> {
    let client = kafka_client::asking(config)?;
    let answer = tokio::task::spawn_blocking(move || topics(&client)).await;
    answer.unwrap_or_else(|error| {
        Err(Error::new(
            Code::Unreachable,
            format!("kafka: {error}"),
            "Try again.",
        ))
    })
}
