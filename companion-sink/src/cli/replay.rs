//! `companion-sink replay`: builds what a sink has from the topics once more.

use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::time::Instant;

use change::trouble::Trouble;
use clap::Args;
use serde_json::json;
use tokio::sync::watch;

use crate::cli::answer::{Answer, Format, Look};
use crate::cli::run::{Signalled, Signals, choose};
use crate::config::{Kind, Loaded};
use crate::error::{Result, misconfigured};
use crate::progress::Progress;
use crate::replay::beginning::From;
use crate::replay::{Order, Report, history, replica};
use crate::terminal::Color;

const HEADER: &[&str] = &["TABLE", "INSERTED", "UPDATED", "DELETED"];

/// What to replay.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The sink
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// BEGINNING, topic:partition:offset, or a commit time such as 2026-11-21T10:40:00Z
    #[arg(long, value_name = "PLACE")]
    from: From,
    /// Only compare and print what differs; exit code 3 if anything does
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// How a replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplayOutcome {
    /// The content is what the topics say.
    Done,
    /// Only compared, and something differs.
    Different,
    /// Somebody did not want it, or interrupted it.
    Interrupted,
}

impl Replay {
    /// Does it.
    pub(crate) async fn run(
        &self,
        config: &Loaded,
        json: bool,
        color: Color,
    ) -> Result<ReplayOutcome> {
        let names = [self.sink.clone()];
        let (name, sink) = choose(config, &names)?[0];
        if !self.is_wanted(&sink.kind)? {
            return Ok(ReplayOutcome::Interrupted);
        }
        let (interrupt, stop) = watch::channel(false);
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            // Its rules and secrets are those with which it began.
            while signals.next().await == Signalled::ReadAgain {}
            // The receiver goes with the replay.
            let _ = interrupt.send(true);
        });
        let order = Order {
            config,
            name,
            sink,
            from: self.from.clone(),
            is_dry_run: self.dry_run,
            stop,
        };
        let began = Instant::now();
        let mut progress = Progress::new(json);
        let done = match &sink.kind {
            Kind::Postgres(settings) => replica::replay(&order, settings, &mut progress).await?,
            Kind::MongoHistory(settings) => {
                history::replay(&order, settings, &mut progress).await?
            }
            kind
            @ (Kind::MongoView(_) | Kind::Webhook(_) | Kind::Mail(_) | Kind::Statistics(_)) => {
                return Err(no_replay(name, kind));
            }
        };
        let Some(report) = done else {
            eprintln!("companion-sink: interrupted; {}", left_behind(&sink.kind));
            return Ok(ReplayOutcome::Interrupted);
        };
        let is_different = report.changes.iter().any(|changes| changes.total() > 0);
        self.print(&report, began.elapsed().as_secs_f64(), json, color)?;
        Ok(match self.dry_run && is_different {
            true => ReplayOutcome::Different,
            false => ReplayOutcome::Done,
        })
    }

    /// Whether whoever asked for it wants it.
    fn is_wanted(&self, kind: &Kind) -> Result<bool> {
        if self.yes || self.dry_run {
            return Ok(true);
        }
        if !(stdin().is_terminal() && stderr().is_terminal()) {
            return Err(misconfigured(
                format!("a replay changes what sink {} has", self.sink),
                "Add --yes, or --dry-run to compare only.",
            ));
        }
        let what = match kind {
            Kind::Postgres(_) => {
                "The tables of the replica are built anew, and rows that differ are replaced"
            }
            Kind::MongoHistory(_) => {
                "Documents of the history that are missing or different are written"
            }
            Kind::MongoView(_) | Kind::Webhook(_) | Kind::Mail(_) | Kind::Statistics(_) => {
                return Err(no_replay(&self.sink, kind));
            }
        };
        eprint!(
            "{what} (sink {}, from {}). Go on? [y/N] ",
            self.sink, self.from
        );
        let failed =
            |error: std::io::Error| misconfigured(format!("no answer: {error}"), "Add --yes.");
        stderr().flush().map_err(failed)?;
        let mut answer = String::new();
        stdin().read_line(&mut answer).map_err(failed)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    fn print(&self, report: &Report, seconds: f64, json: bool, color: Color) -> Result<()> {
        let mut answer = Answer::new(json.then_some(Format::Json), None, color, HEADER)?;
        for changes in &report.changes {
            let cells = vec![
                changes.table.clone(),
                changes.inserted.to_string(),
                changes.updated.to_string(),
                changes.deleted.to_string(),
            ];
            let object = || {
                json!({"event": "table", "table": changes.table, "inserted": changes.inserted,
                    "updated": changes.updated, "deleted": changes.deleted})
            };
            answer.row(object, cells, Look::Plain)?;
        }
        let changed: u64 = report.changes.iter().map(|changes| changes.total()).sum();
        if answer.is_json() {
            let done = json!({"event": "done", "sink": self.sink, "from": self.from.to_string(), "begun_at": report.begun_at,
                "dry_run": self.dry_run, "records": report.records, "changed": changed, "seconds": seconds});
            answer.text(&format!("{done}\n"))?;
        }
        let what = match (changed, self.dry_run) {
            (0, _) => "nothing differed".to_owned(),
            (changed, true) => format!("{changed} differ, nothing was changed"),
            (changed, false) => format!("{changed} were brought to what the topics say"),
        };
        answer.finish(&format!(
            "{}: {} records from {} on in {seconds:.1} s, {what}",
            self.sink, report.records, report.begun_at
        ))?;
        stdout().flush().or(Ok(()))
    }
}

/// What an interrupted replay leaves.
fn left_behind(kind: &Kind) -> &'static str {
    match kind {
        Kind::Postgres(_) | Kind::MongoView(_) => "nothing was changed",
        Kind::MongoHistory(_) | Kind::Webhook(_) | Kind::Mail(_) | Kind::Statistics(_) => {
            "what was written by then stays"
        }
    }
}

/// What was sent cannot be built anew; figures and views are, in ways of their own.
fn no_replay(sink: &str, kind: &Kind) -> Trouble {
    let hint = match kind {
        Kind::MongoView(_) => format!("companion-sink rebuild {sink}"),
        Kind::Statistics(_) => "Add a sink of another name with the same topics, which counts from their beginnings; remove this one when that is done.".to_owned(),
        _ => "Name a sink of kind postgres or mongo_history.".to_owned(),
    };
    misconfigured(
        format!("sink {sink} of kind {} is not replayed", kind.name()),
        hint,
    )
}
