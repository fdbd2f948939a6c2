//! Which events have an effect: those of the operations and of the condition that the sink names, but for what a rule rejects.

use std::borrow::Cow;

use crate::config::EffectSettings;
use crate::error::Result;
use crate::event::Headers;
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

    /// Whether an event has an effect; why it is refused, if it is.
    pub(crate) fn has_effect(&mut self, record: &Record) -> std::result::Result<bool, Failure> {
        let op = record.op_text().unwrap_or_default();
        if !self.operations.contains(&op) {
            return Ok(false);
        }
        if record.is_disbelieved {
            return Err(Failure::unbelievable());
        }
        let headers = Headers::read(record)?;
        if !is_plain(headers.id) {
            let why = "header cdc.id is no id of an event".to_owned();
            return Err(Failure::undecodable(why));
        }
        let holds = match &self.when {
            Some(condition) => condition.holds(record)?,
            None => true,
        };
        if holds {
            // The types of columns are not known here: values are what they are in the event.
            self.rules.check(record, &|_| Cow::Owned(PgType::Plain))?;
        }
        Ok(holds)
    }
}

/// An id becomes a header, so it is short and plain.
fn is_plain(id: &str) -> bool {
    const LENGTH_MAX: usize = 128;
    let is_of_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    (1..=LENGTH_MAX).contains(&id.len()) && id.bytes().all(is_of_id)
}
