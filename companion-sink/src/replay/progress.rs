//! How far a replay is: a bar on a terminal, a line of JSON now and then elsewhere; of what `run` does first, a line of the log.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::status::rate::Rate;

const BAR_CHARS: usize = 24;
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// Tells people how far a replay is.
pub(crate) struct Progress {
    look: ProgressForm,
    stage: &'static str,
    /// Records to be read in all.
    of: u64,
    rate: Rate,
    told: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ProgressForm {
    Bar,
    Lines,
    Log,
}

impl Progress {
    /// Of a replay that has not begun; `json` if somebody asked for that.
    pub(crate) fn new(json: bool) -> Progress {
        let is_for_people = !json && io::stdout().is_terminal() && io::stderr().is_terminal();
        Progress {
            look: match is_for_people {
                true => ProgressForm::Bar,
                false => ProgressForm::Lines,
            },
            stage: "",
            of: 0,
            rate: Rate::default(),
            told: None,
        }
    }

    /// Of something that `run` does before it can begin.
    pub(crate) fn of_run() -> Progress {
        Progress {
            look: match io::stderr().is_terminal() {
                true => ProgressForm::Bar,
                false => ProgressForm::Log,
            },
            ..Progress::new(true)
        }
    }

    /// Another part of the work begins.
    pub(crate) fn set_stage(&mut self, stage: &'static str) {
        self.clear();
        self.stage = stage;
        self.told = None;
        match self.look {
            ProgressForm::Bar => draw(&format!("{stage} …")),
            ProgressForm::Lines => {
                crate::terminal::print(&format!("{}\n", json!({"event": "stage", "stage": stage})))
            }
            ProgressForm::Log => tracing::info!("{stage}"),
        }
    }

    /// So many records are to be read in all.
    pub(crate) fn set_total(&mut self, records: u64) {
        self.of = records;
    }

    /// So many are read.
    pub(crate) fn show(&mut self, done: u64) {
        let now = Instant::now();
        self.rate.note(now, done);
        let is_due = |told: Instant| now - told >= JSON_INTERVAL;
        if self.look != ProgressForm::Bar && !self.told.is_none_or(is_due) {
            return;
        }
        self.told = Some(now);
        let per_second = self.rate.per_second(now);
        let of = self.of.max(done);
        let seconds_left = (per_second > 0.0).then(|| ((of - done) as f64 / per_second).ceil());
        match self.look {
            ProgressForm::Bar => {
                let bar = bar(self.stage, done, of, per_second, seconds_left);
                draw(&format!("\r\x1b[K{bar}"));
            }
            ProgressForm::Lines => {
                let line = json!({"event": "progress", "stage": self.stage, "done": done, "of": of,
                    "per_second": per_second.round(), "seconds_left": seconds_left});
                crate::terminal::print(&format!("{line}\n"));
            }
            ProgressForm::Log => {
                let per_second = per_second.round();
                tracing::info!(done, of, per_second, seconds_left, "{}", self.stage);
            }
        }
    }

    /// Nothing more is told in this place.
    pub(crate) fn clear(&mut self) {
        if self.look == ProgressForm::Bar {
            draw("\r\x1b[K");
        }
    }
}

/// To a terminal; when that is gone, nobody needs to see it.
fn draw(text: &str) {
    let mut terminal = io::stderr().lock();
    let _ = terminal
        .write_all(text.as_bytes())
        .and_then(|()| terminal.flush());
}

fn bar(stage: &str, done: u64, of: u64, per_second: f64, seconds_left: Option<f64>) -> String {
    let share = done as f64 / of.max(1) as f64;
    let full = ((share * BAR_CHARS as f64) as usize).min(BAR_CHARS);
    let left = seconds_left.map_or_else(String::new, |seconds| {
        let seconds = seconds as u64;
        format!("  {}:{:02} left", seconds / 60, seconds % 60)
    });
    format!(
        "{stage} [{}{}] {:3.0} %  {done} of {of} records  {per_second:.0}/s{left}",
        "#".repeat(full),
        ".".repeat(BAR_CHARS - full),
        share * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_how_much_is_left() {
        assert_eq!(
            bar("reading", 250, 1000, 100.4, Some(75.0)),
            "reading [######..................]  25 %  250 of 1000 records  100/s  1:15 left"
        );
        assert!(bar("reading", 0, 0, 0.0, None).contains("0 of 0"));
    }
}
