//! A value of a key as people write it, in the forms that events can have for it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::timestamp;

/// The JSON texts that an event can have for `text` in a column of this type; all that fit where it is not known.
pub(crate) fn forms(text: &str, type_name: Option<&str>) -> Vec<String> {
    let known = type_name.map(of_type).unwrap_or(WrittenAs::Unknown);
    let trimmed = text.trim();
    let mut forms: Vec<Value> = match known {
        WrittenAs::Text => vec![text.into()],
        WrittenAs::Padded(length) => padded(text, length),
        WrittenAs::Number => numbers(trimmed).collect(),
        WrittenAs::Decimal(scale) => vec![decimal(trimmed, scale).into()],
        WrittenAs::Bool => boolean(trimmed).into_iter().collect(),
        WrittenAs::Date => date(trimmed).into_iter().map(Value::from).collect(),
        WrittenAs::Timestamp => timestamps(trimmed)
            .map(|[short, _]| short.into())
            .into_iter()
            .collect(),
        WrittenAs::TimestampTz => timestamps(trimmed)
            .map(|[_, long]| long.into())
            .into_iter()
            .collect(),
        WrittenAs::Time => time(trimmed).into_iter().map(Value::from).collect(),
        WrittenAs::Bytea => bytea(trimmed).into_iter().map(Value::from).collect(),
        WrittenAs::Uuid => uuid(trimmed).into_iter().map(Value::from).collect(),
        WrittenAs::LowerCase => vec![trimmed.to_lowercase().into()],
        WrittenAs::Unknown => any(trimmed),
    };
    // As the event has it is always right.
    let as_it_is = Value::from(text);
    let is_json = matches!(
        known,
        WrittenAs::Unknown | WrittenAs::Number | WrittenAs::Bool
    );
    if !forms.contains(&as_it_is) {
        forms.push(as_it_is);
    }
    let mut texts: Vec<String> = forms.iter().map(Value::to_string).collect();
    // Numbers as they are written: 9223372036854775808 is none that every JSON reader has.
    if is_json
        && matches!(
            serde_json::from_str(text),
            Ok(Value::Number(_) | Value::Bool(_))
        )
        && !texts.iter().any(|known| known == text)
    {
        texts.push(text.to_owned());
    }
    texts
}

/// The JSON text that events have for a value of this type: `None` if it is no value of it, `Some(None)` where that is not known.
pub(crate) fn value_form(text: &str, type_name: Option<&str>) -> Option<Option<String>> {
    let Some(type_name) = type_name else {
        return Some(None);
    };
    let trimmed = text.trim();
    let form: Value = match of_type(type_name) {
        WrittenAs::Unknown => return Some(None),
        WrittenAs::Text if text.chars().count() > length_max(type_name) => return None,
        WrittenAs::Text => text.into(),
        WrittenAs::Padded(length) if text.trim_end_matches(' ').chars().count() > length => {
            return None;
        }
        WrittenAs::Padded(length) => padded(text, length).swap_remove(0),
        WrittenAs::Number => {
            let whole = match type_name {
                "smallint" => trimmed.parse::<i16>().ok().map(Value::from),
                "integer" => trimmed.parse::<i32>().ok().map(Value::from),
                "bigint" => trimmed.parse::<i64>().ok().map(Value::from),
                "oid" => trimmed.parse::<u32>().ok().map(Value::from),
                _ if is_no_number(trimmed) => Some(trimmed.into()),
                _ => numbers(trimmed).next(),
            };
            whole?
        }
        WrittenAs::Decimal(scale) if is_no_number(trimmed) => match scale {
            None => trimmed.into(),
            Some(_) => (trimmed == "NaN").then(|| trimmed.into())?,
        },
        WrittenAs::Decimal(scale) => {
            let decimal = decimal(trimmed, scale);
            fits_decimal(&decimal, type_name, scale).then(|| decimal.into())?
        }
        WrittenAs::Bool => boolean(trimmed)?,
        WrittenAs::Date | WrittenAs::Timestamp | WrittenAs::TimestampTz if is_infinity(trimmed) => {
            trimmed.into()
        }
        WrittenAs::Date => date(trimmed)?.into(),
        WrittenAs::Timestamp => timestamps(trimmed).map(|[short, _]| short)?.into(),
        WrittenAs::TimestampTz => timestamps(trimmed).map(|[_, long]| long)?.into(),
        WrittenAs::Time => time(trimmed)?.into(),
        WrittenAs::Bytea => match STANDARD.decode(trimmed) {
            Ok(_) => trimmed.into(),
            Err(_) => bytea(trimmed)?.into(),
        },
        WrittenAs::Uuid => uuid(trimmed)?.into(),
        WrittenAs::LowerCase => trimmed.to_lowercase().into(),
    };
    Some(Some(form.to_string()))
}

fn is_no_number(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "-Infinity")
}

fn is_infinity(text: &str) -> bool {
    matches!(text, "infinity" | "-infinity")
}

/// Of `character varying(n)`.
fn length_max(type_name: &str) -> usize {
    let length = type_name
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    length
        .and_then(|(length, _)| length.parse().ok())
        .unwrap_or(usize::MAX)
}

/// Whether a decimal number has no more digits than its type, `numeric(precision,scale)`.
fn fits_decimal(text: &str, type_name: &str, scale: Option<usize>) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = !whole.is_empty() && are_digits(whole) && are_digits(fraction);
    let precision = type_name.split_once('(').and_then(|(_, rest)| {
        let precision = rest.split([',', ')']).next()?;
        precision.trim().parse::<usize>().ok()
    });
    let fits = match (precision, scale) {
        (Some(precision), Some(scale)) => {
            whole.trim_start_matches('0').len() <= precision.saturating_sub(scale)
                && fraction.len() <= scale
        }
        _ => true,
    };
    is_number && fits
}

/// How values of a type are written.
enum WrittenAs {
    Text,
    Padded(usize),
    Number,
    /// With so many digits behind the point, where that is fixed.
    Decimal(Option<usize>),
    Bool,
    Date,
    Timestamp,
    TimestampTz,
    Time,
    Bytea,
    Uuid,
    LowerCase,
    Unknown,
}

fn of_type(name: &str) -> WrittenAs {
    let (base, modifier) = name.split_once('(').unwrap_or((name, ""));
    let modifier = modifier
        .split_once(')')
        .map_or("", |(modifier, _)| modifier);
    match base.trim_end() {
        "smallint" | "integer" | "bigint" | "real" | "double precision" | "oid" => {
            WrittenAs::Number
        }
        "numeric" => WrittenAs::Decimal(
            modifier
                .split(',')
                .nth(1)
                .and_then(|scale| scale.trim().parse().ok())
                .or(
                    // numeric(5) is numeric(5,0).
                    (!modifier.is_empty()).then_some(0),
                ),
        ),
        "boolean" => WrittenAs::Bool,
        "date" => WrittenAs::Date,
        "timestamp" if name.contains("with time zone") => WrittenAs::TimestampTz,
        "timestamp with time zone" => WrittenAs::TimestampTz,
        "timestamp" | "timestamp without time zone" => WrittenAs::Timestamp,
        "time" if name.contains("with time zone") => WrittenAs::Unknown,
        "time" | "time without time zone" => WrittenAs::Time,
        "bytea" => WrittenAs::Bytea,
        "uuid" => WrittenAs::Uuid,
        "macaddr" | "macaddr8" => WrittenAs::LowerCase,
        "character" => WrittenAs::Padded(modifier.parse().unwrap_or(1)),
        "text" | "character varying" | "citext" | "name" => WrittenAs::Text,
        _ => WrittenAs::Unknown,
    }
}

fn any(text: &str) -> Vec<Value> {
    let mut forms: Vec<Value> = numbers(text).collect();
    if let Ok(truth @ Value::Bool(_)) = serde_json::from_str(text) {
        forms.push(truth);
    }
    forms.extend(date(text).map(Value::from));
    forms.extend(timestamps(text).into_iter().flatten().map(Value::from));
    if text.starts_with("\\x") {
        forms.extend(bytea(text).map(Value::from));
    }
    forms.extend(uuid(text).map(Value::from));
    forms
}

fn numbers(text: &str) -> impl Iterator<Item = Value> {
    let whole = text.strip_prefix('+').unwrap_or(text).parse::<i64>().ok();
    let fraction = match whole {
        Some(_) => None,
        None => text.parse::<f64>().ok().filter(|number| number.is_finite()),
    };
    let fraction = fraction.and_then(serde_json::Number::from_f64);
    whole
        .map(Value::from)
        .into_iter()
        .chain(fraction.map(Value::Number))
}

fn boolean(text: &str) -> Option<Value> {
    Some(match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "yes" | "y" | "on" | "1" => true.into(),
        "f" | "false" | "no" | "n" | "off" | "0" => false.into(),
        _ => return None,
    })
}

/// A decimal number with its column's digits behind the point; as it is where it has more of them, or another form.
fn decimal(text: &str, scale: Option<usize>) -> String {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sign = if text.starts_with('-') { "-" } else { "" };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if unsigned.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return text.to_owned();
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = match scale {
        None => fraction.to_owned(),
        Some(scale) => {
            let needed = fraction.trim_end_matches('0');
            if needed.len() > scale {
                return text.to_owned();
            }
            format!("{needed:0<scale$}")
        }
    };
    match fraction.is_empty() {
        true => format!("{sign}{whole}"),
        false => format!("{sign}{whole}.{fraction}"),
    }
}

/// `character(n)`: with the blanks behind it that PostgreSQL has.
fn padded(text: &str, length: usize) -> Vec<Value> {
    let bare = text.trim_end_matches(' ');
    let missing = length.saturating_sub(bare.chars().count());
    let padded = format!("{bare}{}", " ".repeat(missing));
    vec![padded.into(), bare.into()]
}

/// `2026-01-01`, `0044-03-15 BC`.
fn date(text: &str) -> Option<String> {
    let (date, is_before_christ) = match text.strip_suffix(" BC") {
        Some(date) => (date, true),
        None => (text, false),
    };
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_number(year, 4..=6) || !is_number(month, 1..=2) || !is_number(day, 1..=2) {
        return None;
    }
    let year: i32 = year.parse().ok()?;
    // 1 BC is the year 0.
    let year = if is_before_christ { 1 - year } else { year };
    let year = match year {
        ..0 => format!("-{:04}", -year),
        0..=9999 => format!("{year:04}"),
        _ => format!("+{year}"),
    };
    Some(format!("{year}-{month:0>2}-{day:0>2}"))
}

/// Without a fraction where it is zero, as `timestamp` has it, and with six digits, as `timestamptz`.
fn timestamps(text: &str) -> Option<[String; 2]> {
    let long = timestamp::rfc3339(timestamp::parse(text)?);
    let bare = long.trim_end_matches('Z');
    let bare = match bare.contains('.') {
        true => bare.trim_end_matches('0').trim_end_matches('.'),
        false => bare,
    };
    Some([bare.to_owned(), long])
}

/// `10:00`, `10:00:00.5`.
fn time(text: &str) -> Option<String> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.split(':').map(|part| part.parse::<u32>().ok());
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!(
        "{hour:02}:{minute:02}:{second:02}{point}{fraction}"
    ))
}

/// `\xdeadbeef`.
fn bytea(text: &str) -> Option<String> {
    let digits: Vec<u32> = text
        .strip_prefix("\\x")?
        .chars()
        .map(|digit| digit.to_digit(16))
        .collect::<Option<_>>()?;
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    Some(STANDARD.encode(bytes))
}

/// In any spelling that PostgreSQL reads: capitals, braces, without hyphens.
fn uuid(text: &str) -> Option<String> {
    let bare = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    let digits: String = bare
        .unwrap_or(text)
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let is_uuid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_uuid.then(|| {
        let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default();
        [
            part(0..8),
            part(8..12),
            part(12..16),
            part(16..20),
            part(20..32),
        ]
        .join("-")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_as_people_write_them() {
        for (text, type_name, form) in [
            ("42", "integer", "42"),
            ("042", "bigint", "42"),
            ("1.5", "numeric(10,2)", r#""1.50""#),
            ("1.500", "numeric(10,2)", r#""1.50""#),
            ("-007", "numeric(5)", r#""-7""#),
            ("1.50", "numeric", r#""1.50""#),
            ("2026-01-01", "date", r#""2026-01-01""#),
            ("2026-1-1", "date", r#""2026-01-01""#),
            ("0044-03-15 BC", "date", r#""-0043-03-15""#),
            (
                "2026-01-01 10:00",
                "timestamp without time zone",
                r#""2026-01-01T10:00:00""#,
            ),
            (
                "2026-01-01T10:00:00.50",
                "timestamp(3) without time zone",
                r#""2026-01-01T10:00:00.5""#,
            ),
            (
                "2026-01-01T12:00:00+02:00",
                "timestamp with time zone",
                r#""2026-01-01T10:00:00.000000Z""#,
            ),
            ("10:00", "time without time zone", r#""10:00:00""#),
            ("\\xDEADbeef", "bytea", r#""3q2+7w==""#),
            ("ab", "character(5)", r#""ab   ""#),
            (
                "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}",
                "uuid",
                r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#,
            ),
            ("on", "boolean", "true"),
            ("07", "text", r#""07""#),
        ] {
            assert_eq!(forms(text, Some(type_name))[0], form, "{text} {type_name}");
        }
        // As the event has it, and whatever fits where the type is not known.
        assert!(forms("2026-01-01", Some("date")).contains(&r#""2026-01-01""#.to_owned()));
        assert!(forms("3q2+7w==", Some("bytea")).contains(&r#""3q2+7w==""#.to_owned()));
        assert_eq!(forms("42", None), ["42", "\"42\""]);
        assert!(forms("2026-01-01", None).contains(&r#""2026-01-01""#.to_owned()));
        assert_eq!(
            forms("18446744073709551616", None)
                .last()
                .map(String::as_str),
            Some("18446744073709551616")
        );
    }
}
