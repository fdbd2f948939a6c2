//! What the demo shows: services with a spinner while they start, lines of the scenario, colour on a terminal only.

use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// Where the second service of a line begins.
const COLUMN: usize = 78;

/// Standard output, and whether it is a terminal.
pub(crate) struct Screen {
    is_terminal: bool,
    has_colour: bool,
}

/// A service that was started.
pub(crate) struct Started {
    name: String,
    took: Duration,
    address: String,
}

impl Started {
    /// A service, how long its start took, and how to reach it.
    pub(crate) fn new(
        name: impl Into<String>,
        took: Duration,
        address: impl Into<String>,
    ) -> Started {
        Started {
            name: name.into(),
            took,
            address: address.into(),
        }
    }
}

impl Screen {
    /// Standard output.
    pub(crate) fn new() -> Screen {
        let is_terminal = stdout().is_terminal();
        Screen {
            is_terminal,
            has_colour: is_terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// Does the work, with a spinner and the time on a terminal.
    pub(crate) fn wait<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            if self.is_terminal {
                scope.spawn(|| self.spin(what, &done));
            }
            // Also when the work panics: else the scope would wait for the spinner without end.
            let _stop = SetAtEnd(&done);
            work()
        })
    }

    /// One line of started services.
    pub(crate) fn services(&self, services: &[Started]) {
        let mut line = String::new();
        let mut width = 0;
        for (i, service) in services.iter().enumerate() {
            let seconds = format!("{:.1} s", service.took.as_secs_f64());
            let plain = format!(" ✓ {}   {seconds}   {}", service.name, service.address);
            if i > 0 {
                let gap = if services.len() == 2 {
                    COLUMN.saturating_sub(width)
                } else {
                    0
                };
                line.push_str(&" ".repeat(gap.max(2)));
            }
            width += plain.chars().count();
            line.push_str(&format!(
                " {} {}   {}   {}",
                self.paint("32", "✓"),
                self.paint("1", &service.name),
                self.paint("2", &seconds),
                service.address
            ));
        }
        self.line(line);
    }

    /// A line.
    pub(crate) fn line(&self, text: impl Display) {
        println!("{text}");
    }

    /// A line of the scenario: what is done, then what became of it (added when `play` has ended).
    pub(crate) fn scene(&self, what: &str, play: impl FnOnce() -> String) {
        if self.is_terminal {
            print!(" {what:<100}");
            // A terminal that is gone is noticed at the next line.
            let _ = stdout().flush();
            println!("  {}", self.paint("36", &play()));
        } else {
            println!(" {what:<100}  {}", play());
        }
    }

    /// The text in a colour (an SGR number), on a terminal.
    pub(crate) fn paint(&self, colour: &str, text: &str) -> String {
        if self.has_colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn spin(&self, what: &str, done: &AtomicBool) {
        let start = Instant::now();
        for frame in FRAMES.iter().cycle() {
            print!(
                "\r {frame} {what}   {:.1} s\x1b[K",
                start.elapsed().as_secs_f64()
            );
            let _ = stdout().flush();
            thread::sleep(Duration::from_millis(80));
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
        print!("\r\x1b[K");
        let _ = stdout().flush();
    }
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
