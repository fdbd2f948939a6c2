//! Outcomes of the examples: each looked at, said, and counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::screen::Screen;

/// How many were as they should be.
pub(crate) struct Outcomes<'a> {
    screen: &'a Screen,
    passed: u32,
    failed: Vec<String>,
    example: &'static str,
    start: Instant,
}

impl<'a> Outcomes<'a> {
    /// None yet.
    pub(crate) fn new(screen: &'a Screen) -> Outcomes<'a> {
        Outcomes {
            screen,
            passed: 0,
            failed: Vec::new(),
            example: "",
            start: Instant::now(),
        }
    }

    /// Starts an example; that it starts is its first outcome.
    pub(crate) fn start<T>(
        &mut self,
        example: &'static str,
        start: impl FnOnce() -> T,
    ) -> Option<T> {
        self.example = example;
        let mut started = None;
        self.check("starts", || {
            started = Some(start());
            String::new()
        });
        started
    }

    /// Looks at one outcome: `look` panics when it is not as it should be, and returns what was seen or measured, which may
    /// be nothing.
    pub(crate) fn check(&mut self, what: &str, look: impl FnOnce() -> String) {
        let start = Instant::now();
        // The panic's text is printed by the hook.
        let seen = self
            .screen
            .wait(what, || catch_unwind(AssertUnwindSafe(look)));
        let seconds = start.elapsed().as_secs_f64();
        let (mark, colour, seen) = match seen {
            Ok(seen) => {
                self.passed += 1;
                ("✓", "32", seen)
            }
            Err(_) => {
                self.failed.push(format!("{}: {what}", self.example));
                ("✗", "31", String::new())
            }
        };
        let line = format!(
            " {} {what:<78} {seconds:>6.1} s  {seen}",
            self.screen.paint(colour, mark)
        );
        self.screen.line(line.trim_end());
    }

    /// Says how many there were; whether all were right.
    pub(crate) fn close(self) -> bool {
        for failed in &self.failed {
            self.screen
                .line(format!(" {} {failed}", self.screen.paint("31", "✗")));
        }
        self.screen.line(format!(
            "{} passed, {} failed ({:.1} min)",
            self.passed,
            self.failed.len(),
            self.start.elapsed().as_secs_f64() / 60.0
        ));
        self.failed.is_empty()
    }
}
