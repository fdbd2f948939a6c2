//! `companion-sink check`

use std::collections::BTreeSet;

use change::topic_name;
use change::trouble::Trouble;

use crate::cli::run::choose;
use crate::cli::weaknesses;
use crate::config::topic_pattern::follows;
use crate::config::{
    EffectSettings, JoinSettings, Kind, Loaded, MailSettings, SinkSettings, WebhookSettings,
};
use crate::effect::target::Target;
use crate::error::Code;
use crate::http::{check_listen, own_token};
use crate::kafka::client;
use crate::kafka::discovery::Topics;
use crate::kafka::discovery::topics;
use crate::kafka::positions;
use crate::sink::mongo_view::plan::plan_of;
use crate::sink::{mongo_history, mongo_view, postgres};
use crate::statistics::kept::store::check_folder;
use crate::status::sender::SourceStatus;
use crate::terminal::print;
use crate::terminal::printable;

/// What the checks found, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// Something is configured wrongly, or refused.
    Error,
    /// Kafka or a target is out of reach.
    Unreachable,
}

/// One line for each thing that was looked at.
struct CheckReport {
    json: bool,
    verdict: Verdict,
}

impl CheckReport {
    fn line(&mut self, level: &str, item: &str, message: &str, code: Option<Code>, hint: &str) {
        let code = code.map(|code| code.to_string()).unwrap_or_default();
        self.write(level, item, message, &code, hint);
    }

    fn write(&mut self, level: &str, item: &str, message: &str, code: &str, hint: &str) {
        if self.json {
            let line = serde_json::json!({
                "level": level, "item": item, "message": message, "code": code, "hint": hint,
            });
            print(&format!("{line}\n"));
            return;
        }
        let (message, hint) = (printable(message), printable(hint));
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

    /// An error that a running instance tells.
    fn found(&mut self, item: &str, message: &str, code: &str, hint: &str) {
        self.write("error", item, message, code, hint);
        self.verdict = self.verdict.max(Verdict::Error);
    }

    fn error(&mut self, item: &str, error: &Trouble) {
        self.line(
            "error",
            item,
            &error.message,
            Some(error.code),
            &error.remedy,
        );
        let verdict = match error.code {
            Code::Unreachable => Verdict::Unreachable,
            _ => Verdict::Error,
        };
        self.verdict = self.verdict.max(verdict);
    }
}

/// Looks at everything the sinks need; `offline` leaves out what wants a connection.
pub(crate) async fn check(config: &Loaded, json: bool, offline: bool) -> Verdict {
    let mut report = CheckReport {
        json,
        verdict: Verdict::Ok,
    };
    report.ok("configuration", &format!("{} sinks", config.sinks.len()));
    look_at_configuration(config, &mut report).await;
    if offline {
        return report.verdict;
    }
    let found = match ask_kafka(config).await {
        Ok(found) => {
            report.ok("kafka", &format!("{} topics", found.len()));
            let positions = positions::topic(config);
            let mut enabled = config.sinks.values().filter(|sink| sink.enabled);
            match found.contains_key(&positions) {
                true => report.ok("positions", &positions),
                false if enabled.all(|sink| sink.kind.takes_plain_events()) => {
                    let told = format!("topic {positions} is not there, and no sink waits for it");
                    report.ok("positions", &told);
                }
                false => report.warning(
                    "positions",
                    &format!("topic {positions} is not there: a consistent replica waits for it"),
                    "Set [kafka] source_name to the server's cdc.source_name; the sender makes the topic when it starts.",
                ),
            }
            Some(found)
        }
        Err(error) => {
            report.error("kafka", &error);
            None
        }
    };
    if let Some(source) = SourceStatus::new(config.source.url.reveal()) {
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
            look_at_topics(sink, found, &item, &mut report);
        }
        look_at_target(name, sink, &item, &mut report).await;
    }
    ask_instances(config, &mut report).await;
    report.verdict
}

/// What `run` refuses, and what is weak.
async fn look_at_configuration(config: &Loaded, report: &mut CheckReport) {
    if let Err(error) = choose(config, &[]) {
        report.error("configuration", &error);
    }
    if let Err(error) = check_listen(config, None) {
        report.error("http", &error);
    }
    if let Some((what, remedy)) = weaknesses::of_file(config) {
        report.warning("configuration", &what, remedy);
    }
    if let Some((what, remedy)) = weaknesses::of_kafka(config) {
        report.warning("kafka", &what, remedy);
    }
    if !config.source.url.is_empty() {
        match weaknesses::of_postgres(config.source.url.reveal()) {
            Ok(None) => {}
            Ok(Some((what, remedy))) => report.warning("source", &what, remedy),
            Err(error) => report.error("source", &error),
        }
    }
    for (name, sink) in config.sinks.iter().filter(|(_, sink)| sink.enabled) {
        let item = format!("sink.{name}");
        if let Kind::Statistics(settings) = &sink.kind {
            match check_folder(&settings.store) {
                Ok(()) => report.ok(&item, &format!("{} can be written", settings.store)),
                Err(error) => report.error(&item, &error),
            }
        }
        match weaknesses::of_target(sink).await {
            Ok(None) => {}
            Ok(Some((what, remedy))) => report.warning(&item, &what, remedy),
            Err(error) => report.error(&item, &error),
        }
    }
}

fn look_at_topics(sink: &SinkSettings, found: &Topics, item: &str, report: &mut CheckReport) {
    let topics = found.keys();
    match topics.filter(|topic| follows(&sink.topics, topic)).count() {
        0 => report.warning(
            item,
            "no topic matches yet",
            "Nothing to do if tables are tracked later; else correct topics.",
        ),
        followed => report.ok(item, &format!("{followed} topics")),
    }
    let Kind::MongoView(settings) = &sink.kind else {
        return;
    };
    // By their own names; a table may have another topic.
    let mut of_view: Vec<&JoinSettings> = settings.join.iter().collect();
    let mut tables = BTreeSet::new();
    match settings.root_topic.as_str() {
        "" => drop(tables.insert(settings.root.as_str())),
        topic if !found.contains_key(topic) => report.warning(
            item,
            &format!("topic {topic} is not there yet"),
            "Nothing to do if the first event is still to be emitted; else correct root_topic.",
        ),
        _ => {}
    }
    while let Some(join) = of_view.pop() {
        tables.insert(&join.table);
        of_view.extend(&join.join);
    }
    for table in tables {
        let parts: Vec<&str> = table.split('.').collect();
        let end = format!(".{}", topic_name::join(&parts));
        let mut followed = found.keys().filter(|topic| follows(&sink.topics, topic));
        if !followed.any(|topic| topic.ends_with(&end)) {
            report.warning(
                item,
                &format!("no topic that the sink follows has the name of table {table}"),
                "Track the table, or add its topic to topics; nothing to do if the table has a topic of another name there.",
            );
        }
    }
}

async fn look_at_target(name: &str, sink: &SinkSettings, item: &str, report: &mut CheckReport) {
    match &sink.kind {
        Kind::MongoHistory(settings) => {
            match mongo_history::connect(sink.url.reveal(), &settings.database).await {
                Ok(_) => report.ok(item, "mongodb answers"),
                Err(error) => report.error(item, &error),
            }
        }
        Kind::MongoView(settings) => {
            let looked = async {
                let url = sink.url.reveal();
                let database = mongo_history::connect(url, &settings.database).await?;
                mongo_view::columns::check(&database, &plan_of(name, settings)?).await
            };
            match looked.await {
                Ok(()) => report.ok(item, "mongodb answers"),
                Err(error) => report.error(item, &error),
            }
        }
        Kind::Webhook(WebhookSettings { effect, .. }) | Kind::Mail(MailSettings { effect, .. }) => {
            match try_effects(sink, effect).await {
                Ok(()) => report.ok(item, "the receiver answers"),
                Err(error) => report.error(item, &error),
            }
        }
        Kind::Postgres(_) => match postgres::try_connect(sink.url.reveal(), name).await {
            Ok(role) => {
                match role.is_replica {
                    true => report.ok(item, "postgres answers"),
                    false => report.warning(
                        item,
                        "postgres answers; foreign keys and triggers of the target stay active",
                        "GRANT SET ON PARAMETER session_replication_role TO the role (PostgreSQL 15 on).",
                    ),
                }
                if role.is_superuser {
                    report.warning(
                        item,
                        "the role is a superuser: whatever an event can make of the sink, it can make of the whole server",
                        "Let the sink have a role that owns the replica's tables, and GRANT SET ON PARAMETER session_replication_role TO it.",
                    );
                }
            }
            Err(error) => report.error(item, &error),
        },
        Kind::Statistics(_) => {}
    }
}

/// Connects to who takes the effects of a sink.
async fn try_effects(sink: &SinkSettings, settings: &EffectSettings) -> Result<(), Trouble> {
    match Target::open(&sink.kind, sink.url.reveal())? {
        Some(target) => target.try_connect(settings).await,
        None => Ok(()),
    }
}

/// What running instances say: a sink that is halted is an error, whoever could connect everywhere.
async fn ask_instances(config: &Loaded, report: &mut CheckReport) {
    let http = &config.http;
    let own = Some(&http.listen).filter(|listen| !listen.is_empty());
    let token = match &config.token {
        None => own_token::read(config).unwrap_or_default(),
        Some(token) => token.reveal().clone(),
    };
    for address in own.into_iter().chain(&http.peers) {
        let told = match crate::cli::status::get(address, "/v1/status", &token).await {
            Ok(told) => told,
            Err(error) if error.code == Code::Unreachable => {
                report.ok("instance", &format!("none answers on {address}"));
                continue;
            }
            Err(error) => {
                report.error("instance", &error);
                continue;
            }
        };
        for (name, sink) in told["sinks"].as_object().into_iter().flatten() {
            let item = format!("sink.{name}");
            let state = sink["state"].as_str().unwrap_or("-");
            let error = &sink["last_error"];
            let text = |field: &str| error[field].as_str().unwrap_or_default();
            for (topic, why) in sink["stopped_topics"].as_object().into_iter().flatten() {
                let part = |field: &str| why[field].as_str().unwrap_or_default();
                let what = format!("{topic} is stopped on {address}: {}", part("message"));
                report.found(&item, &what, part("code"), part("hint"));
            }
            match state {
                "halted" => {
                    let what = format!("halted on {address}: {}", text("message"));
                    report.found(&item, &what, text("code"), text("hint"));
                }
                "retrying" => {
                    let what = format!("retries on {address}: {}", text("message"));
                    report.warning(&item, &what, text("hint"));
                }
                state => report.ok(&item, &format!("{state} on {address}")),
            }
        }
    }
}

async fn ask_kafka(config: &Loaded) -> Result<Topics, Trouble> {
    let client = client::asking(config)?;
    let answer = tokio::task::spawn_blocking(move || topics(&client)).await;
    answer.unwrap_or_else(|error| {
        Err(Trouble::new(
            Code::Unreachable,
            format!("kafka: {error}"),
            "Try again.",
        ))
    })
}
