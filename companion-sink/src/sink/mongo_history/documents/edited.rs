//! What a document says of an event that somebody edited before it was applied: a fact of the source and a repair are not the same.

use mongodb::bson::{RawBson, RawDocumentBuf, rawdoc};
use serde_json::value::RawValue;

use crate::event::image::Image;
use crate::event::parse_body;
use crate::event::pg_type::PgType;
use crate::kafka::record::Record;
use crate::sink::mongo_history::documents::bson_value::{Names, value_of};
use crate::sink::mongo_history::parked::actions::Open;

/// A longer original is in `companion_actions` alone.
const ORIGINAL_BYTES_MAX: usize = 64 << 10;

#[derive(serde::Deserialize)]
struct EditedBody<'a> {
    #[serde(borrow)]
    after: Option<Image<'a>>,
}

/// Who edited an event, when and why, and what the source had sent in the columns that were edited.
pub(crate) fn edited(
    open: &Open,
    original: &Record,
    edited: &Record,
    names: Names,
) -> RawDocumentBuf {
    let mut out = rawdoc! { "by": open.by.as_str(), "at": open.at.as_str() };
    out.append(
        "reason",
        match &open.reason {
            Some(reason) => RawBson::String(reason.clone()),
            None => RawBson::Null,
        },
    );
    let mut columns = RawDocumentBuf::new();
    let before = parse_body::<EditedBody<'_>>(original)
        .ok()
        .and_then(|body| body.after);
    let after = parse_body::<EditedBody<'_>>(edited)
        .ok()
        .and_then(|body| body.after);
    if let (Some(before), Some(after)) = (before, after) {
        for (name, value) in &before.0 {
            let is_edited = after
                .get(name)
                .is_none_or(|edited| edited.get() != value.get());
            if is_edited && !name.contains('\0') {
                columns.append(names.write(name), original_value(value, names));
            }
        }
    }
    out.append("original", columns);
    out
}

/// In a form that every server takes: it may have been refused for what it is.
fn original_value(value: &RawValue, names: Names) -> RawBson {
    let text = value.get();
    if text.len() > ORIGINAL_BYTES_MAX {
        return RawBson::String(format!("{} bytes, see companion_actions", text.len()));
    }
    match text.starts_with(['[', '{']) {
        true => RawBson::String(text.to_owned()),
        false => value_of(value, &PgType::Plain, names).unwrap_or(RawBson::Null),
    }
}
