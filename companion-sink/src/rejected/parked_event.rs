//! A refused event as people see it, and what they can decide.

use serde_json::{Value, json};

use crate::kafka::record::Record;

/// What becomes of a refused event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is tried again as it is.
    Retry,
    /// It is tried again with this body.
    Edit(Vec<u8>),
    /// It is left out for good.
    Skip,
}

impl Decision {
    /// Its name, as the state of a sink has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Decision::Retry => "retry",
            Decision::Edit(_) => "edit",
            Decision::Skip => "skip",
        }
    }

    /// The decision of a name, with the body of an edit.
    pub(crate) fn of(name: &str, edited_body: Option<Vec<u8>>) -> Decision {
        match (name, edited_body) {
            ("edit", Some(body)) => Decision::Edit(body),
            ("skip", _) => Decision::Skip,
            _ => Decision::Retry,
        }
    }
}

/// Who decided, and why.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decider<'d> {
    /// The person.
    pub(crate) by: &'d str,
    /// What that person said.
    pub(crate) reason: Option<&'d str>,
}

/// What waits because of a refused event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// The whole sink.
    Sink,
    /// All of its topic: it is about the whole table.
    Topic,
    /// The later events of its key.
    Key,
    /// Nothing: it is about no row.
    Nothing,
}

/// An event that is parked: refused, or behind a refused one.
#[derive(Debug)]
pub(crate) struct Parked {
    /// The event. In a list it may lack its value.
    pub(crate) record: Record,
    /// Its id.
    pub(crate) event_id: String,
    /// The row that it is about, as JSON; empty for a table without a key.
    pub(crate) key: Vec<u8>,
    /// Why it was refused; none for one that waits behind another of its key.
    pub(crate) failure: Option<Refused>,
    /// What was decided, and not carried out yet.
    pub(crate) decision: Option<Decision>,
    /// What waits for it.
    pub(crate) holds: Holds,
    /// Later events of its key that wait.
    pub(crate) behind: i64,
}

impl Parked {
    /// What it does to its sink, or what is about to become of it.
    pub(crate) fn state(&self) -> &'static str {
        match (&self.decision, self.holds) {
            (Some(Decision::Retry), _) => "retry decided",
            (Some(Decision::Edit(_)), _) => "edit decided",
            (Some(Decision::Skip), _) => "skip decided",
            (None, Holds::Sink) => "halts the sink",
            (None, Holds::Topic) => "stops its topic",
            (None, Holds::Key) => "parks its key",
            (None, Holds::Nothing) => "holds nothing back",
        }
    }

    /// The row that it is about, as text.
    pub(crate) fn key_text(&self) -> String {
        match self.holds {
            Holds::Nothing => text(self.record.key().unwrap_or_default()),
            Holds::Sink | Holds::Topic | Holds::Key => text(&self.key),
        }
    }

    /// Everything but its content; `sink` refused it.
    pub(crate) fn json(&self, sink: &str) -> Value {
        let failure = self.failure.as_ref();
        json!({
            "event": self.event_id, "sink": sink, "topic": &*self.record.topic, "partition": self.record.partition,
            "offset": self.record.offset, "key": self.key_text(),
            "code": failure.map(|failure| &failure.code), "reason": failure.map(|failure| &failure.reason),
            "message": failure.map(|failure| &failure.message), "attempts": failure.map(|failure| failure.attempts),
            "first_failed": failure.map(|failure| &failure.first_failed),
            "last_failed": failure.map(|failure| &failure.last_failed), "behind": self.behind, "state": self.state(),
        })
    }
}

/// Why an event was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// A code of the catalogue.
    pub(crate) code: String,
    /// The reason in one word.
    pub(crate) reason: String,
    /// What happened, without any value of the row.
    pub(crate) message: String,
    /// How often it was tried.
    pub(crate) attempts: i32,
    /// RFC 3339.
    pub(crate) first_failed: String,
    /// RFC 3339.
    pub(crate) last_failed: String,
}

/// An action of the past.
#[derive(Debug)]
pub(crate) struct Action {
    /// `retry`, `edit` or `skip`.
    pub(crate) action: String,
    /// Who decided.
    pub(crate) by: String,
    /// RFC 3339.
    pub(crate) at: String,
    /// Why.
    pub(crate) reason: Option<String>,
}

/// An event with all that is known of it.
pub(crate) struct Whole {
    /// The event, without its value.
    pub(crate) event: Parked,
    /// Its value.
    pub(crate) body: Vec<u8>,
    /// What was decided about it, the oldest first.
    pub(crate) actions: Vec<Action>,
}

impl Whole {
    /// The body that an edit which is not carried out yet has given it.
    pub(crate) fn edited_body(&self) -> Option<String> {
        match &self.event.decision {
            Some(Decision::Edit(body)) => Some(text(body)),
            _ => None,
        }
    }

    /// The headers as text.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, String)> {
        let headers = self.event.record.headers();
        headers.map(|(name, value)| (name, text(value.unwrap_or_default())))
    }

    /// All of it; `sink` refused it.
    pub(crate) fn json(&self, sink: &str) -> Value {
        let mut object = self.event.json(sink);
        object["body"] = text(&self.body).into();
        object["edited_body"] = self.edited_body().into();
        object["headers"] = self
            .headers()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let actions = self.actions.iter().map(
            |action| json!({"action": action.action, "by": action.by, "at": action.at, "reason": action.reason}),
        );
        object["actions"] = actions.collect();
        object
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
