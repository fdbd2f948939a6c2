//! `companion-sink topic`: what is in topics.

mod asking;
mod change;
mod list;
pub(crate) mod outcome;
mod show;
mod tail;

use clap::{Args, Subcommand};

use crate::cli::answer::Format;
use crate::cli::topic::outcome::TopicOutcome;
use crate::config::Loaded;
use crate::error::Result;
use crate::terminal::Color;

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct TopicCommand {
    #[command(subcommand)]
    question: Question,
    /// How to print it [default: table on a terminal, else json]
    #[arg(long, value_name = "FORMAT", global = true)]
    format: Option<Format>,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Topics with their events, newest event, table and retention
    ///
    /// Without PATTERN those that the sinks of the configuration follow, with their control events, positions and dead letters;
    /// where there are no sinks, all but Kafka's own. EVENTS counts offsets: what compaction removed and marks of transactions
    /// are among them.
    List(list::List),
    /// The newest events of a topic, oldest first
    ///
    /// Of any topic: what is no event of pg_cdc is shown as it is. The order is that of commits, else that in which records were sent.
    Tail(tail::Tail),
    /// One record whole: headers and what they mean, key, value, and what changed
    Show(show::Show),
}

impl TopicCommand {
    /// Prints the answer.
    pub(crate) async fn run(
        &self,
        config: &Loaded,
        json: bool,
        color: Color,
    ) -> Result<TopicOutcome> {
        let format = if json {
            Some(Format::Json)
        } else {
            self.format
        };
        match &self.question {
            Question::List(list) => list.run(config, format, color).await,
            Question::Tail(tail) => tail.run(config, format, color).await,
            Question::Show(show) => show.run(config, format, color).await,
        }
    }
}
