//! A condition on an event, by itself.

use std::borrow::Cow;

use crate::config::EffectSettings;
use crate::error::{self, Code, misconfigured};
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, Stage};
use crate::rule::expression::{Expression, Judgement};
use crate::rule::subject::Subject;

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
                "It is a condition like that of a [[rule]], over before, after, op and audit.",
            )
        })
    }

    /// Reads one; what is wrong with it is told in words.
    fn read(source: &str) -> Result<Condition, String> {
        Expression::read(source).map(Condition)
    }

    /// Whether an event fulfils it: as in SQL, NULL does not. The event is refused where that cannot be told: else a mistake in the
    /// condition would go unseen.
    pub(crate) fn holds(&self, record: &Record) -> Result<bool, Failure> {
        let types = |_: &str| Cow::Owned(PgType::Plain);
        let subject = Subject::read(record, &types, self.0.needs())?;
        let why = match self.0.answer(&subject) {
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
        for text in ["after.contry == 'CH'", "after.country"] {
            assert_eq!(holds(text).unwrap_err().reason, "condition", "{text}");
        }
    }
}
