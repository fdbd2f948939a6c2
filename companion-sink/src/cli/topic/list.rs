//! `companion-sink topic list`.

use clap::Args;

use crate::cli::answer::{Answer, Format, Look};
use crate::cli::topic::outcome::TopicOutcome;
use crate::config::Loaded;
use crate::error::Result;
use crate::terminal::Color;
use crate::timestamp::rfc3339;
use crate::topic::in_words::when;
use crate::topic::list::{Overview, overview};

const HEADER: &[&str] = &[
    "TOPIC",
    "KIND",
    "TABLE",
    "PARTITIONS",
    "EVENTS",
    "NEWEST (UTC)",
    "CLEANUP",
    "RETENTION",
];

/// Which topics.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Any topics of this name, in which * stands for any text
    #[arg(value_name = "PATTERN")]
    pattern: Option<String>,
}

impl List {
    pub(super) async fn run(
        &self,
        config: &Loaded,
        format: Option<Format>,
        color: Color,
    ) -> Result<TopicOutcome> {
        let mut answer = Answer::new(format, None, color, HEADER)?;
        for one in overview(config, self.pattern.as_deref()).await? {
            answer.row(|| one.json(), cells(&one), Look::Plain)?;
        }
        let count = answer.count();
        let plural = if count == 1 { "" } else { "s" };
        answer.finish(&format!("{count} topic{plural}"))?;
        if count > 0 {
            return Ok(TopicOutcome::Found);
        }
        let what = match &self.pattern {
            Some(pattern) => format!("no topic matches {pattern}"),
            None => "no topic that a sink follows; `topic list '*'` lists all".to_owned(),
        };
        eprintln!("companion-sink: {}", crate::cli::printable(&what));
        Ok(TopicOutcome::Nothing)
    }
}

fn cells(one: &Overview) -> Vec<String> {
    let none = || "-".to_owned();
    vec![
        one.topic.clone(),
        one.kind.name().to_owned(),
        one.table.clone().unwrap_or_else(none),
        one.partitions.to_string(),
        one.events.map_or_else(none, |events| events.to_string()),
        one.newest_us.map_or_else(none, |us| when(&rfc3339(us))),
        one.settings.cleanup.clone().unwrap_or_else(none),
        one.settings.retention_ms.map_or_else(none, retention),
    ]
}

/// `7d`, in the largest unit that divides it.
fn retention(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "min"),
        (1000, "s"),
    ];
    match UNITS.iter().find(|(unit, _)| ms > 0 && ms % unit == 0) {
        _ if ms < 0 => "for ever".to_owned(),
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_told_in_large_units() {
        for (ms, told) in [
            (604_800_000, "7d"),
            (5_400_000, "90min"),
            (-1, "for ever"),
            (1500, "1500ms"),
            (0, "0ms"),
        ] {
            assert_eq!(retention(ms), told);
        }
    }
}
