//! What an event holds, as values of the expression language, by the types of its columns.

use std::borrow::Cow;
use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString,
};
use cel::common::value::Val;
use serde_json::value::RawValue;

use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::json::Text;
use crate::event::pg_type::PgType;
use crate::rule::moment::RuleMoment;

/// A value of the expression language that may borrow from the event.
pub(crate) type Boxed<'v> = Box<dyn Val + 'v>;

/// The value `json` of a column of type `of`: numbers are numbers also where the event has them as text, dates and
/// timestamps are moments. A text that its type does not explain (a digest in place of a number) stays a text.
pub(crate) fn value<'v>(json: &'v RawValue, of: &PgType) -> Result<Boxed<'v>, Malformed> {
    let raw = json.get();
    Ok(match raw.as_bytes().first() {
        Some(b'n') => Box::new(CelNull),
        Some(b't' | b'f') => Box::new(CelBool::from(raw == "true")),
        Some(b'"') => text(raw, of)?,
        Some(b'[') => {
            let items: Vec<&RawValue> = parse(raw)?;
            let items = items.into_iter().map(|item| match of {
                // What begins like an array is a further dimension of it.
                PgType::Array { element, .. } if !item.get().starts_with('[') => {
                    value(item, element)
                }
                _ => value(item, of),
            });
            Box::new(CelList::from(items.collect::<Result<Vec<_>, _>>()?))
        }
        Some(b'{') => {
            let of_attribute = |name: &str| match of {
                PgType::Composite(attributes) => attributes
                    .iter()
                    .find(|(attribute, _)| attribute == name)
                    .map_or(&PgType::Plain, |(_, of)| of),
                _ => &PgType::Plain,
            };
            let members = parse::<Image<'v>>(raw)?.0.into_iter().map(|(name, json)| {
                let member = value(json, of_attribute(&name))?;
                Ok((name, member))
            });
            map(members)?
        }
        _ => number(raw),
    })
}

/// A map by names.
pub(crate) fn map<'v>(
    members: impl Iterator<Item = Result<(Cow<'v, str>, Boxed<'v>), Malformed>>,
) -> Result<Boxed<'v>, Malformed> {
    let members = members.map(|member| {
        let (name, value) = member?;
        Ok((CelMapKey::String(CelString::from(name)), value))
    });
    let members: HashMap<_, _> = members.collect::<Result<_, Malformed>>()?;
    Ok(Box::new(CelMap::from(members)))
}

fn text<'v>(raw: &'v str, of: &PgType) -> Result<Boxed<'v>, Malformed> {
    let Text(text) = parse(raw)?;
    let typed: Option<Boxed<'v>> = match of {
        PgType::Number => {
            let number = text.parse::<f64>().ok();
            number.map(|number| Box::new(CelDouble::from(number)) as _)
        }
        PgType::Date | PgType::Timestamp | PgType::TimestampTz => {
            RuleMoment::parse(&text).map(|moment| Box::new(moment) as _)
        }
        _ => None,
    };
    Ok(typed.unwrap_or_else(|| Box::new(CelString::from(text))))
}

/// A number as JSON has it; a whole one stays exact as long as 64 bits hold it.
fn number<'v>(raw: &str) -> Boxed<'v> {
    match raw.parse::<i64>() {
        Ok(whole) => Box::new(CelInt::from(whole)),
        // JSON's numbers are Rust's.
        Err(_) => Box::new(CelDouble::from(raw.parse::<f64>().unwrap_or(f64::NAN))),
    }
}

fn parse<'v, T: serde::Deserialize<'v>>(raw: &'v str) -> Result<T, Malformed> {
    serde_json::from_str(raw).map_err(|_| Malformed("a value is not JSON".into()))
}
