//! A value of an event as the text that PostgreSQL reads for a column's type. Nothing is lost, nothing is guessed:
//! what does not fit its type is refused. The encodings are those of the event; the type is the target column's.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::event::image::Image;
use crate::event::pg_type::PgType;

/// Why a value cannot be turned into its type. Never holds the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotConvertible(pub(crate) &'static str);

type Converted<'a> = Result<Cow<'a, str>, NotConvertible>;

/// The text of `json` for a column of type `to`; `None` is NULL.
pub(crate) fn to_text<'a>(
    json: &'a RawValue,
    to: &PgType,
) -> Result<Option<Cow<'a, str>>, NotConvertible> {
    let raw = json.get();
    match raw.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => from_string(unescape(raw)?, to).map(Some),
        Some(b'[') => from_array(raw, to).map(Some),
        Some(b'{') => from_object(raw, to).map(Some),
        Some(b't' | b'f') => Ok(Some(from_bool(raw, to))),
        _ => Ok(Some(Cow::Borrowed(raw))),
    }
}

fn from_bool<'a>(raw: &'a str, to: &PgType) -> Cow<'a, str> {
    match (to, raw) {
        (PgType::Bit, "true") => "1".into(),
        (PgType::Bit, _) => "0".into(),
        _ => raw.into(),
    }
}

/// A JSON string without its quotes and escapes; borrowed where there are none.
fn unescape(raw: &str) -> Converted<'_> {
    let inner = &raw[1..raw.len() - 1];
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    let text: String = serde_json::from_str(raw).map_err(|_| NotConvertible("broken string"))?;
    if text.contains('\0') {
        return Err(NotConvertible(
            "a zero byte, which PostgreSQL cannot store in text",
        ));
    }
    Ok(Cow::Owned(text))
}

fn from_string<'a>(text: Cow<'a, str>, to: &PgType) -> Converted<'a> {
    match to {
        PgType::Bytea => bytea(&text),
        PgType::Date => Ok(date_time(text, false)),
        PgType::Timestamp => Ok(date_time(text, false)),
        PgType::TimestampTz => Ok(date_time(text, true)),
        PgType::Hstore => hstore(text),
        PgType::Plain
        | PgType::Number
        | PgType::Bit
        | PgType::Array { .. }
        | PgType::Vector
        | PgType::Composite(_) => Ok(text),
    }
}

fn bytea(base64: &str) -> Converted<'static> {
    let bytes = STANDARD
        .decode(base64)
        .map_err(|_| NotConvertible("not base64"))?;
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("\\x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    Ok(Cow::Owned(out))
}

/// `-0043-03-15T10:00:00Z` to `0044-03-15 10:00:00 BC`. What has another form (infinity, PostgreSQL's own text) stays.
fn date_time(text: Cow<'_, str>, with_zone: bool) -> Cow<'_, str> {
    let (sign, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, &*text),
    };
    let year_digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let Ok(year) = unsigned[..year_digits].parse::<i64>() else {
        return text;
    };
    let rest = &unsigned[year_digits..];
    if !rest.starts_with('-') {
        return text;
    }
    let year = sign * year;
    // Year 0 is 1 BC, -1 is 2 BC.
    let (year, era) = if year <= 0 {
        (1 - year, " BC")
    } else {
        (year, "")
    };
    let (moment, zone) = match rest.strip_suffix('Z') {
        Some(moment) if with_zone => (moment, "+00"),
        Some(moment) => (moment, ""),
        // A timestamp or a date for a column with a zone is UTC, whatever the session's zone is.
        None if with_zone && !has_offset(rest) => (rest, "+00"),
        None => (rest, ""),
    };
    let mut out = String::with_capacity(text.len() + 6);
    // Writing to a String cannot fail.
    let _ = write!(out, "{year:04}");
    out.extend(moment.chars().map(|c| if c == 'T' { ' ' } else { c }));
    out.push_str(zone);
    out.push_str(era);
    Cow::Owned(out)
}

/// Whether a moment, behind its year, says how far it is from UTC. PostgreSQL's own text, with a blank, goes by the session.
fn has_offset(rest: &str) -> bool {
    let (_, clock) = rest.split_once('T').unwrap_or_default();
    rest.contains(' ') || clock.contains(['+', '-'])
}

/// `{"k":"v","n":null}` to `"k"=>"v","n"=>NULL`. What is no JSON object is taken as hstore's own text.
fn hstore(text: Cow<'_, str>) -> Converted<'_> {
    let Ok(pairs) = serde_json::from_str::<Image<'_>>(&text) else {
        return Ok(text);
    };
    let mut out = String::with_capacity(text.len() + 8);
    for (name, value) in &pairs.0 {
        if !out.is_empty() {
            out.push(',');
        }
        quote(&mut out, name);
        out.push_str("=>");
        match value.get() {
            "null" => out.push_str("NULL"),
            string if string.starts_with('"') => quote(&mut out, &unescape(string)?),
            _ => {
                return Err(NotConvertible(
                    "an hstore value that is neither text nor null",
                ));
            }
        }
    }
    Ok(Cow::Owned(out))
}

fn from_array<'a>(raw: &'a str, to: &PgType) -> Converted<'a> {
    match to {
        PgType::Array { element, delimiter } => {
            let mut out = String::with_capacity(raw.len() + 8);
            array(&mut out, raw, element, *delimiter)?;
            Ok(Cow::Owned(out))
        }
        PgType::Vector => {
            let items: Vec<&RawValue> = parse(raw)?;
            let items: Vec<&str> = items.iter().map(|item| item.get()).collect();
            Ok(Cow::Owned(items.join(" ")))
        }
        // A json column whose value was not put into a string.
        PgType::Plain => Ok(Cow::Borrowed(raw)),
        _ => Err(NotConvertible("an array for a type that is none")),
    }
}

fn array(
    out: &mut String,
    raw: &str,
    element: &PgType,
    delimiter: char,
) -> Result<(), NotConvertible> {
    let items: Vec<&RawValue> = parse(raw)?;
    out.push('{');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(delimiter);
        }
        // An element is never an array itself, so what begins like one is a further dimension.
        if item.get().starts_with('[') {
            array(out, item.get(), element, delimiter)?;
            continue;
        }
        match to_text(item, element)? {
            None => out.push_str("NULL"),
            Some(text) => quote(out, &text),
        }
    }
    out.push('}');
    Ok(())
}

fn from_object<'a>(raw: &'a str, to: &PgType) -> Converted<'a> {
    let attributes = match to {
        PgType::Composite(attributes) => attributes,
        PgType::Plain => return Ok(Cow::Borrowed(raw)),
        _ => return Err(NotConvertible("an object for a type that is not composite")),
    };
    let object: Image<'_> = parse(raw)?;
    let known = |name: &str| attributes.iter().any(|(attribute, _)| attribute == name);
    if object.0.iter().any(|(name, _)| !known(name)) {
        return Err(NotConvertible(
            "an attribute that the target's type does not have",
        ));
    }
    let mut out = String::with_capacity(raw.len());
    out.push('(');
    for (place, (name, attribute)) in attributes.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        if let Some(value) = object.get(name)
            && let Some(text) = to_text(value, attribute)?
        {
            quote(&mut out, &text);
        }
    }
    out.push(')');
    Ok(Cow::Owned(out))
}

/// In double quotes, with `"` and `\` escaped by `\`: what array, composite and hstore input all read.
pub(crate) fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

fn parse<'a, T: serde::Deserialize<'a>>(raw: &'a str) -> Result<T, NotConvertible> {
    serde_json::from_str(raw).map_err(|_| NotConvertible("broken JSON"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(json: &str, to: &PgType) -> Option<String> {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        to_text(&raw, to).unwrap().map(Cow::into_owned)
    }

    fn some(json: &str, to: &PgType) -> String {
        text(json, to).unwrap()
    }

    fn array_of(element: PgType) -> PgType {
        PgType::Array {
            element: Box::new(element),
            delimiter: ',',
        }
    }

    #[test]
    fn numbers_and_texts_stay_as_they_are() {
        for (json, expected) in [
            ("9223372036854775807", "9223372036854775807"),
            ("1e+300", "1e+300"),
            ("-0.0", "-0.0"),
            ("\"10.00\"", "10.00"),
            ("\"NaN\"", "NaN"),
            ("true", "true"),
            (r#""a\"b\\c\u00e4\n""#, "a\"b\\cä\n"),
            (r#""{\"a\": 1}""#, r#"{"a": 1}"#),
            ("\"P-1Y2M-3DT4H\"", "P-1Y2M-3DT4H"),
        ] {
            assert_eq!(some(json, &PgType::Plain), expected);
        }
        assert_eq!(text("null", &PgType::Plain), None);
        assert_eq!(some("\"null\"", &PgType::Plain), "null");
    }

    #[test]
    fn moments_are_postgresqls() {
        for (json, date) in [
            ("2026-11-21", "2026-11-21"),
            ("-0043-03-15", "0044-03-15 BC"),
            ("0000-01-01", "0001-01-01 BC"),
            ("-4712-01-01", "4713-01-01 BC"),
            ("+12026-01-01", "12026-01-01"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
        ] {
            assert_eq!(some(&format!("\"{json}\""), &PgType::Date), date);
        }
        for (json, stamp) in [
            ("2026-11-21T10:40:00.123456", "2026-11-21 10:40:00.123456"),
            (
                "+294276-12-31T23:59:59.999999",
                "294276-12-31 23:59:59.999999",
            ),
        ] {
            assert_eq!(some(&format!("\"{json}\""), &PgType::Timestamp), stamp);
        }
        for (json, stamp) in [
            ("2026-11-21T10:40:00.123Z", "2026-11-21 10:40:00.123+00"),
            ("-0043-03-15T01:02:03Z", "0044-03-15 01:02:03+00 BC"),
            ("infinity", "infinity"),
            ("2026-11-21T10:40:00", "2026-11-21 10:40:00+00"),
            ("2026-11-21", "2026-11-21+00"),
            ("2026-11-21T10:40:00-03", "2026-11-21 10:40:00-03"),
            ("0044-03-15 10:40:00 BC", "0044-03-15 10:40:00 BC"),
        ] {
            assert_eq!(some(&format!("\"{json}\""), &PgType::TimestampTz), stamp);
        }
    }

    #[test]
    fn bytes_bits_and_hstore() {
        assert_eq!(some("\"AQID\"", &PgType::Bytea), "\\x010203");
        assert_eq!(some("\"\"", &PgType::Bytea), "\\x");
        let raw: Box<RawValue> = serde_json::from_str("\"A\"").unwrap();
        assert!(to_text(&raw, &PgType::Bytea).is_err());
        assert_eq!(some("true", &PgType::Bit), "1");
        assert_eq!(some("\"0101\"", &PgType::Bit), "0101");
        let json = r#""{\"k\":\"v\\\"\\\\\",\"n\":null}""#;
        assert_eq!(some(json, &PgType::Hstore), r#""k"=>"v\"\\","n"=>NULL"#);
        assert_eq!(some("\"{}\"", &PgType::Hstore), "");
    }

    #[test]
    fn arrays_in_all_forms() {
        let plain = array_of(PgType::Plain);
        assert_eq!(
            some("[[1,2],[3,null]]", &plain),
            r#"{{"1","2"},{"3",NULL}}"#
        );
        assert_eq!(some("[]", &plain), "{}");
        assert_eq!(
            some(r#"["a,b","{}","","NULL","\"\\"]"#, &plain),
            r#"{"a,b","{}","","NULL","\"\\"}"#
        );
        assert_eq!(some("\"[0:1]={1,2}\"", &plain), "[0:1]={1,2}");
        assert_eq!(some("\"{1,2}\"", &plain), "{1,2}");
        assert_eq!(
            some(r#"["AQ=="]"#, &array_of(PgType::Bytea)),
            r#"{"\\x01"}"#
        );
        assert_eq!(
            some(r#"["2026-01-01",null]"#, &array_of(PgType::Date)),
            r#"{"2026-01-01",NULL}"#
        );
        let boxes = PgType::Array {
            element: Box::new(PgType::Plain),
            delimiter: ';',
        };
        assert_eq!(
            some(r#"["(1,1),(0,0)","(2,2),(0,0)"]"#, &boxes),
            r#"{"(1,1),(0,0)";"(2,2),(0,0)"}"#
        );
        assert_eq!(some("[1,2]", &PgType::Vector), "1 2");
    }

    #[test]
    fn composites_by_attribute() {
        let address = PgType::Composite(vec![
            ("street".into(), PgType::Plain),
            ("zip".into(), PgType::Plain),
            ("since".into(), PgType::Date),
        ]);
        let json = r#"{"zip":null,"street":"a \"b\", (c)","since":"2026-01-01"}"#;
        assert_eq!(some(json, &address), r#"("a \"b\", (c)",,"2026-01-01")"#);
        assert_eq!(
            some(&format!("[{json}]"), &array_of(address.clone())),
            r#"{"(\"a \\\"b\\\", (c)\",,\"2026-01-01\")"}"#
        );
        let raw: Box<RawValue> = serde_json::from_str(r#"{"city":1}"#).unwrap();
        assert!(to_text(&raw, &address).is_err());
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let raw: Box<RawValue> = serde_json::from_str(r#""a\u0000b""#).unwrap();
        assert!(to_text(&raw, &PgType::Plain).is_err());
    }

    /// Reads one level of `{"..","..",NULL}` back, as array_in does.
    fn read_array(text: &str) -> Vec<Option<String>> {
        let mut items = Vec::new();
        let mut chars = text[1..text.len() - 1].chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' => {
                    let mut item = String::new();
                    loop {
                        match chars.next().unwrap() {
                            '"' => break,
                            '\\' => item.push(chars.next().unwrap()),
                            c => item.push(c),
                        }
                    }
                    items.push(Some(item));
                }
                'N' => {
                    assert!(chars.by_ref().take(3).eq("ULL".chars()));
                    items.push(None);
                }
                ',' => {}
                c => panic!("unquoted {c}"),
            }
        }
        items
    }

    proptest! {
        #[test]
        fn any_text_survives(texts in proptest::collection::vec(proptest::option::of("[^\\x00]*"), 0..5)) {
            let json = serde_json::to_string(&texts).unwrap();
            prop_assert_eq!(read_array(&some(&json, &array_of(PgType::Plain))), texts.clone());
            for one in texts.iter().flatten() {
                let json = serde_json::to_string(one).unwrap();
                prop_assert_eq!(&some(&json, &PgType::Plain), one);
            }
        }

        #[test]
        fn any_bytes_survive(bytes: Vec<u8>) {
            let json = format!("\"{}\"", STANDARD.encode(&bytes));
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(some(&json, &PgType::Bytea), format!("\\x{hex}"));
        }

        #[test]
        fn any_year_survives(year in -4712i64..294_276) {
            let iso = if year > 9999 { format!("+{year}") } else if year < 0 { format!("-{:04}", -year) } else { format!("{year:04}") };
            let read = some(&format!("\"{iso}-02-03\""), &PgType::Date);
            let expected = if year <= 0 { format!("{:04}-02-03 BC", 1 - year) } else { format!("{year:04}-02-03") };
            prop_assert_eq!(read, expected);
        }
    }
}
