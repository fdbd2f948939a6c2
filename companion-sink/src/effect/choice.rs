//! Which events have an effect: rows' of the operations, applications' own, all of the condition that the sink names, but for what a
//! rule rejects.

use std::borrow::Cow;

use crate::config::EffectSettings;
use crate::error::Result;
use crate::event::Headers;
use crate::event::own::{is_own, is_plain};
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::reload::Live;
use crate::rule::Rules;
use crate::rule::condition::Condition;

/// Which events have an effect.
pub(crate) struct Choice {
    operations: Vec<&'static str>,
    when: Option<Condition>,
    rules: Rules,
}

impl Choice {
    /// That of `sink`.
    pub(crate) fn new(sink: &str, settings: &EffectSettings, live: Live) -> Result<Choice> {
        Ok(Choice {
            operations: settings.on.iter().map(|op| op.name()).collect(),
            when: Condition::of(settings)?,
            rules: Rules::new(sink, live),
        })
    }

    /// Whether an event has an effect; why it is refused, if it is. `is_of_table` says whether its topic is known as a table's.
    pub(crate) fn has_effect(
        &mut self,
        record: &Record,
        is_of_table: bool,
    ) -> std::result::Result<bool, Failure> {
        if is_own(record) {
            return self.own_has_effect(record, is_of_table);
        }
        let op = record.op_text().unwrap_or_default();
        if !self.operations.contains(&op) {
            return Ok(false);
        }
        if record.is_disbelieved {
            return Err(Failure::unbelievable());
        }
        let headers = Headers::read(record)?;
        if !is_id(headers.id) {
            return Err(no_id());
        }
        let holds = self.holds(record)?;
        if holds {
            // The types of columns are not known here: values are what they are in the event.
            self.rules.check(record, &|_| Cow::Owned(PgType::Plain))?;
        }
        Ok(holds)
    }

    /// The same of an application's own event, whatever the operations are. No rule is about it.
    fn own_has_effect(
        &self,
        record: &Record,
        is_of_table: bool,
    ) -> std::result::Result<bool, Failure> {
        if is_plain(record) {
            // The sender of a table's topic writes headers.
            if is_of_table {
                Headers::read(record)?;
            }
        } else if !is_id(Headers::read(record)?.id) {
            return Err(no_id());
        }
        if record.is_disbelieved {
            return Err(Failure::unbelievable());
        }
        // A tombstone tells of nothing that happened.
        Ok(record.value().is_some() && self.holds(record)?)
    }

    fn holds(&self, record: &Record) -> std::result::Result<bool, Failure> {
        match &self.when {
            Some(condition) => condition.holds(record),
            None => Ok(true),
        }
    }
}

fn no_id() -> Failure {
    Failure::undecodable("header cdc.id is no id of an event".to_owned())
}

/// An id becomes a header, so it is short and plain.
fn is_id(id: &str) -> bool {
    const LENGTH_MAX: usize = 128;
    let is_of_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (1..=LENGTH_MAX).contains(&id.len()) && id.bytes().all(is_of_id)
}
