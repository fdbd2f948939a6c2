//! The periods of a calendar: in which one a moment is, where it begins, and what it is called.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use crate::config::statistics::calendar::PeriodName;
use crate::event::pg_type::PgType;

/// Where a period begins: seconds since 1970, UTC. Hours that a clock shows twice are two.
pub(crate) type Period = i64;

/// The period of what has no time.
pub(crate) const NO_TIME: Period = i64::MIN;

/// Periods of one length in one time zone.
#[derive(Debug, Clone)]
pub(crate) struct Calendar {
    period: PeriodName,
    zone: TimeZone,
}

impl Calendar {
    /// Periods of this length, in the calendar of a zone.
    pub(crate) fn new(period: PeriodName, zone: TimeZone) -> Calendar {
        Calendar { period, zone }
    }

    /// The period that a moment, microseconds since 1970, is in; none outside the calendar.
    pub(crate) fn period_of(&self, moment_us: i64) -> Option<Period> {
        let moment = Timestamp::from_microsecond(moment_us).ok()?;
        self.period_at(&moment.to_zoned_datetime(self.zone.clone()))
    }

    fn period_at(&self, moment: &ZonedDateTime) -> Option<Period> {
        if self.period == PeriodName::Hour {
            // The offset of the moment, not that of the hour's beginning: a zone may change within the hour.
            let second = i64::from(moment.minute()) * 60 + i64::from(moment.second());
            return Some(floor_second(moment.timestamp()) - second);
        }
        let day = match self.period {
            PeriodName::Month => moment.first_of_month().ok()?,
            _ => moment.clone(),
        };
        Some(floor_second(day.start_of_day().ok()?.timestamp()))
    }

    /// The period of a time as an event has it, in a column of the type `of`. A time without a zone is one of this calendar.
    pub(crate) fn period_of_text(&self, text: &str, of: &PgType) -> Option<Period> {
        let is_local = matches!(of, PgType::Date | PgType::Timestamp);
        let local = match is_local {
            true => text.strip_suffix('Z').unwrap_or(text),
            false => text,
        };
        self.period_at(&self.moment(local)?)
    }

    /// A moment as people write it, in microseconds since 1970.
    pub(crate) fn moment_us(&self, text: &str) -> Option<i64> {
        let moment = self.moment(text)?;
        Some(moment.timestamp().as_microsecond())
    }

    fn moment(&self, text: &str) -> Option<ZonedDateTime> {
        let text = text.trim();
        // A date has no zone, though an event's has a Z.
        if let Some(date) = text.get(..10)
            && matches!(text.get(10..), Some("" | "Z"))
        {
            let date: Date = date.parse().ok()?;
            return date
                .to_datetime(jiff::civil::Time::midnight())
                .to_zoned_datetime(self.zone.clone())
                .ok();
        }
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Some(moment.to_zoned_datetime(self.zone.clone()));
        }
        if text.len() == 7 {
            let date: Date = format!("{text}-01").parse().ok()?;
            return date.to_zoned_datetime(self.zone.clone()).ok();
        }
        let local: DateTime = text.parse().ok()?;
        local.to_zoned_datetime(self.zone.clone()).ok()
    }

    /// What a period is called: `2026-11-21T10:00:00+01:00`, `2026-11-21`, `2026-11`; none for what has no time.
    pub(crate) fn name(&self, period: Period) -> Option<String> {
        let begin = Timestamp::from_second(period)
            .ok()
            .filter(|_| period != NO_TIME)?;
        let begin = begin.to_zoned_datetime(self.zone.clone());
        let form = match self.period {
            PeriodName::Hour => "%Y-%m-%dT%H:%M:%S%:z",
            PeriodName::Day => "%Y-%m-%d",
            PeriodName::Month => "%Y-%m",
        };
        Some(begin.strftime(form).to_string())
    }
}

fn floor_second(moment: Timestamp) -> i64 {
    moment.as_microsecond().div_euclid(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::statistics::calendar::ZoneName;

    fn calendar(period: PeriodName, zone: &str) -> Calendar {
        Calendar::new(period, ZoneName::parse(zone).unwrap().zone().clone())
    }

    fn name(calendar: &Calendar, text: &str) -> String {
        let period = calendar.period_of_text(text, &PgType::TimestampTz);
        calendar.name(period.expect(text)).expect(text)
    }

    #[test]
    fn days_and_months_are_those_of_the_zone() {
        let days = calendar(PeriodName::Day, "Europe/Zurich");
        assert_eq!(name(&days, "2026-11-20T22:59:59.999999Z"), "2026-11-20");
        assert_eq!(name(&days, "2026-11-20T23:00:00Z"), "2026-11-21");
        // Summer time ends: the day has 25 hours; it begins: 23.
        assert_eq!(name(&days, "2026-10-24T22:00:00Z"), "2026-10-25");
        assert_eq!(name(&days, "2026-10-25T22:59:59Z"), "2026-10-25");
        assert_eq!(name(&days, "2026-10-25T23:00:00Z"), "2026-10-26");
        assert_eq!(name(&days, "2026-03-29T21:59:59Z"), "2026-03-29");
        assert_eq!(name(&days, "2026-03-29T22:00:00Z"), "2026-03-30");
        let months = calendar(PeriodName::Month, "Europe/Zurich");
        assert_eq!(name(&months, "2026-02-28T22:59:59Z"), "2026-02");
        assert_eq!(name(&months, "2026-02-28T23:00:00Z"), "2026-03");
        assert_eq!(name(&months, "2024-02-29T12:00:00Z"), "2024-02");
        assert_eq!(name(&months, "2026-12-31T23:00:00Z"), "2027-01");
        // Midnight is skipped there.
        let chile = calendar(PeriodName::Day, "America/Santiago");
        assert_eq!(name(&chile, "2026-09-06T04:00:00Z"), "2026-09-06");
        assert_eq!(name(&chile, "2026-09-06T03:59:59Z"), "2026-09-05");
    }

    #[test]
    fn an_hour_that_a_clock_shows_twice_is_two() {
        let hours = calendar(PeriodName::Hour, "Europe/Zurich");
        assert_eq!(
            name(&hours, "2026-10-25T00:30:00Z"),
            "2026-10-25T02:00:00+02:00"
        );
        assert_eq!(
            name(&hours, "2026-10-25T01:30:00Z"),
            "2026-10-25T02:00:00+01:00"
        );
        assert_eq!(
            name(&hours, "2026-03-29T01:00:00Z"),
            "2026-03-29T03:00:00+02:00"
        );
        let half = calendar(PeriodName::Hour, "Asia/Kolkata");
        assert_eq!(
            name(&half, "2026-01-01T00:00:00Z"),
            "2026-01-01T05:00:00+05:30"
        );
    }

    #[test]
    fn a_time_without_a_zone_is_one_of_the_calendar() {
        let days = calendar(PeriodName::Day, "America/New_York");
        for (text, of) in [
            ("2026-11-21Z", PgType::Date),
            ("2026-11-21T23:59:59.5Z", PgType::Timestamp),
            ("2026-11-22T04:59:59Z", PgType::TimestampTz),
            ("2026-11-21T23:00:00", PgType::Plain),
            ("2026-11-21", PgType::Plain),
            ("2026-11-21T23:00:00-05:00", PgType::Plain),
        ] {
            let period = days.period_of_text(text, &of).expect(text);
            assert_eq!(days.name(period).as_deref(), Some("2026-11-21"), "{text}");
        }
        for text in [
            "infinity",
            "-infinity",
            "",
            "ann",
            "2026-02-30",
            "+12026-01-01Z",
        ] {
            assert_eq!(days.period_of_text(text, &PgType::Date), None, "{text}");
        }
        assert_eq!(days.name(NO_TIME), None);
    }

    #[test]
    fn moments_before_1970_are_in_the_right_period() {
        let hours = calendar(PeriodName::Hour, "UTC");
        assert_eq!(
            name(&hours, "1969-12-31T23:59:59.999999Z"),
            "1969-12-31T23:00:00+00:00"
        );
        assert_eq!(hours.period_of(-1), Some(-3600));
    }
}
