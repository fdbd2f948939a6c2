//! What callers want to change, and whether they may: decided by the owner of the account, one after the other.

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use service::problem::Problem;

use crate::account::{Account, Condition, Event, Happened, Id, Moment, Profile};
use crate::log::Record;
use crate::store::Step;
use crate::topics::{Result, Topic};

/// A change of one account.
#[derive(Debug)]
pub(crate) enum Command {
    /// Creates or changes it.
    Put(Id, Profile, Condition),
    /// Deletes it, and its events.
    Delete(Id, Condition),
    /// Publishes an event of it. One of the same id is published once.
    Publish {
        account: Id,
        id: Id,
        time: Option<Moment>,
        what: Happened,
    },
}

/// What the caller is told.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: StatusCode,
    /// Of an account: what `If-Match` names.
    pub(crate) tag: Option<String>,
    pub(crate) body: Value,
}

type Decided = std::result::Result<(Done, Vec<Record>), Problem>;

impl Command {
    /// What is answered and written.
    pub(crate) fn decide(self, step: &Step) -> Result<Decided> {
        match self {
            Command::Put(id, profile, condition) => put(step, id, profile, &condition),
            Command::Delete(id, condition) => delete(step, &id, &condition),
            Command::Publish {
                account,
                id,
                time,
                what,
            } => publish(step, account, id, time, what),
        }
    }
}

fn put(step: &Step, id: Id, profile: Profile, condition: &Condition) -> Result<Decided> {
    let found = step.account(&id)?;
    if let Err(problem) = fits(&id, found.as_ref(), condition) {
        return Ok(Err(problem));
    }
    let now = Moment::now();
    let account = Account {
        version: found.as_ref().map_or(1, |found| found.version + 1),
        created_at: found.as_ref().map_or(now, |found| found.created_at),
        changed_at: now,
        profile,
        id,
    };
    let record = Record {
        topic: Topic::Account,
        key: account.id.as_str().to_owned(),
        value: Some(serde_json::to_vec(&account)?),
    };
    let status = match found {
        None => StatusCode::CREATED,
        Some(_) => StatusCode::OK,
    };
    Ok(Ok((Done::account(status, &account)?, vec![record])))
}

fn delete(step: &Step, id: &Id, condition: &Condition) -> Result<Decided> {
    let found = step.account(id)?;
    let wanted = match (&found, condition) {
        (None, _) => Err(no_account(id)),
        (found, condition) => fits(id, found.as_ref(), condition),
    };
    if let Err(problem) = wanted {
        return Ok(Err(problem));
    }
    let tombstone = |topic, key| Record {
        topic,
        key,
        value: None,
    };
    let events = step.event_keys(id)?.into_iter();
    let mut records: Vec<Record> = events.map(|key| tombstone(Topic::Event, key)).collect();
    records.push(tombstone(Topic::Account, id.as_str().to_owned()));
    let done = Done {
        status: StatusCode::NO_CONTENT,
        tag: None,
        body: Value::Null,
    };
    Ok(Ok((done, records)))
}

fn publish(
    step: &Step,
    account: Id,
    id: Id,
    time: Option<Moment>,
    what: Happened,
) -> Result<Decided> {
    if step.account(&account)?.is_none() {
        return Ok(Err(no_account(&account)));
    }
    let key = format!("{}/{}", account.as_str(), id.as_str());
    if let Some(there) = step.event(&account, &key)? {
        let is_same = there.what == what && time.is_none_or(|time| time == there.time);
        return Ok(match is_same {
            // Told once more, perhaps because the first answer was lost.
            true => Ok((Done::new(StatusCode::OK, &there)?, Vec::new())),
            false => Err(Problem::new(
                StatusCode::CONFLICT,
                format!("there is another event {key}"),
            )),
        });
    }
    let event = Event {
        id,
        account,
        time: time.unwrap_or_else(Moment::now),
        what,
    };
    let record = Record {
        topic: Topic::Event,
        key,
        value: Some(serde_json::to_vec(&event)?),
    };
    Ok(Ok((Done::new(StatusCode::CREATED, &event)?, vec![record])))
}

/// Whether the account that is there is the one that the caller means.
fn fits(
    id: &Id,
    found: Option<&Account>,
    condition: &Condition,
) -> std::result::Result<(), Problem> {
    let told = |what: String| Err(Problem::new(StatusCode::PRECONDITION_FAILED, what));
    match (condition, found) {
        (Condition::New, Some(_)) => told(format!("there is an account {} already", id.as_str())),
        (Condition::New, None) => Ok(()),
        (_, None) => Err(no_account(id)),
        (Condition::Tagged(tag), Some(found)) if *tag != found.tag() => told(format!(
            "account {} was changed by somebody else and is {} now: read it, decide, send that ETag",
            id.as_str(),
            found.tag()
        )),
        (Condition::Tagged(_) | Condition::Any, Some(_)) => Ok(()),
    }
}

/// 404.
pub(crate) fn no_account(id: &Id) -> Problem {
    Problem::not_found(format!("there is no account {}", id.as_str()))
}

impl Done {
    fn new(status: StatusCode, body: &impl Serialize) -> Result<Done> {
        Ok(Done {
            status,
            tag: None,
            body: serde_json::to_value(body)?,
        })
    }

    /// An account, with its tag.
    pub(crate) fn account(status: StatusCode, account: &Account) -> Result<Done> {
        Ok(Done {
            status,
            tag: Some(account.tag()),
            body: json!(account),
        })
    }
}
