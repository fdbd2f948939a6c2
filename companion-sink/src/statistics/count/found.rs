//! What an event holds, for what is counted.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::statistics::path::{Path, Root};
use crate::event::Op;
use crate::event::commit_time_us;
use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::own::{OwnEvent, op_text};
use crate::event::parse_body;
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::rule::needs::Needs;
use crate::rule::subject::{ColumnTypeOf, Subject, SubjectParts};
use crate::statistics::value::Value;

/// What an event holds.
pub(crate) struct Found<'r> {
    record: &'r Record,
    parts: SubjectParts<'r>,
    after: Option<Image<'r>>,
    /// What the images do not show by themselves.
    marks: Option<Image<'r>>,
    /// Of an application's own event: it stands in headers.
    own_audit: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    #[serde(borrow)]
    audit: Option<&'a RawValue>,
    #[serde(borrow)]
    marks: Option<Marks<'a>>,
}

#[derive(Deserialize)]
struct Marks<'a> {
    #[serde(borrow)]
    before: Option<Image<'a>>,
    #[serde(borrow)]
    after: Option<Image<'a>>,
}

impl<'r> Found<'r> {
    /// A row as it is after an event.
    pub(crate) fn after(record: &'r Record) -> Result<Found<'r>, Malformed> {
        let body: Body<'r> = parse_body(record)?;
        let parts = SubjectParts {
            before: body.before,
            after: body.after,
            audit: body.audit,
            value: None,
        };
        Found::of_row(record, parts, body.marks.and_then(|marks| marks.after))
    }

    /// A row as it was before an event.
    pub(crate) fn before(record: &'r Record) -> Result<Found<'r>, Malformed> {
        let body: Body<'r> = parse_body(record)?;
        let parts = SubjectParts {
            before: body.before,
            after: body.before,
            audit: body.audit,
            value: None,
        };
        Found::of_row(record, parts, body.marks.and_then(|marks| marks.before))
    }

    fn of_row(
        record: &'r Record,
        parts: SubjectParts<'r>,
        marks: Option<Image<'r>>,
    ) -> Result<Found<'r>, Malformed> {
        let after = parts.after.map(|json| Image::parse(json.get().as_bytes()));
        Ok(Found {
            record,
            parts,
            after: after.transpose()?,
            marks,
            own_audit: None,
        })
    }

    /// An application's own event, which may have no value.
    pub(crate) fn own(record: &'r Record) -> Result<Found<'r>, Malformed> {
        let OwnEvent { value, audit } = OwnEvent::read(record)?;
        let parts = SubjectParts {
            value,
            ..SubjectParts::default()
        };
        Ok(Found {
            record,
            parts,
            after: None,
            marks: None,
            own_audit: Some(audit),
        })
    }

    fn parts(&self) -> SubjectParts<'_> {
        SubjectParts {
            audit: self.own_audit.as_deref().or(self.parts.audit),
            ..self.parts
        }
    }

    fn op(&self) -> &'r str {
        op_text(self.record)
    }

    /// When it was committed; of an application's own event, when it came to Kafka. Microseconds since 1970.
    pub(crate) fn time_us(&self) -> Option<i64> {
        match self.record.op() {
            Some(Op::Emit) | None => self.record.time_ms.map(|ms| ms.saturating_mul(1000)),
            _ => commit_time_us(self.record),
        }
    }

    /// As expressions see it.
    pub(crate) fn subject(
        &self,
        types: &ColumnTypeOf<'_>,
        needs: &Needs,
    ) -> Result<Subject<'_>, Malformed> {
        Subject::of(self.op(), self.parts(), types, needs)
    }

    /// The value at a path; NULL where there is none.
    pub(crate) fn value(&self, path: &Path, types: &ColumnTypeOf<'_>) -> Result<Value, Failure> {
        let Some((first, deeper)) = path.names.split_first() else {
            return Ok(Value::Text(self.op().to_owned()));
        };
        let whole = match path.root {
            Root::After => {
                self.check_shipped(first, path)?;
                self.after.as_ref().and_then(|image| image.get(first))
            }
            Root::Value => member(self.parts.value, first)?,
            Root::Audit => member(self.parts().audit, first)?,
            Root::Op => None,
        };
        let mut found = whole;
        for name in deeper {
            found = member(found, name)?;
        }
        let Some(found) = found else {
            return Ok(Value::Null);
        };
        let value = match path.root == Root::After && deeper.is_empty() {
            true => Value::of_json(found, &types(first)),
            false => Value::of_json(found, &PgType::Plain),
        };
        value.map_err(|why| Failure::conversion(format!("{} {why}", path.text())))
    }

    /// A NULL in place of a value that was too large is none.
    fn check_shipped(&self, column: &str, path: &Path) -> Result<(), Failure> {
        let mark = self.marks.as_ref().and_then(|marks| marks.get(column));
        match mark {
            Some(mark) if mark.get().starts_with("{\"stub\":") => Err(Failure::conversion(
                format!("{} was too large to be shipped", path.text()),
            )),
            _ => Ok(()),
        }
    }
}

/// A member of an object; none where it is no object.
fn member<'r>(json: Option<&'r RawValue>, name: &str) -> Result<Option<&'r RawValue>, Malformed> {
    let Some(json) = json.filter(|json| json.get().starts_with('{')) else {
        return Ok(None);
    };
    let image = Image::parse(json.get().as_bytes())?;
    Ok(image.get(name))
}
