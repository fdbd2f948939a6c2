//! A value of an event, as figures are made of it.

use serde_json::value::RawValue;

use crate::event::json::Text;
use crate::event::pg_type::PgType;
use crate::statistics::decimal::Decimal;
use crate::statistics::kept::codec::{Malformed, Reading, put_bytes};

/// A value becomes a part of keys of the store.
pub(crate) const VALUE_BYTES_MAX: usize = 4096;

/// A value of an event. Arrays and objects are their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A number as the event has it.
    Number(String),
    Text(String),
}

impl Value {
    /// The value `json` of a column of the type `of`, where numbers may be texts; or why it cannot be read.
    pub(crate) fn of_json(json: &RawValue, of: &PgType) -> Result<Value, String> {
        let raw = json.get();
        if raw.len() > VALUE_BYTES_MAX {
            return Err(format!("is longer than {VALUE_BYTES_MAX} bytes"));
        }
        Ok(match raw.as_bytes().first() {
            Some(b'n') => Value::Null,
            Some(b't' | b'f') => Value::Bool(raw == "true"),
            Some(b'"') => {
                let text: Text<'_> =
                    serde_json::from_str(raw).map_err(|_| "is not JSON".to_owned())?;
                let text = text.0.into_owned();
                match of == &PgType::Number && Decimal::parse(&text).is_some() {
                    true => Value::Number(text),
                    false => Value::Text(text),
                }
            }
            Some(b'[' | b'{') => Value::Text(raw.to_owned()),
            _ => Value::Number(raw.to_owned()),
        })
    }

    /// The number that it is, or that its text is; none where it is none.
    pub(crate) fn decimal(&self) -> Option<Decimal> {
        match self {
            Value::Number(text) | Value::Text(text) => Decimal::parse(text),
            Value::Null | Value::Bool(_) => None,
        }
    }

    /// Appends bytes in the order of the values: numbers before texts.
    pub(crate) fn put_ordered(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(0),
            Value::Bool(is_true) => out.extend([1, u8::from(*is_true)]),
            Value::Number(text) => {
                out.push(2);
                Decimal::parse(text).unwrap_or_default().put_ordered(out);
            }
            Value::Text(text) => {
                out.push(3);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Appends it.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.push(0),
            Value::Bool(is_true) => out.extend([1, u8::from(*is_true)]),
            Value::Number(text) => {
                out.push(2);
                put_bytes(out, text.as_bytes());
            }
            Value::Text(text) => {
                out.push(3);
                put_bytes(out, text.as_bytes());
            }
        }
    }

    /// Reads what `put` appended.
    pub(crate) fn read(from: &mut Reading<'_>) -> Result<Value, Malformed> {
        Ok(match from.u8()? {
            0 => Value::Null,
            1 => Value::Bool(from.u8()? == 1),
            2 => Value::Number(from.text()?.to_owned()),
            3 => Value::Text(from.text()?.to_owned()),
            _ => return Err(Malformed),
        })
    }

    /// As answers have it: numbers as texts, for they are exact.
    pub(crate) fn json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(is_true) => (*is_true).into(),
            Value::Number(text) | Value::Text(text) => text.as_str().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str, of: &PgType) -> Value {
        let json: Box<RawValue> = serde_json::from_str(json).unwrap();
        Value::of_json(&json, of).unwrap()
    }

    fn ordered(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.put_ordered(&mut out);
        out
    }

    #[test]
    fn values_are_what_their_columns_are() {
        let number = |text: &str| Value::Number(text.into());
        assert_eq!(value("\"10.50\"", &PgType::Number), number("10.50"));
        assert_eq!(
            value("\"10.50\"", &PgType::Plain),
            Value::Text("10.50".into())
        );
        assert_eq!(value("\"NaN\"", &PgType::Number), Value::Text("NaN".into()));
        assert_eq!(
            value("9223372036854775807", &PgType::Plain),
            number("9223372036854775807")
        );
        assert_eq!(value("null", &PgType::Number), Value::Null);
        assert!(ordered(&number("9.5")) < ordered(&number("10.25")));
        assert_eq!(ordered(&number("10.50")), ordered(&number("10.5")));
        assert!(ordered(&number("1e300")) < ordered(&Value::Text("NaN".into())));
        for one in [
            Value::Null,
            Value::Bool(true),
            number("-1.0"),
            Value::Text("ä".into()),
        ] {
            let mut out = Vec::new();
            one.put(&mut out);
            let mut reading = Reading::new(&out);
            assert_eq!(Value::read(&mut reading), Ok(one));
            assert!(reading.is_empty());
        }
    }

    #[test]
    fn what_is_too_long_is_told() {
        let long: Box<RawValue> =
            serde_json::from_str(&format!("\"{}\"", "x".repeat(5000))).unwrap();
        assert!(Value::of_json(&long, &PgType::Plain).is_err());
    }
}
