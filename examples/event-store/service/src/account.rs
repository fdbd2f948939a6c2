//! What is kept: accounts and their events, as they stand in the topics and in answers.

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use service::problem::Problem;

const ID_MAX: usize = 64;
const TEXT_MAX: usize = 1000;

/// Of an account or an event. Harmless in a path, and without the `/` between the two.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
pub(crate) struct Id(String);

/// A time, as RFC 3339 writes it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Moment(Timestamp);

/// An account: the value of its record in `account`, whose key is the id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) id: Id,
    /// 1, then one more with each change.
    pub(crate) version: u64,
    pub(crate) created_at: Moment,
    pub(crate) changed_at: Moment,
    #[serde(flatten)]
    pub(crate) profile: Profile,
}

/// What callers decide about an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) email: Option<String>,
}

/// An event: the value of its record in `event`, whose key is `<account>/<id>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: Id,
    pub(crate) account: Id,
    pub(crate) time: Moment,
    #[serde(flatten)]
    pub(crate) what: Happened,
}

/// What callers tell of an event.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Happened {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) amount_cents: i64,
}

/// Which account a change is meant for.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    /// One that is not there: `If-None-Match: *`.
    New,
    /// Exactly this one: `If-Match: "tag"`.
    Tagged(String),
    /// Whichever is there.
    Any,
}

impl Id {
    /// One that nobody has.
    pub(crate) fn random() -> Id {
        Id(uuid::Uuid::new_v4().to_string())
    }

    /// Its text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> Result<Id, String> {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match (1..=ID_MAX).contains(&text.len()) && text.chars().all(is_fine) {
            true => Ok(Id(text)),
            false => Err(format!(
                "an id has 1 to {ID_MAX} letters, digits, dots, - or _"
            )),
        }
    }
}

impl Moment {
    /// Now.
    pub(crate) fn now() -> Moment {
        Moment(Timestamp::now())
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Moment, String> {
        let moment = text.parse().map(Moment);
        moment.map_err(|_| format!("\"{text}\" is no time such as 2026-11-28T12:00:00Z"))
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        moment.0.to_string()
    }
}

impl Profile {
    /// Whether an account may be so.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let fits = |text: &str| (1..=TEXT_MAX).contains(&text.trim().len());
        let email = self.email.as_deref();
        match () {
            () if !fits(&self.name) => Err(wrong("name", "a text")),
            () if email.is_some_and(|email| !fits(email) || !email.contains('@')) => {
                Err(wrong("email", "an address with an @"))
            }
            () => Ok(()),
        }
    }
}

impl Happened {
    /// Whether an event may be so.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        match Id::try_from(self.kind.clone()) {
            Ok(_) => Ok(()),
            Err(_) => Err(wrong("type", "a word, such as deposit")),
        }
    }
}

fn wrong(field: &str, wanted: &str) -> Problem {
    Problem::unprocessable(format!(
        "{field} is to be {wanted} of {TEXT_MAX} bytes at most"
    ))
}

impl Account {
    /// What `If-Match` names. The version alone would fit a later account of the same id, too.
    pub(crate) fn tag(&self) -> String {
        let created_us = self.created_at.0.as_microsecond();
        format!("\"{}-{created_us:x}\"", self.version)
    }
}

impl Condition {
    /// What the headers of a request say.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Condition, Problem> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str());
        match (text(IF_NONE_MATCH), text(IF_MATCH)) {
            (None, None) => Ok(Condition::Any),
            (Some(Ok("*")), None) => Ok(Condition::New),
            (None, Some(Ok("*"))) => Ok(Condition::Any),
            (None, Some(Ok(tag))) => Ok(Condition::Tagged(tag.trim().to_owned())),
            _ => Err(Problem::unprocessable(
                "If-Match takes one ETag, If-None-Match takes *, and only one of them is possible",
            )),
        }
    }
}
