//! What went wrong, and what helps.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::code::Code;

/// An error, a warning, or something that is waited for. Holds neither a row's value nor a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub code: Code,
    /// What happened: lower case, no full stop, one line.
    pub message: String,
    /// More about it: sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do about it: sentences, on one line.
    pub remedy: String,
}

impl Trouble {
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Trouble {
        Trouble {
            code,
            message: on_one_line(message.into()),
            detail: None,
            remedy: on_one_line(remedy.into()),
        }
    }

    /// Says more about it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Trouble {
        self.detail = Some(detail.into());
        self
    }
}

/// Names of tables and columns may hold anything. What a person copies from here, into psql for example, is one line.
fn on_one_line(text: String) -> String {
    match text.contains(char::is_control) {
        true => text.replace(char::is_control, "\u{fffd}"),
        false => text,
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl std::error::Error for Trouble {}
