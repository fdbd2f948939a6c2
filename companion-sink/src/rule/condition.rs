//! A condition on an event, by itself.

use std::borrow::Cow;

use crate::config::EffectSettings;
use crate::error::{self, Code, misconfigured};
use crate::event::json::Malformed;
use crate::event::own::{OwnEvent, is_own, op_text};
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, Stage};
use crate::rule::expression::{Expression, Judgement, OF_EVENTS};
use crate::rule::subject::{Subject, SubjectParts};

/// A condition on an event.
pub(crate) struct Condition(Expression);

impl Condition {
    /// That of a sink whose events have effects; none without one.
    pub(crate) fn of(settings: &EffectSettings) -> error::Result<Option<Condition>> {
        if settings.when.is_empty() {
            return Ok(None);
        }
        Condition::read(&settings.when).map(Some).map_err(|why| {
            misconfigured(
                format!("when: {why}"),
                "It is a condition like that of a [[rule]], over before, after, value, op and audit.",
            )
        })
    }

    /// Reads one; what is wrong with it is told in words.
    pub(crate) fn read(source: &str) -> Result<Condition, String> {
        Expression::read_over(source, OF_EVENTS).map(Condition)
    }

    /// What it says of an event.
    pub(crate) fn judge(&self, record: &Record) -> Result<Judgement, Malformed> {
        let types = |_: &str| Cow::Owned(PgType::Plain);
        if !is_own(record) {
            let subject = Subject::read(record, &types, self.0.needs())?;
            return Ok(self.0.answer(&subject));
        }
        let own = OwnEvent::read(record)?;
        let parts = SubjectParts {
            value: own.value,
            audit: Some(&own.audit),
            ..SubjectParts::default()
        };
        let subject = Subject::of(op_text(record), parts, &types, self.0.needs())?;
        Ok(self.0.answer(&subject))
    }

    /// Whether an event fulfils it: as in SQL, NULL does not. The event is refused where that cannot be told: else a mistake in the
    /// condition would go unseen.
    pub(crate) fn holds(&self, record: &Record) -> Result<bool, Failure> {
        let why = match self.judge(record)? {
            Judgement::True => return Ok(true),
            Judgement::False | Judgement::Null => return Ok(false),
            Judgement::Missing => "the event has no such column".to_owned(),
            Judgement::Unclear(why) => why,
        };
        Err(Failure {
            code: Code::EffectRefused,
            reason: "condition".into(),
            stage: Stage::Transformation,
            message: format!("when: {why}"),
            state: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_holds_or_not_or_cannot_be_told() {
        let value = br#"{"before":null,"after":{"country":"CH","city":null,"price":"12.50"}}"#;
        let headers: [(&str, Option<&[u8]>); 1] = [("cdc.op", Some(b"c"))];
        let (value, headers) = (Some(&value[..]), headers.into_iter());
        let record = Record::new("t".into(), 0, 0, None, value, headers);
        let holds = |text: &str| Condition::read(text).unwrap().holds(&record);
        for text in ["after.country == 'CH'", "after.price > 12", "op == 'c'"] {
            assert!(holds(text).unwrap(), "{text}");
        }
        for text in [
            "after.country == 'DE'",
            "after.city == 'Bern' && after.city > 'A'",
        ] {
            assert!(!holds(text).unwrap(), "{text}");
        }
        assert!(!holds("value.total > 1").unwrap(), "a row has none");
        for text in ["after.contry == 'CH'", "after.country"] {
            assert_eq!(holds(text).unwrap_err().reason, "condition", "{text}");
        }
    }

    #[test]
    fn an_own_event_is_its_value_and_who_and_why() {
        let value = br#"{"eventType":"product-sold","total":12}"#;
        let headers: [(&str, Option<&[u8]>); 2] =
            [("cdc.op", Some(b"emit")), ("cdc.actor", Some(b"ann"))];
        let record = Record::new("t".into(), 0, 0, None, Some(value), headers.into_iter());
        for (text, holds) in [
            (
                "value.eventType == 'product-sold' && value.total > 11",
                true,
            ),
            ("audit.actor == 'ann' && op == 'emit'", true),
            ("value.total > 12", false),
            ("after.total > 11", false),
        ] {
            let found = Condition::read(text).unwrap().holds(&record).unwrap();
            assert_eq!(found, holds, "{text}");
        }
    }
}
