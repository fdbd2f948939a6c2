//! How far a long command is: a bar on a terminal; elsewhere a line of JSON now and then, or nothing; of what `run` does first, a
//! line of the log.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::status::rate::Rate;

const BAR_CHARS: usize = 24;
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// Tells people how far a command is.
pub(crate) struct Progress {
    look: ProgressForm,
    stage: &'static str,
    /// What is counted.
    things: &'static str,
    /// So many in all.
    of: u64,
    rate: Rate,
    told: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ProgressForm {
    Bar,
    Lines,
    Nothing,
    Log,
}

impl Progress {
    /// Of a replay that has not begun; `json` if somebody asked for that.
    pub(crate) fn new(json: bool) -> Progress {
        let is_for_people = !json && io::stdout().is_terminal() && io::stderr().is_terminal();
        Progress::of(match is_for_people {
            true => ProgressForm::Bar,
            false => ProgressForm::Lines,
        })
    }

    /// Of a command whose output is its answer alone: how many `things` are done goes to a terminal, or nowhere.
    pub(crate) fn beside_answer(stage: &'static str, things: &'static str) -> Progress {
        let look = match io::stderr().is_terminal() {
            true => ProgressForm::Bar,
            false => ProgressForm::Nothing,
        };
        Progress {
            stage,
            things,
            ..Progress::of(look)
        }
    }

    /// Of a part of something that tells it.
    pub(crate) fn nowhere() -> Progress {
        Progress::of(ProgressForm::Nothing)
    }

    fn of(look: ProgressForm) -> Progress {
        Progress {
            look,
            stage: "",
            things: "records",
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
            ProgressForm::Nothing => {}
            ProgressForm::Log => tracing::info!("{stage}"),
        }
    }

    /// So many are to be done in all.
    pub(crate) fn set_total(&mut self, of: u64) {
        self.of = of;
    }

    /// So many are done.
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
                let counted = format!("{done} of {of} {}", self.things);
                let bar = bar(
                    self.stage,
                    share(done, of),
                    &counted,
                    per_second,
                    seconds_left,
                );
                draw(&format!("\r\x1b[K{bar}"));
            }
            ProgressForm::Lines => {
                let line = json!({"event": "progress", "stage": self.stage, "done": done, "of": of,
                    "per_second": per_second.round(), "seconds_left": seconds_left});
                crate::terminal::print(&format!("{line}\n"));
            }
            ProgressForm::Nothing => {}
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

fn share(done: u64, of: u64) -> f64 {
    done as f64 / of.max(1) as f64
}

fn bar(
    stage: &str,
    share: f64,
    counted: &str,
    per_second: f64,
    seconds_left: Option<f64>,
) -> String {
    let full = ((share * BAR_CHARS as f64) as usize).min(BAR_CHARS);
    let left = seconds_left.map_or_else(String::new, |seconds| {
        let seconds = seconds as u64;
        format!("  {}:{:02} left", seconds / 60, seconds % 60)
    });
    format!(
        "{stage} [{}{}] {:3.0} %  {counted}  {per_second:.0}/s{left}",
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
            bar(
                "reading",
                share(250, 1000),
                "250 of 1000 records",
                100.4,
                Some(75.0)
            ),
            "reading [######..................]  25 %  250 of 1000 records  100/s  1:15 left"
        );
        assert!(bar("reading", share(0, 0), "0", 0.0, None).contains("  0 %"));
    }
}
