//! `[sink.NAME]` of the kinds whose events have an effect elsewhere: `webhook` and `mail`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::shown_url::Url;
use crate::config::units::{count, duration, size};

/// What these kinds share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EffectSettings {
    /// The operations that have an effect.
    pub(crate) on: Vec<EffectOp>,
    /// A condition on the event; empty for none.
    pub(crate) when: String,
    /// Where the sink begins when it starts for the first time.
    pub(crate) begin: EffectBegin,
    /// How long an attempt may take.
    #[serde(with = "duration")]
    pub(crate) timeout: Duration,
    /// The pauses between attempts.
    pub(crate) retry: RetrySettings,
    /// Attempts at once.
    #[serde(deserialize_with = "count")]
    pub(crate) concurrency: u32,
    /// Bytes of events that wait at most; beyond, nothing more is read.
    #[serde(with = "size")]
    pub(crate) max_waiting: u64,
}

/// An operation that can have an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EffectOp {
    /// A row came to be.
    C,
    /// A row changed.
    U,
    /// A row was deleted.
    D,
    /// A snapshot read a row.
    R,
}

/// `begin`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EffectBegin {
    /// What is in the topics when the sink starts for the first time has no effect.
    Now,
    /// What is in the topics has an effect, too.
    Beginning,
}

/// `retry`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetrySettings {
    /// The pause after the first attempt.
    #[serde(with = "duration")]
    pub(crate) initial: Duration,
    /// The longest pause.
    #[serde(with = "duration")]
    pub(crate) max: Duration,
}

/// What a `webhook` sink has of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WebhookSettings {
    /// What it shares with the other kinds of effects.
    #[serde(flatten)]
    pub(crate) effect: EffectSettings,
    /// A file with the secret that requests are signed with, mode 0600; empty for none.
    pub(crate) secret_file: String,
    /// The body's template; empty for the event's value as it is.
    pub(crate) body: String,
    /// A file that has the template instead.
    pub(crate) body_file: String,
    /// What the body is.
    pub(crate) content_type: ContentType,
}

/// `content_type`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ContentType(pub(crate) String);

/// What a `mail` sink has of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MailSettings {
    /// What it shares with the other kinds of effects.
    #[serde(flatten)]
    pub(crate) effect: EffectSettings,
    /// The server: smtp://, starttls:// or smtps://, with host and port.
    pub(crate) smtp: Url,
    /// Who logs in there; empty for nobody.
    pub(crate) user: String,
    /// A file with the user's password, mode 0600.
    pub(crate) password_file: String,
    /// The sender's address.
    pub(crate) from: String,
    /// Templates of the receivers' addresses, one each.
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) to: Vec<String>,
    /// The subject's template.
    pub(crate) subject: String,
    /// The text's template.
    pub(crate) body: String,
    /// A file that has it instead.
    pub(crate) body_file: String,
    /// The template of the same in HTML; empty for none.
    pub(crate) html: String,
    /// A file that has it instead.
    pub(crate) html_file: String,
}

impl EffectOp {
    /// Its name in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EffectOp::C => "c",
            EffectOp::U => "u",
            EffectOp::D => "d",
            EffectOp::R => "r",
        }
    }
}

impl Default for EffectSettings {
    fn default() -> Self {
        EffectSettings {
            on: vec![EffectOp::C],
            when: String::new(),
            begin: EffectBegin::Now,
            timeout: Duration::from_secs(10),
            retry: RetrySettings::default(),
            concurrency: 8,
            max_waiting: 64 << 20,
        }
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        RetrySettings {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(300),
        }
    }
}

impl Default for ContentType {
    fn default() -> Self {
        ContentType("application/json".to_owned())
    }
}

/// Reads a text, or a list of them.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    match OneOrMore::deserialize(deserializer) {
        Ok(OneOrMore::One(text)) => Ok(vec![text]),
        Ok(OneOrMore::More(texts)) => Ok(texts),
        Err(_) => Err(Error::custom("takes a text, or a list of texts")),
    }
}
