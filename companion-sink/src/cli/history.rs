//! `companion-sink history`

use clap::{Args, ValueEnum};

use super::Color;
use crate::config::Config;
use crate::error::Result;

/// Which timeline to show.
#[derive(Debug, Args)]
pub struct Query {
    /// The table
    table: String,
    /// The row's key
    key: String,
    /// Versions at most, the newest
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: u32,
    /// How to print it [default: table on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

/// How to print a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One document per line.
    Json,
    /// For spreadsheets.
    Csv,
}

impl Query {
    /// Prints the timeline; false when there is none.
    pub async fn run(&self, _config: &Config, _json: bool, _color: Color) -> Result<bool> {
        Ok(false)
    }
}
