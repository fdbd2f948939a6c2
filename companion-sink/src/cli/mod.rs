//! The command line.

use crate::terminal::Color;

mod answer;
pub(crate) mod check;
pub(crate) mod config;
mod dlq;
mod effects;
mod history;
pub(crate) mod page;
pub(crate) mod rebuild;
pub(crate) mod replay;
pub(crate) mod run;
mod statistics;
mod status;
pub(crate) mod topic;
mod weaknesses;

pub(crate) use crate::terminal::printable;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Turns the topics of pg_cdc into a MongoDB history, read models in MongoDB, a PostgreSQL replica, requests, mails, and figures.
#[derive(Debug, Parser)]
#[command(name = "companion-sink", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 check found an error, replay --dry-run a difference or status a halted sink, \
4 no such entity, event or topic, 5 Kafka or target out of reach, 130 interrupted."
)]
pub(crate) struct Arguments {
    /// Configuration file [default: ./companion-sink.toml, then /etc/companion-sink.toml]
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "COMPANION_SINK_CONFIG",
        global = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// One JSON object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Colours [NO_COLOR and CLICOLOR_FORCE are honoured]
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    pub(crate) color: Color,
    /// Log more
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Log only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run all sinks, or those named, until SIGTERM or SIGINT
    ///
    /// Events are applied in batches; the position is kept in the target with the data, so that neither a crash nor a
    /// second instance loses or doubles anything. A target that is out of reach is tried again without end. An event
    /// that cannot be applied goes to the topic <topic>.dlq, and the rest goes on; `dlq` decides what becomes of it. SIGHUP
    /// has rules and the files with secrets read again, and halted sinks try again.
    Run {
        /// Only this sink; may be given more than once
        #[arg(long = "sink", value_name = "NAME")]
        sinks: Vec<String>,
    },
    /// Read the configuration, connect everywhere and say what is wrong; one line per check
    Check {
        /// Only read the configuration
        #[arg(long)]
        offline: bool,
    },
    /// Print the effective configuration; of connection strings only where they lead
    Config {
        /// Print a file with every key and its default instead
        #[arg(long)]
        defaults: bool,
    },
    /// Ask the running instances what they are doing
    ///
    /// They are those of [http] listen and peers.
    Status(status::Status),
    /// Where the pages of the running instance are: a link that logs in
    ///
    /// The link is good for one login, within two minutes. The instance is that of [http] listen.
    Page,
    /// Ask the history: what rows were, who changed them, when and why
    ///
    /// With TABLE and KEY the timeline of a row, with TABLE the changes of a table, without both those of all tables.
    /// TABLE is the table's name, with or without schema and database. KEY is the plain value (42), a=1,b=2 for several
    /// columns, or JSON. VERSION is a number of the timeline; TIME is 2026-11-21T10:40:00Z, or 2026-11-21 10:40 in UTC.
    History(Box<history::Query>),
    /// Ask a sink of figures: what was counted, by period and group
    ///
    /// The running instances are asked, those of [http] listen and peers; where none runs, the store in the sink's folder.
    /// TIME is 2026-11, 2026-11-21 or 2026-11-21T10:40, in the sink's time zone, or 2026-11-21T10:40:00+01:00.
    Statistics(statistics::Asked),
    /// Events that a sink could not apply: list, show, retry, edit, skip
    ///
    /// A decision is noted in the target, with who made it, and carried out by the running instance: at once, or when it
    /// starts. ID is the event id, of which the beginning suffices. A history looks for decisions once a second.
    Dlq(dlq::DlqCommand),
    /// Requests and mails that are not sent yet: list, retry, skip
    ///
    /// They are the effects of sinks of kind webhook and mail. A decision is noted in Kafka, with who made it, and carried out by
    /// the running instance: at once, or when it starts. ID is the event id, of which the beginning suffices.
    Effects(effects::EffectsCommand),
    /// Build what a sink has from its topics once more
    ///
    /// A replica is built anew beside the tables that readers use; then, in one transaction, the rows that differ are brought to
    /// what was built. From the middle, only rows that changed since then are. Of a history the documents that are missing or
    /// different are written. The sink may run meanwhile. What differed is printed: with --dry-run that is all.
    Replay(replay::Replay),
    /// Build a view anew from its topics
    ///
    /// It is built beside the one that readers use, which it then replaces; so it is done after a change of the view's settings. The
    /// sink may run meanwhile. The documents from before are kept in a collection of their own (`COLLECTION__old`).
    Rebuild(rebuild::Rebuild),
    /// What is in the topics: list, tail, show
    ///
    /// Reads only, and needs only [kafka] of the configuration. What is open in a transaction of Kafka's is not shown.
    Topic(topic::TopicCommand),
}
