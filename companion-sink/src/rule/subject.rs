//! An event as expressions see it.

use std::borrow::Cow;

use cel::common::types::{CelNull, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::parse_body;
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::rule::needs::Members;
use crate::rule::needs::Needs;
use crate::rule::value::{Boxed, map, value};

/// The types of a table's columns, by their names in events.
pub(crate) type ColumnTypeOf<'t> = dyn Fn(&str) -> Cow<'t, PgType> + 't;

/// The variables of an event: only what some expression looks at is read.
pub(crate) struct Subject<'r> {
    op: CelString<'r>,
    before: Option<Boxed<'r>>,
    after: Option<Boxed<'r>>,
    audit: Option<Boxed<'r>>,
    value: Option<Boxed<'r>>,
}

/// The parts of an event that expressions may look at, as JSON.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct SubjectParts<'a> {
    #[serde(borrow)]
    pub(crate) before: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) after: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) audit: Option<&'a RawValue>,
    /// What an application's own event holds.
    #[serde(skip)]
    pub(crate) value: Option<&'a RawValue>,
}

impl<'r> Subject<'r> {
    /// Reads what `needs` names of a row event.
    pub(crate) fn read(
        record: &'r Record,
        types: &ColumnTypeOf<'_>,
        needs: &Needs,
    ) -> Result<Self, Malformed> {
        let op = record.op_text().unwrap_or_default();
        Subject::of(op, parse_body(record)?, types, needs)
    }

    /// Reads what `needs` names of an event's parts.
    pub(crate) fn of(
        op: &'r str,
        parts: SubjectParts<'r>,
        types: &ColumnTypeOf<'_>,
        needs: &Needs,
    ) -> Result<Self, Malformed> {
        let plain = |_: &str| Cow::Owned(PgType::Plain);
        Ok(Subject {
            op: CelString::from(op),
            before: part(parts.before, types, &needs.before)?,
            after: part(parts.after, types, &needs.after)?,
            audit: part(parts.audit, &plain, &needs.audit)?,
            value: part(parts.value, &plain, &needs.value)?,
        })
    }
}

fn part<'r>(
    json: Option<&'r RawValue>,
    types: &ColumnTypeOf<'_>,
    members: &Members,
) -> Result<Option<Boxed<'r>>, Malformed> {
    if members.is_empty() {
        return Ok(None);
    }
    let Some(json) = json else {
        return Ok(Some(Box::new(CelNull)));
    };
    let image = Image::parse(json.get().as_bytes())?;
    let columns = image.0.into_iter();
    let needed = columns.filter(|(name, _)| members.contains(name));
    let typed = needed.map(|(name, json)| {
        let value = value(json, &types(&name))?;
        Ok((name, value))
    });
    map(typed).map(Some)
}

impl VariableResolver for Subject<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let part = match variable {
            "op" => return Some(CowVal::Borrowed(&self.op)),
            "before" => &self.before,
            "after" => &self.after,
            "audit" => &self.audit,
            "value" => &self.value,
            _ => return None,
        };
        part.as_deref().map(CowVal::Borrowed)
    }
}
