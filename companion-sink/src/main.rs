//! companion-sink: turns the topics of pg_cdc into a MongoDB history, read models in MongoDB, a PostgreSQL replica, requests,
//! mails, and figures by period.
//!
//! A record passes through these folders in this order: `kafka` (which partitions there are, and what is read of them),
//! `delivery` (order, copies, batches), `event` (headers and body), then one of `sink`, or `effect`. What cannot be applied, or what
//! a `rule` rejects, goes through `rejected` to the dead letters. `statistics` counts, and says what it has counted. `history`,
//! `dlq`, `topic` and `replay` answer and carry out what people ask for through `cli` and `http`; `config` says how everything is
//! set, `status` what it does.

mod cli;
mod config;
mod delivery;
mod dlq;
mod effect;
mod error;
mod event;
mod history;
mod http;
mod kafka;
mod progress;
mod rejected;
mod reload;
mod replay;
mod rule;
mod sink;
mod statistics;
mod status;
mod terminal;
mod timestamp;
mod topic;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::check::Verdict;
use crate::cli::replay::ReplayOutcome;
use crate::cli::topic::outcome::TopicOutcome;
use crate::cli::{Arguments, Command};
use crate::config::{Loaded, LogFormat};
use crate::error::{Code, Result, misconfigured};
use crate::reload::Reloader;

const FAILED: u8 = 1;
const WRONG_CONFIGURATION: u8 = 2;
const CHECK_FOUND_ERROR: u8 = 3;
const NOT_FOUND: u8 = 4;
const OUT_OF_REACH: u8 = 5;
const INTERRUPTED: u8 = 130;

/// glibc keeps a heap for each thread that ever allocated, and gives none of them back: with our batches, which one
/// thread makes and another drops, that is most of the memory.
#[cfg(target_env = "gnu")]
fn share_heaps() {
    const HEAPS_MAX: libc::c_int = 2;
    // SAFETY: called before any other thread exists; a refused value changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX);
    }
}

#[cfg(not(target_env = "gnu"))]
fn share_heaps() {}

/// Where an internal error is goes to the log; its own text may quote what an event holds.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |place| {
            let file = place.file();
            let file = file.rsplit_once("src/").map_or(file, |(_, file)| file);
            format!("{file}:{}", place.line())
        });
        tracing::error!(place, "internal error");
    }));
}

fn main() -> ExitCode {
    share_heaps();
    log_panics();
    let arguments = Arguments::parse();
    match execute(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let (error_text, hint) = (error.to_string(), &error.remedy);
            eprintln!(
                "companion-sink: {}\n  {}",
                cli::printable(&error_text),
                cli::printable(hint)
            );
            ExitCode::from(match error.code {
                Code::Configuration | Code::SecretFile => WRONG_CONFIGURATION,
                Code::Unreachable => OUT_OF_REACH,
                _ => FAILED,
            })
        }
    }
}

fn execute(arguments: &Arguments) -> Result<u8> {
    if let Command::Config { defaults: true } = arguments.command {
        cli::config::defaults();
        return Ok(0);
    }
    let file = arguments.config.as_deref();
    let config = match arguments.command {
        Command::Topic(_) => Loaded::read_for_kafka(file)?,
        _ => reload::load(file)?,
    };
    start_log(arguments, &config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))?;
    let code = runtime.block_on(carry_out(arguments, &config));
    // A thread that still waits for Kafka must not hold the process.
    runtime.shutdown_background();
    code
}

/// Does what the command line says; the exit code.
async fn carry_out(arguments: &Arguments, config: &Loaded) -> Result<u8> {
    match &arguments.command {
        Command::Run { sinks } => {
            let reloader = Reloader::new(config, arguments.config.clone())?;
            cli::run::run(config, reloader, sinks).await.map(|()| 0)
        }
        Command::Check { offline } => Ok(
            match cli::check::check(config, arguments.json, *offline).await {
                Verdict::Ok => 0,
                Verdict::Error => CHECK_FOUND_ERROR,
                Verdict::Unreachable => OUT_OF_REACH,
            },
        ),
        Command::Config { .. } => {
            cli::config::effective(config)?;
            Ok(0)
        }
        Command::Status(status) => {
            let all_work = status.run(config, arguments.json, arguments.color).await?;
            Ok(if all_work { 0 } else { CHECK_FOUND_ERROR })
        }
        Command::Page => {
            cli::page::run(config, arguments.json).await?;
            Ok(0)
        }
        Command::Statistics(asked) => {
            asked.run(config, arguments.json, arguments.color).await?;
            Ok(0)
        }
        Command::Dlq(dlq) => {
            let found = dlq.run(config, arguments.json, arguments.color).await?;
            Ok(if found { 0 } else { NOT_FOUND })
        }
        Command::Effects(effects) => {
            let found = effects.run(config, arguments.json, arguments.color).await?;
            Ok(if found { 0 } else { NOT_FOUND })
        }
        Command::Replay(replay) => {
            let outcome = replay.run(config, arguments.json, arguments.color).await?;
            Ok(match outcome {
                ReplayOutcome::Done => 0,
                ReplayOutcome::Different => CHECK_FOUND_ERROR,
                ReplayOutcome::Interrupted => INTERRUPTED,
            })
        }
        Command::Rebuild(rebuild) => {
            let outcome = rebuild.run(config, arguments.json).await?;
            Ok(match outcome {
                ReplayOutcome::Interrupted => INTERRUPTED,
                ReplayOutcome::Done | ReplayOutcome::Different => 0,
            })
        }
        Command::History(query) => {
            let found = query.run(config, arguments.json, arguments.color).await?;
            Ok(if found { 0 } else { NOT_FOUND })
        }
        Command::Topic(topic) => {
            let outcome = topic.run(config, arguments.json, arguments.color).await?;
            Ok(match outcome {
                TopicOutcome::Found => 0,
                TopicOutcome::Nothing => NOT_FOUND,
                TopicOutcome::Interrupted => INTERRUPTED,
            })
        }
    }
}

/// Logs go to standard error: text on a terminal, JSON elsewhere.
fn start_log(arguments: &Arguments, log: &config::Log) {
    let level = match (arguments.verbose, arguments.quiet) {
        (true, _) => "debug",
        (_, true) => "error",
        // A bar is drawn where the log goes.
        _ if matches!(
            arguments.command,
            Command::Replay(_) | Command::Rebuild(_) | Command::Topic(_)
        ) && std::io::stderr().is_terminal() =>
        {
            "warn"
        }
        _ => log.level.name(),
    };
    let filter = EnvFilter::new(format!(
        "warn,rdkafka=error,librdkafka=error,companion_sink={level}"
    ));
    let json = match log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
