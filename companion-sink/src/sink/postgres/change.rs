//! A row event made ready: its table, its key, and where its columns are.

use std::borrow::Cow;

use super::pg_text::to_text;
use super::tables::Table;
use crate::dead_letter::Failure;
use crate::event::{Headers, Image, Malformed, Op, RowBody};
use crate::record::Record;

/// A row event, parsed once.
pub struct Change<'b> {
    /// Its record.
    pub record: &'b Record,
    /// What it does.
    pub kind: Kind,
    /// The place of its table.
    pub table: usize,
    /// What parks it and what coalesces it: the row's identity as text; empty where the table has no key.
    pub key: &'b [u8],
    /// On a create of a changed key: the key before.
    pub old_key: Option<&'b [u8]>,
    /// The identity's columns.
    pub identity: Image<'b>,
    before: Option<Image<'b>>,
    after: Option<Image<'b>>,
    /// The first column whose new value was too large to be shipped: the image has NULL in its place.
    stub: Option<String>,
}

/// What a change does to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The row is now as the image after.
    Upsert,
    /// The row with this key is gone.
    Delete,
    /// No key: a row more.
    Append,
    /// No key: one row that equals the image before becomes the image after.
    UpdateOne,
    /// No key: one row that equals the image before is gone.
    DeleteOne,
}

/// Values of a row as text for the server, `None` for NULL.
pub type Values<'c> = Vec<Option<Cow<'c, str>>>;

impl<'b> Change<'b> {
    /// Makes an event ready; its images must be there.
    pub fn new(
        record: &'b Record,
        headers: &Headers<'b>,
        body: RowBody<'b>,
        table: usize,
    ) -> Result<Self, Malformed> {
        let key = identity_of(record, headers);
        let kind = match (headers.op, key.is_empty()) {
            (Op::Delete, false) => Kind::Delete,
            (_, false) => Kind::Upsert,
            (Op::Delete, true) => Kind::DeleteOne,
            (Op::Update, true) => Kind::UpdateOne,
            (_, true) => Kind::Append,
        };
        let needs_before = matches!(kind, Kind::DeleteOne | Kind::UpdateOne);
        let needs_after = !matches!(kind, Kind::Delete | Kind::DeleteOne);
        if (needs_before && body.before.is_none()) || (needs_after && body.after.is_none()) {
            return Err(Malformed("the row's image is missing".into()));
        }
        let identity = match key {
            [] => Image::default(),
            json => Image::parse(json)?,
        };
        if !key.is_empty() && identity.0.is_empty() {
            return Err(Malformed("the key has no columns".into()));
        }
        Ok(Change {
            record,
            kind,
            table,
            key,
            old_key: headers.old_key.map(str::as_bytes),
            identity,
            before: body.before,
            after: body.after,
            stub: body.marks.and_then(|marks| marks.stub().map(str::to_owned)),
        })
    }

    /// The new image's values for the columns at `layout`; refused where one was too large to be shipped, for the
    /// target would hold a NULL that the source never had.
    pub fn new_values(&self, table: &Table, layout: &[usize]) -> Result<Values<'_>, Failure> {
        match &self.stub {
            None => values(table, layout, self.after()),
            Some(column) => Err(Failure::refused(format!(
                "the value of column \"{column}\" was too large to be shipped"
            ))),
        }
    }

    /// The image after the change, empty for a delete.
    pub fn after(&self) -> &[(Cow<'b, str>, &'b serde_json::value::RawValue)] {
        self.after.as_ref().map_or(&[], |image| &image.0)
    }

    /// The image before the change, where the change needs it.
    pub fn before(&self) -> &[(Cow<'b, str>, &'b serde_json::value::RawValue)] {
        self.before.as_ref().map_or(&[], |image| &image.0)
    }

    /// The first column of the event that the table does not have.
    pub fn unknown_column(&self, table: &Table) -> Option<&str> {
        let image = if self.kind == Kind::Delete {
            &self.identity.0[..]
        } else {
            self.after()
        };
        let before = if self.kind == Kind::UpdateOne || self.kind == Kind::DeleteOne {
            self.before()
        } else {
            &[]
        };
        let mut names = image.iter().chain(before).map(|(name, _)| name.as_ref());
        names.find(|name| table.column(name).is_none())
    }
}

/// The row's identity: the header where the record's key is another, else the key; empty for none.
pub fn identity_of<'b>(record: &'b Record, headers: &Headers<'b>) -> &'b [u8] {
    match headers.identity {
        Some(identity) => identity.as_bytes(),
        None => record.key().unwrap_or_default(),
    }
}

/// The places of an image's columns; those that the target computes itself are left out.
pub fn layout(table: &Table, image: &[(Cow<'_, str>, &serde_json::value::RawValue)]) -> Vec<usize> {
    image
        .iter()
        .filter_map(|(name, _)| table.column(name))
        .filter(|column| !table.columns[*column].generated)
        .collect()
}

/// The values of an image for the columns at `layout`.
pub fn values<'c>(
    table: &Table,
    layout: &[usize],
    image: &'c [(Cow<'_, str>, &serde_json::value::RawValue)],
) -> Result<Values<'c>, Failure> {
    let mut next = 0;
    layout
        .iter()
        .map(|place| {
            let column = &table.columns[*place];
            // The layout follows the image's order, so the value is nearly always the next one.
            while image
                .get(next)
                .is_some_and(|(name, _)| *name != column.name)
            {
                next += 1;
            }
            let Some((_, json)) = image.get(next) else {
                return Err(Failure::conversion(format!(
                    "column {} is missing",
                    column.name
                )));
            };
            next += 1;
            to_text(json, &column.pg_type).map_err(|why| {
                Failure::conversion(format!(
                    "column {} of type {}: {}",
                    column.name, column.type_name, why.0
                ))
            })
        })
        .collect()
}
