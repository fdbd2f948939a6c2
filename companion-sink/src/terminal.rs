//! What goes to the terminal: text that is safe to show, and when it has colours.

use clap::ValueEnum;
use std::io::IsTerminal;

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether to colour what goes to standard output.
    pub(crate) fn is_on(self) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if set("NO_COLOR") => false,
            Color::Auto => set("CLICOLOR_FORCE") || std::io::stdout().is_terminal(),
        }
    }
}

/// Text for standard output; a reader that went away (`| head`) is no error.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Nothing can be told to a reader that is gone.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Without control characters: what comes from a row must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    // The last ones turn the direction of writing: what stands there would look like something else.
    let is_odd =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| if is_odd(c) { '\u{fffd}' } else { c })
        .collect()
}
