//! Moments as text: microseconds since 1970 to `2026-11-21T10:40:00.123456Z`, always UTC, always six digits.

use std::time::{SystemTime, UNIX_EPOCH};

/// The moment `ts_us` (microseconds since 1970) as RFC 3339 text.
pub(crate) fn rfc3339(ts_us: i64) -> String {
    let (seconds, micros) = (ts_us.div_euclid(1_000_000), ts_us.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The microseconds since 1970 of a moment as people write it: `2026-11-21`, `2026-11-21 10:40`, `2026-11-21T10:40:00.5Z`,
/// `2026-11-21T11:40:00+01:00`. UTC where no zone is given; what is not given is zero. None where it is no moment.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut parts = date.split('-').map(|part| match part.len() {
        2 | 4 => digits(part),
        _ => None,
    });
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || civil(days(year, month, day)) != (year, month, day) {
        return None;
    }
    let time = rest.strip_prefix(['T', 't', ' ']).unwrap_or(rest);
    if time.len() == rest.len() && !rest.is_empty() && !is_zone(rest) {
        return None;
    }
    let zone_at = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_at);
    let micros = match time {
        "" => 0,
        time => time_of_day(time)?,
    };
    let offset_us = match zone {
        "" | "Z" | "z" => 0,
        zone => {
            let (hours, minutes) = match zone[1..].split_once(':') {
                Some((hours, minutes)) => (digits(hours)?, digits(minutes)?),
                None => (digits(&zone[1..])?, 0),
            };
            let offset_us = (hours * 60 + minutes) * 60_000_000;
            if zone.starts_with('-') {
                -offset_us
            } else {
                offset_us
            }
        }
    };
    Some(days(year, month, day) * 86_400_000_000 + micros - offset_us)
}

fn is_zone(text: &str) -> bool {
    text.starts_with(['Z', 'z', '+', '-'])
}

/// `10:40`, `10:40:07`, `10:40:07.5` in microseconds.
fn time_of_day(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = whole.split(':');
    let (hour, minute) = (digits(parts.next()?)?, digits(parts.next()?)?);
    let second = parts.next().map_or(Some(0), digits)?;
    let micros = digits(&format!("{:0<6}", fraction.get(..6).unwrap_or(fraction)))?;
    let is_time = hour < 24 && minute < 60 && second < 60 && parts.next().is_none();
    is_time.then_some(((hour * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

fn digits(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Now, in microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The proleptic Gregorian date of a day counted from 1970-01-01 (Howard Hinnant's algorithm).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The day of a date of that calendar, counted from 1970-01-01; `civil` backwards.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(ts_us in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
            prop_assert_eq!(parse(&rfc3339(ts_us)), Some(ts_us));
        }
    }

    #[test]
    fn moments_are_written() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            rfc3339(1_795_257_600_123_456),
            "2026-11-21T10:40:00.123456Z"
        );
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(rfc3339(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
    }

    #[test]
    fn moments_are_read_as_people_write_them() {
        let whole = 1_795_257_600_000_000;
        for (text, ts_us) in [
            ("2026-11-21T10:40:00Z", whole),
            ("2026-11-21 10:40", whole),
            ("2026-11-21T11:40:00+01:00", whole),
            ("2026-11-21T00:10:00.000000-10:30", whole),
            ("2026-11-21t10:40:00.5z", whole + 500_000),
            ("2026-11-21T10:40:00.1234567", whole + 123_456),
            ("2026-11-21", whole - 38_400_000_000),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2000-02-29", 951_782_400_000_000),
        ] {
            assert_eq!(parse(text), Some(ts_us), "{text}");
        }
        for text in [
            "",
            "now",
            "2026",
            "2026-02-30",
            "2026-13-01",
            "2026-11-21T25:00",
            "2026-11-21T10",
            "2026-11-21x10:40",
            "2026-11-21T10:40:00+x",
            "26-11-21-01",
            "2026-11-21T10:40:60",
            "2026-1é-21",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
