//! `companion-sink statistics`: what a sink of figures has counted.

use std::path::PathBuf;

use change::trouble::Trouble;
use clap::Args;
use serde_json::{Map, Value};

use crate::cli::answer::{Answer, Format, Look};
use crate::cli::status::get;
use crate::config::{Kind, Loaded, StatisticsSettings, nearest};
use crate::error::{Code, Result, misconfigured};
use crate::http::access::own_token;
use crate::statistics::count::design::Design;
use crate::statistics::kept::store::Store;
use crate::statistics::question::Question;
use crate::terminal::Color;

/// What is asked for.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// The sink
    #[arg(value_name = "NAME")]
    sink: String,
    /// From the period on that this time is in
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Periods that begin before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Only where a column of group_by is this; may be given more than once
    #[arg(long = "group", value_name = "COLUMN=VALUE")]
    groups: Vec<String>,
    /// CSV, for spreadsheets
    #[arg(long)]
    csv: bool,
    /// Into a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A part of an answer, and what to ask for next.
struct AnswerPage {
    rows: Vec<Map<String, Value>>,
    next: Option<String>,
    /// The commit time up to which everything is counted.
    complete: Option<String>,
}

/// Who answers.
enum Source {
    Instance(String),
    Store(Box<(Design, Store)>),
}

impl Asked {
    /// Prints what was counted.
    pub(crate) async fn run(&self, config: &Loaded, json: bool, color: Color) -> Result<()> {
        let settings = self.settings(config)?;
        let columns = settings.columns();
        let header: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let (source, mut page) = self.first_page(config, settings).await?;
        let format = match (self.csv, json) {
            (true, _) => Some(Format::Csv),
            (false, true) => Some(Format::Json),
            (false, false) => None,
        };
        let mut answer = Answer::new(format, self.output.as_deref(), color, &columns)?;
        answer.set_header(header);
        loop {
            for row in &page.rows {
                let cells = columns.iter().map(|name| cell(&row[*name])).collect();
                answer.row(|| Value::Object(row.clone()), cells, Look::Plain)?;
            }
            let Some(next) = page.next.take() else { break };
            page = self.page(config, &source, Some(&next)).await?;
        }
        let up_to = match &page.complete {
            Some(time) => format!(", everything up to {time}"),
            None => String::new(),
        };
        let title = format!(
            "{}: by {}, {}{up_to}",
            self.sink,
            settings.period.name(),
            settings.time_zone.name()
        );
        answer.finish(&title)
    }

    fn settings<'c>(&self, config: &'c Loaded) -> Result<&'c StatisticsSettings> {
        let figures = config
            .sinks
            .iter()
            .filter_map(|(name, sink)| match &sink.kind {
                Kind::Statistics(settings) => Some((name.as_str(), settings)),
                _ => None,
            });
        let figures: Vec<(&str, &StatisticsSettings)> = figures.collect();
        let found = figures.iter().find(|(name, _)| *name == self.sink);
        let (_, settings) = found.ok_or_else(|| {
            let names: Vec<&str> = figures.iter().map(|(name, _)| *name).collect();
            let near = nearest(&self.sink, names.iter().copied());
            let meant = near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
            misconfigured(
                format!("no sink \"{}\" of kind statistics{meant}", self.sink),
                format!("Known: {}.", names.join(", ")),
            )
        })?;
        Ok(settings)
    }

    /// Asks the instances one after the other, then the store.
    async fn first_page(
        &self,
        config: &Loaded,
        settings: &StatisticsSettings,
    ) -> Result<(Source, AnswerPage)> {
        let own = Some(&config.http.listen).filter(|listen| !listen.is_empty());
        let mut away = None;
        for address in own.into_iter().chain(&config.http.peers) {
            let source = Source::Instance(address.clone());
            match self.page(config, &source, None).await {
                Ok(page) => return Ok((source, page)),
                Err(error) if error.code == Code::Unreachable => away = Some(error),
                Err(error) => return Err(error),
            }
        }
        let store = Store::open_existing(&settings.store, &self.sink)?;
        let Some(store) = store else {
            return Err(away.unwrap_or_else(|| {
                Trouble::new(
                    Code::Unreachable,
                    format!(
                        "sink {} has counted nothing in {}",
                        self.sink, settings.store
                    ),
                    "Start `companion-sink run`, or let [http] peers name the instance.",
                )
            }));
        };
        let design =
            Design::new(settings).map_err(|why| misconfigured(why, "Change where of the sink."))?;
        let source = Source::Store(Box::new((design, store)));
        let page = self.page(config, &source, None).await?;
        Ok((source, page))
    }

    async fn page(
        &self,
        config: &Loaded,
        source: &Source,
        after: Option<&str>,
    ) -> Result<AnswerPage> {
        let named = [("from", self.from.as_deref()), ("to", self.to.as_deref())];
        let named = named.into_iter().chain([("after", after)]);
        let named = named.filter_map(|(name, value)| Some((name, value?)));
        let groups = self.groups.iter().map(|group| ("group", group.as_str()));
        let parameters = named.chain(groups);
        match source {
            Source::Store(opened) => {
                let (design, store) = &**opened;
                let question = Question::parse(design, parameters)?;
                let page = question.ask(design, &store.snapshot()?)?;
                Ok(AnswerPage {
                    rows: page.rows,
                    next: page.next,
                    complete: None,
                })
            }
            Source::Instance(address) => {
                let parameters =
                    parameters.map(|(name, value)| format!("{name}={}", escaped(value)));
                let query = parameters.collect::<Vec<_>>().join("&");
                let path = format!("/v1/statistics/{}?{query}", escaped(&self.sink));
                let token = match &config.token {
                    None => own_token::read(config).unwrap_or_default(),
                    Some(token) => token.reveal().clone(),
                };
                answered(get(address, &path, &token).await?)
            }
        }
    }
}

/// An answer, or the problem that came instead.
fn answered(mut answer: Value) -> Result<AnswerPage> {
    let Value::Array(rows) = answer["rows"].take() else {
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        let code = match answer["status"].as_u64() {
            Some(400) => Code::Configuration,
            // Perhaps another instance has it.
            Some(404 | 503) => Code::Unreachable,
            _ => Code::TargetRefuses,
        };
        return Err(Trouble::new(code, text("title"), text("detail")));
    };
    let object = |row: Value| match row {
        Value::Object(row) => Some(row),
        _ => None,
    };
    let complete = answer["complete_up_to"]["commit_time"].as_str();
    Ok(AnswerPage {
        rows: rows.into_iter().filter_map(object).collect(),
        next: answer["next"].as_str().map(str::to_owned),
        complete: complete.map(str::to_owned),
    })
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Of an address: what is no letter and no digit as percent and two digits.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_rows_or_a_problem() {
        let page = answered(json!({"rows": [{"count": 1}], "next": "x"})).unwrap();
        assert_eq!((page.rows.len(), page.next.as_deref()), (1, Some("x")));
        let wrong = answered(json!({"status": 400, "title": "no", "detail": "do"}));
        let error = wrong.err().unwrap();
        assert_eq!((error.code, &*error.message), (Code::Configuration, "no"));
        assert_eq!(escaped("2026-11-21T10:40+01"), "2026-11-21T10%3A40%2B01");
    }
}
