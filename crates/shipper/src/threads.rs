//! The threads of a session: a panic of one ends the session, and is told as what it is.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use change::code::Code;
use change::trouble::Trouble;

use crate::board::Board;
use crate::trouble::Failure;

/// What goes through values is recursive, and bounded (`change::value::kind::MOST_LEVELS`): this is many times what it takes.
const STACK_BYTES: usize = 4 * 1024 * 1024;
/// Of a panic's text.
const MOST_CHARACTERS: usize = 200;

/// Spawns a thread whose panic ends the session instead of going unseen.
pub fn spawn(
    name: &str,
    board: Arc<Board>,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES);
    thread.spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            board.fail(Failure::Panicked(Trouble::new(
                Code::SenderPanicked,
                format!("a thread of the sender panicked: {}", text_of(&*panic)),
                "Nothing: the sender starts again at its position. Report this with the server log.",
            )));
        }
    })
}

/// What a panic says, on one line and without what may be a row's value.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text.as_str(),
        (None, None) => "it does not say why",
    };
    let line = text.lines().next().unwrap_or_default();
    // The standard library shows a text that was cut where it cannot be.
    let line = match line.contains("byte index") {
        true => line.split('`').next().unwrap_or_default(),
        false => line,
    };
    line.chars().take(MOST_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_of(body: impl FnOnce() + Send + 'static) -> Option<Failure> {
        let board = Arc::new(Board::new().expect("a board"));
        let thread = spawn("panics", Arc::clone(&board), body).expect("a thread");
        thread.join().expect("the panic was caught");
        board.with_facts(|facts| facts.failure.take())
    }

    fn text(body: impl FnOnce() + Send + 'static) -> String {
        match told_of(body) {
            Some(Failure::Panicked(trouble)) => {
                assert_eq!(trouble.code, Code::SenderPanicked);
                trouble.message
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_panic_ends_the_session_with_its_text_and_a_code_of_its_own() {
        assert_eq!(told_of(|| ()), None);
        assert_eq!(
            text(|| panic!("part {} is missing\nsecond line", 7)),
            "a thread of the sender panicked: part 7 is missing"
        );
        let long = text(|| panic!("{}", "x".repeat(1000)));
        assert!(long.chars().count() < 250, "{long}");
        let other = text(|| std::panic::panic_any(7));
        assert!(other.ends_with("it does not say why"), "{other}");
    }

    #[test]
    fn the_text_of_a_panic_has_no_row() {
        let row = std::hint::black_box("the s\u{e9}cret".to_owned());
        let told = text(move || drop(row[..6].to_owned()));
        assert!(told.contains("byte index 6"), "{told}");
        assert!(!told.contains("cret"), "{told}");
    }
}
