//! Dates and timestamps in rules.

use std::any::Any;

use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};

use crate::timestamp;

static TYPE: Type = Type::new_unspecified_type("timestamp");

const US_PER_DAY: i128 = 86_400_000_000;
/// Years after which the calendar is the same again, and their days.
const CYCLE_YEARS: i64 = 400;
const CYCLE_DAYS: i128 = 146_097;

/// A date (its midnight) or a timestamp: microseconds since 1970, UTC where no zone is given. The infinities are the
/// ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleMoment(i128);

impl RuleMoment {
    /// Reads what events have (`2007-12-31`, `-0043-03-15`, `+12026-01-01T10:00:00.5Z`, `infinity`) and what people write
    /// (`2007-12-31`, `2007-12-31 10:40`, `2007-12-31T10:40:00+01:00`).
    pub(crate) fn parse(text: &str) -> Option<RuleMoment> {
        match text {
            "infinity" => return Some(RuleMoment(i128::MAX)),
            "-infinity" => return Some(RuleMoment(i128::MIN)),
            _ => {}
        }
        if text.as_bytes().get(4) == Some(&b'-')
            && let Some(us) = timestamp::parse(text)
        {
            return Some(RuleMoment(us.into()));
        }
        // A year that has not four digits: the same day in one that has.
        let digits_at = usize::from(text.starts_with(['+', '-']));
        let length = text[digits_at..].bytes().take_while(u8::is_ascii_digit);
        let (year, rest) = text.split_at(digits_at + length.count());
        let year: i64 = year.parse().ok()?;
        let near = CYCLE_YEARS * 5 + year.rem_euclid(CYCLE_YEARS);
        let cycles = i128::from(year.div_euclid(CYCLE_YEARS) - 5);
        let us = timestamp::parse(&format!("{near}{rest}"))?;
        Some(RuleMoment(
            i128::from(us) + cycles * CYCLE_DAYS * US_PER_DAY,
        ))
    }
}

impl Val for RuleMoment {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<RuleMoment>() == Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for RuleMoment {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_events_and_of_people_have_one_order() {
        let order = [
            "-infinity",
            "-4712-01-01",
            "-0043-03-15",
            "0000-12-31T23:59:59.999999",
            "0001-01-01",
            "2007-12-31",
            "2007-12-31 00:00:00.5",
            "2007-12-31T23:00:00-02:00",
            "2008-01-01T01:00:01Z",
            "9999-12-31",
            "+10000-01-01",
            "+294276-12-31T23:59:59.999999",
            "+5874897-12-31",
            "infinity",
        ];
        let moments: Vec<_> = order
            .map(|text| RuleMoment::parse(text).expect(text))
            .into();
        assert!(moments.is_sorted_by(|a, b| a < b), "{moments:?}");
        assert_eq!(
            RuleMoment::parse("2007-12-31T00:00:00Z"),
            RuleMoment::parse("2007-12-31")
        );
        let day = |text| RuleMoment::parse(text).unwrap().0 / US_PER_DAY;
        assert_eq!(day("+10000-01-01"), day("9999-12-31") + 1);
        assert_eq!(day("0000-01-01"), day("-0001-12-31") + 1);
        for text in [
            "",
            "-",
            "+",
            "ann",
            "2007",
            "2007-13-01",
            "12007-02-30",
            "é-01-01",
        ] {
            assert_eq!(RuleMoment::parse(text), None, "{text}");
        }
    }
}
