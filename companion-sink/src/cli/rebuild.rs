//! `companion-sink rebuild`: builds a view anew from its topics.

use std::time::Instant;

use clap::Args;
use serde_json::json;
use tokio::sync::watch;

use crate::cli::replay::ReplayOutcome;
use crate::cli::run::{Signalled, Signals, choose};
use crate::config::{Kind, Loaded};
use crate::error::{Result, misconfigured};
use crate::progress::Progress;
use crate::replay::beginning::From;
use crate::replay::{Order, view};
use crate::terminal::print;

/// Which view to build anew.
#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    /// The sink, of kind mongo_view
    #[arg(value_name = "VIEW")]
    sink: String,
    /// Only drop the documents that the last rebuild kept
    #[arg(long)]
    drop_old: bool,
}

impl Rebuild {
    /// Does it.
    pub(crate) async fn run(&self, config: &Loaded, json: bool) -> Result<ReplayOutcome> {
        let names = [self.sink.clone()];
        let (name, sink) = choose(config, &names)?[0];
        let Kind::MongoView(settings) = &sink.kind else {
            return Err(misconfigured(
                format!("sink {name} is of kind {}, not a view", sink.kind_name()),
                format!("companion-sink replay --sink {name} --from BEGINNING"),
            ));
        };
        let (interrupt, stop) = watch::channel(false);
        let mut signals = Signals::new()?;
        tokio::spawn(async move {
            // Its rules and secrets are those with which it began.
            while signals.next().await == Signalled::ReadAgain {}
            // The receiver goes with the rebuild.
            let _ = interrupt.send(true);
        });
        let order = Order {
            config,
            name,
            sink,
            from: From::Beginning,
            is_dry_run: false,
            stop,
        };
        if self.drop_old {
            let said = match view::drop_old(&order, settings).await? {
                true => "the documents from before the last rebuild are dropped",
                false => "there were none from before a rebuild",
            };
            tell(
                json,
                &format!("{name}: {said}"),
                &json!({"event": "dropped", "sink": name}),
            );
            return Ok(ReplayOutcome::Done);
        }
        let began = Instant::now();
        let mut progress = Progress::new(json);
        let Some(rebuilt) = view::rebuild(&order, settings, &mut progress).await? else {
            eprintln!("companion-sink: interrupted; nothing was changed");
            return Ok(ReplayOutcome::Interrupted);
        };
        let seconds = began.elapsed().as_secs_f64();
        let said = format!(
            "{name}: built anew from {} records in {seconds:.1} s; what was there before is in {} until `companion-sink rebuild {name} --drop-old`",
            rebuilt.records, rebuilt.old
        );
        let done = json!({"event": "done", "sink": name, "records": rebuilt.records, "old": rebuilt.old, "seconds": seconds});
        tell(json, &said, &done);
        Ok(ReplayOutcome::Done)
    }
}

fn tell(json: bool, text: &str, object: &serde_json::Value) {
    match json {
        true => print(&format!("{object}\n")),
        false => print(&format!("{text}\n")),
    }
}
