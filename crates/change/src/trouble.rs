//! What went wrong, and what helps.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::code::Code;

/// An error, a warning, or something that is waited for. Holds neither a row's value nor a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    pub code: Code,
    /// What happened: lower case, no full stop.
    pub message: String,
    /// More about it: sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do about it: sentences.
    pub remedy: String,
}

impl Trouble {
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Trouble {
        Trouble {
            code,
            message: message.into(),
            detail: None,
            remedy: remedy.into(),
        }
    }

    /// Says more about it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Trouble {
        self.detail = Some(detail.into());
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl std::error::Error for Trouble {}
