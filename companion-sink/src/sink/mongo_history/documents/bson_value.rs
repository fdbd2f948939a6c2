//! JSON values of an event as BSON, without loss: whole numbers stay exact, what BSON cannot hold stays text.

use std::borrow::Cow;

use mongodb::bson::{RawArrayBuf, RawBson, RawDocumentBuf};
use serde_json::value::RawValue;

use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::pg_type::PgType;
use crate::sink::mongo_history::documents::array_text::{array_text, is_nested};
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::mongo_history::documents::column_types::type_of;

/// More levels no server takes, nor does the stack hold any number of them.
const DEPTH_MAX: usize = 1000;

/// How names of columns and settings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// As they are.
    AsTheyAre,
    /// With a full-width dot and dollar, for servers that refuse `.` and a leading `$`.
    WithoutDots,
}

impl Names {
    /// A name as documents have it.
    pub(crate) fn write(self, name: &str) -> Cow<'_, str> {
        if self == Names::AsTheyAre || !(name.contains('.') || name.starts_with('$')) {
            return Cow::Borrowed(name);
        }
        let undotted = name.replace('.', "\u{ff0e}");
        Cow::Owned(match undotted.strip_prefix('$') {
            Some(rest) => format!("\u{ff04}{rest}"),
            None => undotted,
        })
    }
}

/// An image (or a key) as a BSON document, its columns in their order.
pub(crate) fn document(image: &Image<'_>, names: Names) -> Result<RawDocumentBuf, Malformed> {
    document_of(image, None, names)
}

/// As [`document`], of columns with known types.
pub(crate) fn document_of(
    image: &Image<'_>,
    types: Option<&ColumnTypes>,
    names: Names,
) -> Result<RawDocumentBuf, Malformed> {
    let mut out = RawDocumentBuf::new();
    for (name, value) in &image.0 {
        out.append(checked(name, names)?, value_in(value, name, types, names)?);
    }
    Ok(out)
}

/// BSON ends a name at a zero byte; PostgreSQL allows none in names either.
fn checked(name: &str, names: Names) -> Result<Cow<'_, str>, Malformed> {
    match name.contains('\0') {
        true => Err(Malformed("a column's name holds a zero byte".into())),
        false => Ok(names.write(name)),
    }
}

/// The value of a column.
pub(crate) fn value_in(
    json: &RawValue,
    column: &str,
    types: Option<&ColumnTypes>,
    names: Names,
) -> Result<RawBson, Malformed> {
    match json.get().starts_with("[") {
        true => value_of(json, &type_of(types, column), names),
        false => value_of(json, &PgType::Plain, names),
    }
}

/// One JSON value of a type as BSON.
pub(crate) fn value_of(json: &RawValue, of: &PgType, names: Names) -> Result<RawBson, Malformed> {
    value_at(json, of, names, DEPTH_MAX)
}

/// With so many further levels inside at most.
fn value_at(
    json: &RawValue,
    of: &PgType,
    names: Names,
    levels: usize,
) -> Result<RawBson, Malformed> {
    let Some(levels) = levels.checked_sub(1) else {
        return Err(Malformed("a value is nested too deep".into()));
    };
    let text = json.get();
    let broken = |_| Malformed("a value is not JSON".into());
    Ok(match text.as_bytes().first() {
        Some(b'n') => RawBson::Null,
        Some(b't') => RawBson::Boolean(true),
        Some(b'f') => RawBson::Boolean(false),
        Some(b'"') => RawBson::String(serde_json::from_str(text).map_err(broken)?),
        Some(b'{') => {
            let object: Image<'_> = serde_json::from_str(text).map_err(broken)?;
            let mut out = RawDocumentBuf::new();
            for (name, value) in &object.0 {
                let value = value_at(value, &PgType::Plain, names, levels)?;
                out.append(checked(name, names)?, value);
            }
            RawBson::Document(out)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(broken)?;
            if is_nested(&items) {
                return Ok(RawBson::String(array_text(&items, of)?));
            }
            let mut array = RawArrayBuf::new();
            for item in items {
                array.push(value_at(item, &PgType::Plain, names, levels)?);
            }
            RawBson::Array(array)
        }
        _ => number(text),
    })
}

/// A whole number as the smallest type that holds it, a fraction as a double if that is the same number, else text.
fn number(text: &str) -> RawBson {
    if let Ok(small) = text.parse::<i32>()
        && text != "-0"
    {
        return RawBson::Int32(small);
    }
    if let Ok(large) = text.parse::<i64>()
        && text != "-0"
    {
        return RawBson::Int64(large);
    }
    let fraction = text.contains(['.', 'e', 'E']) || text == "-0";
    match text.parse::<f64>() {
        Ok(double) if fraction && double.is_finite() => RawBson::Double(double),
        _ => RawBson::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bson(json: &str) -> RawBson {
        value_of(
            &serde_json::from_str::<Box<RawValue>>(json).unwrap(),
            &PgType::Plain,
            Names::WithoutDots,
        )
        .unwrap()
    }

    #[test]
    fn numbers_stay_exact() {
        assert_eq!(bson("42"), RawBson::Int32(42));
        assert_eq!(bson("-2147483649"), RawBson::Int64(-2_147_483_649));
        assert_eq!(bson("9223372036854775807"), RawBson::Int64(i64::MAX));
        assert_eq!(
            bson("18446744073709551615"),
            RawBson::String("18446744073709551615".into())
        );
        assert_eq!(bson("0.1"), RawBson::Double(0.1));
        assert_eq!(bson("1e+300"), RawBson::Double(1e300));
        let RawBson::Double(zero) = bson("-0.0") else {
            panic!()
        };
        assert!(zero.is_sign_negative());
    }

    #[test]
    fn nested_values_are_followed() {
        assert_eq!(bson("null"), RawBson::Null);
        assert_eq!(bson(r#""a\u00e4""#), RawBson::String("aä".into()));
        let RawBson::Array(array) = bson("[1,null]") else {
            panic!()
        };
        assert_eq!(array.into_iter().count(), 2);
        assert_eq!(
            bson("[[1,2],[3,null]]"),
            RawBson::String("{{1,2},{3,NULL}}".into())
        );
        let RawBson::Document(doc) = bson(r#"{"street":"x","zip":null}"#) else {
            panic!()
        };
        assert_eq!(doc.get_str("street").unwrap(), "x");
        let RawBson::Document(doc) = bson(r#"{"app.tenant":1}"#) else {
            panic!()
        };
        assert_eq!(doc.get_i32("app\u{ff0e}tenant").unwrap(), 1);
    }
}
