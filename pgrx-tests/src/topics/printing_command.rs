//! A command that goes on and prints what it sees, until it is interrupted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::Process;
use crate::wait_until;

const TIMEOUT: Duration = Duration::from_secs(60);

/// One that runs.
#[derive(Debug)]
pub struct PrintingCommand {
    process: Process,
    output: PathBuf,
}

impl PrintingCommand {
    /// Starts it; what it prints goes to a file that nobody else writes.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: Command, output: &Path) -> PrintingCommand {
        let process = Process::start(
            "a command that prints",
            command,
            None,
            output,
            libc::SIGKILL,
        );
        PrintingCommand {
            process,
            output: output.to_owned(),
        }
    }

    /// What it has printed, in whole lines.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.output).expect("what it printed");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits until it has printed so many lines.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_lines(&self, count: usize) -> Vec<String> {
        wait_until("lines", TIMEOUT, || {
            let lines = self.lines();
            let text = lines.join("\n");
            (lines.len() >= count).then_some(lines).ok_or(text)
        })
    }

    /// As [`PrintingCommand::wait_for_lines`], of objects that have this field: what it logs is not among them.
    ///
    /// # Panics
    /// When it does not print so many.
    pub fn wait_for_objects(&self, field: &str, count: usize) -> Vec<Value> {
        wait_until("objects", TIMEOUT, || {
            let lines = self.lines();
            let objects = lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok());
            let objects: Vec<Value> = objects
                .filter(|object: &Value| object.get(field).is_some())
                .collect();
            (objects.len() >= count)
                .then_some(objects)
                .ok_or(lines.join("\n"))
        })
    }

    /// Interrupts it (SIGINT); its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn interrupt(self) -> Option<i32> {
        self.process.stop(libc::SIGINT, TIMEOUT).code()
    }

    /// Waits until it ends by itself; its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait_for_end(mut self) -> Option<i32> {
        let ended = || self.process.ended().ok_or("it runs");
        wait_until("the command to end", TIMEOUT, ended).code()
    }
}
