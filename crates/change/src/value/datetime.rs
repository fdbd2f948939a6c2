//! Dates, times and intervals as ISO 8601 text, from PostgreSQL's integers (datetime.c, timestamp.c).
//!
//! Years are astronomical (1 BC is `0000`, 44 BC `-0043`), years beyond 9999 carry a `+`, as Java's formatter and so
//! Debezium write them. What has no time zone shows none: readers take `1990-01-05Z` for an error, or for NULL. Every function
//! appends a JSON string with its quotes.

use crate::value::json::put_integer;

const US_PER_SECOND: i64 = 1_000_000;
const US_PER_DAY: i64 = 86_400 * US_PER_SECOND;
/// Days from 1970-01-01 to PostgreSQL's epoch 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;
/// Microseconds from the Unix epoch to PostgreSQL's.
pub const EPOCH_US: i64 = EPOCH_DAYS * US_PER_DAY;

/// How many digits a fraction of a second gets.
#[derive(Clone, Copy, PartialEq)]
enum Fraction {
    AsNeeded,
    Six,
}

/// Appends a `date` given in days since 2000-01-01.
pub fn put_date(out: &mut Vec<u8>, days: i32) {
    if put_infinity(out, days == i32::MAX, days == i32::MIN) {
        return;
    }
    out.push(b'"');
    put_civil(out, i64::from(days));
    out.push(b'"');
}

/// Appends a `time` given in microseconds since midnight; `24:00:00` is a value of its own.
pub fn put_time(out: &mut Vec<u8>, us: i64) {
    out.push(b'"');
    put_clock(out, us, Fraction::AsNeeded);
    out.push(b'"');
}

/// Appends a `timetz`; `west_s` is PostgreSQL's zone, seconds west of UTC.
pub fn put_timetz(out: &mut Vec<u8>, us: i64, west_s: i32) {
    out.push(b'"');
    put_clock(out, us, Fraction::AsNeeded);
    let east_s = -i64::from(west_s);
    out.push(if east_s < 0 { b'-' } else { b'+' });
    let east_s = east_s.unsigned_abs();
    put_two(out, east_s / 3600);
    out.push(b':');
    put_two(out, east_s / 60 % 60);
    if east_s % 60 != 0 {
        out.push(b':');
        put_two(out, east_s % 60);
    }
    out.push(b'"');
}

/// Appends a `timestamp`, the fraction as long as needed.
pub fn put_timestamp(out: &mut Vec<u8>, us: i64) {
    put_moment(out, us, Fraction::AsNeeded, b"\"");
}

/// Appends a `timestamptz`, always UTC and with six digits.
pub fn put_timestamptz(out: &mut Vec<u8>, us: i64) {
    put_moment(out, us, Fraction::Six, b"Z\"");
}

/// Appends an `interval`, each field with its own sign: `P1Y2M-3DT4H5M6.78S`; nothing at all is `PT0S`.
pub fn put_interval(out: &mut Vec<u8>, us: i64, days: i32, months: i32) {
    let highest = us == i64::MAX && days == i32::MAX && months == i32::MAX;
    let lowest = us == i64::MIN && days == i32::MIN && months == i32::MIN;
    if put_infinity(out, highest, lowest) {
        return;
    }
    out.extend_from_slice(b"\"P");
    let date_fields = [(months / 12, b'Y'), (months % 12, b'M'), (days, b'D')];
    for (value, unit) in date_fields.into_iter().filter(|(value, _)| *value != 0) {
        put_integer(out, value);
        out.push(unit);
    }
    let seconds_us = us % (60 * US_PER_SECOND);
    if us != 0 {
        out.push(b'T');
        let clock_fields = [
            (us / (3600 * US_PER_SECOND), b'H'),
            (us / (60 * US_PER_SECOND) % 60, b'M'),
        ];
        for (value, unit) in clock_fields.into_iter().filter(|(value, _)| *value != 0) {
            put_integer(out, value);
            out.push(unit);
        }
        if seconds_us != 0 {
            if seconds_us < 0 {
                out.push(b'-');
            }
            put_integer(out, (seconds_us / US_PER_SECOND).unsigned_abs());
            put_fraction(
                out,
                seconds_us.unsigned_abs() % US_PER_SECOND as u64,
                Fraction::AsNeeded,
            );
            out.push(b'S');
        }
    } else if days == 0 && months == 0 {
        out.extend_from_slice(b"T0S");
    }
    out.push(b'"');
}

fn put_infinity(out: &mut Vec<u8>, positive: bool, negative: bool) -> bool {
    if positive {
        out.extend_from_slice(b"\"infinity\"");
    } else if negative {
        out.extend_from_slice(b"\"-infinity\"");
    }
    positive || negative
}

fn put_moment(out: &mut Vec<u8>, us: i64, fraction: Fraction, end: &[u8]) {
    if put_infinity(out, us == i64::MAX, us == i64::MIN) {
        return;
    }
    out.push(b'"');
    put_civil(out, us.div_euclid(US_PER_DAY));
    out.push(b'T');
    put_clock(out, us.rem_euclid(US_PER_DAY), fraction);
    out.extend_from_slice(end);
}

/// Appends `YYYY-MM-DD` for days since 2000-01-01: Howard Hinnant's `civil_from_days`, valid for every i64 in range.
fn put_civil(out: &mut Vec<u8>, days: i64) {
    let shifted = days + EPOCH_DAYS + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year < 0 {
        out.push(b'-');
    } else if year > 9999 {
        out.push(b'+');
    }
    let size = year.unsigned_abs();
    if size > 9999 {
        put_integer(out, size);
    } else {
        out.extend_from_slice(&two(size / 100));
        out.extend_from_slice(&two(size % 100));
    }
    let ([m1, m2], [d1, d2]) = (two(month as u64), two(day as u64));
    out.extend_from_slice(&[b'-', m1, m2, b'-', d1, d2]);
}

fn put_clock(out: &mut Vec<u8>, us: i64, fraction: Fraction) {
    let us = us.unsigned_abs();
    let (seconds, rest_us) = (us / US_PER_SECOND as u64, us % US_PER_SECOND as u64);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    put_two(out, hours);
    let ([m1, m2], [s1, s2]) = (two(minutes % 60), two(seconds % 60));
    out.extend_from_slice(&[b':', m1, m2, b':', s1, s2]);
    put_fraction(out, rest_us, fraction);
}

fn put_fraction(out: &mut Vec<u8>, us: u64, fraction: Fraction) {
    if us == 0 && fraction == Fraction::AsNeeded {
        return;
    }
    out.push(b'.');
    let mut divisor = 100_000;
    let mut rest = us;
    while divisor > 0 && (rest > 0 || fraction == Fraction::Six) {
        out.push(b'0' + (rest / divisor) as u8);
        rest %= divisor;
        divisor /= 10;
    }
}

/// At least two digits.
fn put_two(out: &mut Vec<u8>, value: u64) {
    if value > 99 {
        put_integer(out, value);
    } else {
        out.extend_from_slice(&two(value));
    }
}

/// The digits of a number below 100.
fn two(value: u64) -> [u8; 2] {
    [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates() {
        assert_eq!(shown(|out| put_date(out, 0)), "\"2000-01-01\"");
        assert_eq!(shown(|out| put_date(out, 9821)), "\"2026-11-21\"");
        assert_eq!(shown(|out| put_date(out, -730_120)), "\"0000-12-31\"");
        // 44 BC-03-15: PostgreSQL says date '0044-03-15 BC' - date '2000-01-01' = -746117.
        assert_eq!(shown(|out| put_date(out, -746_117)), "\"-0043-03-15\"");
        assert_eq!(shown(|out| put_date(out, i32::MAX)), "\"infinity\"");
        assert_eq!(shown(|out| put_date(out, i32::MIN)), "\"-infinity\"");
    }

    #[test]
    fn times() {
        assert_eq!(
            shown(|out| put_time(out, 14_711_789_000)),
            "\"04:05:11.789\""
        );
        assert_eq!(shown(|out| put_time(out, US_PER_DAY)), "\"24:00:00\"");
        assert_eq!(
            shown(|out| put_timetz(out, 49_890_123_789, -7200)),
            "\"13:51:30.123789+02:00\""
        );
        assert_eq!(
            shown(|out| put_timetz(out, 0, 12_630)),
            "\"00:00:00-03:30:30\""
        );
    }

    #[test]
    fn moments() {
        assert_eq!(
            shown(|out| put_timestamp(out, 0)),
            "\"2000-01-01T00:00:00\""
        );
        assert_eq!(
            shown(|out| put_timestamp(out, -1)),
            "\"1999-12-31T23:59:59.999999\""
        );
        assert_eq!(
            shown(|out| put_timestamptz(out, 1_500_000)),
            "\"2000-01-01T00:00:01.500000Z\""
        );
        // timestamp '294276-12-31 23:59:59.999999', PostgreSQL's last.
        assert_eq!(
            shown(|out| put_timestamp(out, 9_223_371_331_199_999_999)),
            "\"+294276-12-31T23:59:59.999999\""
        );
        assert_eq!(shown(|out| put_timestamp(out, i64::MAX)), "\"infinity\"");
    }

    #[test]
    fn intervals() {
        assert_eq!(
            shown(|out| put_interval(out, 14_706_780_000, 3, 14)),
            "\"P1Y2M3DT4H5M6.78S\""
        );
        assert_eq!(
            shown(|out| put_interval(out, 4 * 3600 * US_PER_SECOND, -3, -10)),
            "\"P-10M-3DT4H\""
        );
        assert_eq!(
            shown(|out| put_interval(out, -500_000, 0, 0)),
            "\"PT-0.5S\""
        );
        assert_eq!(shown(|out| put_interval(out, 0, 0, 0)), "\"PT0S\"");
        assert_eq!(
            shown(|out| put_interval(out, i64::MAX, i32::MAX, i32::MAX)),
            "\"infinity\""
        );
    }
}
