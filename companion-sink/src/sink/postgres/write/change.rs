//! A row event made ready: its table, its key, and where its columns are.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::event::Headers;
use crate::event::Op;
use crate::event::RowBody;
use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::sink::postgres::schema::tables::{Column, Table};
use crate::sink::postgres::write::pg_text::to_text;

/// A row event, parsed once.
pub(crate) struct RowChange<'b> {
    /// Its record.
    pub(crate) record: &'b Record,
    /// What happened at the source.
    pub(crate) op: Op,
    /// What it does.
    pub(crate) kind: ChangeKind,
    /// The place of its table.
    pub(crate) table: usize,
    /// What parks it and what coalesces it: the row's identity as text; empty where the table has no key.
    pub(crate) key: &'b [u8],
    /// On a create of a changed key: the key before.
    pub(crate) old_key: Option<&'b [u8]>,
    /// The identity's columns.
    pub(crate) identity: Image<'b>,
    before: Option<Image<'b>>,
    after: Option<Image<'b>>,
    /// The first column whose new value was too large to be shipped: the image has NULL in its place.
    stub: Option<String>,
    /// The reading of the catalog by which the image after has the table's columns in the table's order, and the target computes
    /// none of them: so it is nearly always, and then no name has to be looked for.
    in_order_of: Option<u64>,
}

/// What a change does to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
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
pub(crate) type Values<'c> = Vec<Option<Cow<'c, str>>>;

impl<'b> RowChange<'b> {
    /// Makes an event ready; its images must be there.
    pub(crate) fn new(
        record: &'b Record,
        headers: &Headers<'b>,
        body: RowBody<'b>,
        table: usize,
    ) -> Result<Self, Malformed> {
        let key = identity_of(record, headers);
        let kind = match (headers.op, key.is_empty()) {
            (Op::Delete, false) => ChangeKind::Delete,
            (_, false) => ChangeKind::Upsert,
            (Op::Delete, true) => ChangeKind::DeleteOne,
            (Op::Update, true) => ChangeKind::UpdateOne,
            (_, true) => ChangeKind::Append,
        };
        let needs_before = matches!(kind, ChangeKind::DeleteOne | ChangeKind::UpdateOne);
        let has_before = needs_before || headers.op == Op::Update;
        let needs_after = !matches!(kind, ChangeKind::Delete | ChangeKind::DeleteOne);
        if (needs_before && body.before.is_none()) || (needs_after && body.after.is_none()) {
            return Err(Malformed("the row's image is missing".into()));
        }
        let before = match body.before.filter(|_| has_before) {
            Some(before) => Some(Image::parse(before.get().as_bytes())?),
            None => None,
        };
        let identity = match key {
            [] => Image::default(),
            json => Image::parse(json)?,
        };
        if !key.is_empty() && identity.0.is_empty() {
            return Err(Malformed("the key has no columns".into()));
        }
        Ok(RowChange {
            record,
            op: headers.op,
            kind,
            table,
            key,
            old_key: headers.old_key.map(str::as_bytes),
            identity,
            before,
            after: body.after,
            stub: body.marks.and_then(|marks| marks.stub().map(str::to_owned)),
            in_order_of: None,
        })
    }

    /// Looks at how the images fit the table: the first column of the event that the table does not have.
    pub(crate) fn fit(&mut self, table: &Table) -> Option<&str> {
        let (after, columns) = (self.after(), &table.columns);
        let is_in_order = matches!(self.kind, ChangeKind::Upsert | ChangeKind::Append)
            && after.len() == columns.len()
            && after
                .iter()
                .zip(columns)
                .all(|((name, _), column)| *name == column.source_name && !column.generated);
        self.in_order_of = is_in_order.then_some(table.reading);
        match is_in_order {
            true => None,
            false => self.unknown_column(table),
        }
    }

    fn is_in_order_of(&self, table: &Table) -> bool {
        self.in_order_of == Some(table.reading)
    }

    /// Nothing is taken for granted of the row that is there: it becomes the image after the change, as when a snapshot found it.
    pub(crate) fn become_whole(&mut self) {
        if self.kind == ChangeKind::Upsert {
            self.op = Op::Read;
        }
    }

    /// The new image's values for the columns at `layout`; refused where one was too large to be shipped, for the
    /// target would hold a NULL that the source never had.
    pub(crate) fn new_values(
        &self,
        table: &Table,
        layout: &[usize],
    ) -> Result<Values<'b>, Failure> {
        if let Some(column) = &self.stub {
            return Err(Failure::refused(format!(
                "the value of column \"{column}\" was too large to be shipped"
            )));
        }
        let after = self.after();
        if layout.is_empty() {
            return Err(Failure::refused(format!(
                "its row has no column that {} could be given",
                table.name
            )));
        }
        if !self.is_in_order_of(table) {
            return values(table, layout, after);
        }
        let places = layout.iter();
        places
            .map(|place| value_of(&table.columns[*place], after[*place].1))
            .collect()
    }

    /// Whether [`layout`] of the image after is `wanted`.
    pub(crate) fn has_layout(&self, table: &Table, wanted: &[usize]) -> bool {
        match self.is_in_order_of(table) {
            true => wanted.iter().copied().eq(0..table.columns.len()),
            false => has_layout(table, wanted, self.after()),
        }
    }

    /// The image after the change, empty for a delete.
    pub(crate) fn after(&self) -> &[(Cow<'b, str>, &'b RawValue)] {
        self.after.as_ref().map_or(&[], |image| &image.0)
    }

    /// The image before the change, where the change needs it.
    pub(crate) fn before(&self) -> &[(Cow<'b, str>, &'b RawValue)] {
        self.before.as_ref().map_or(&[], |image| &image.0)
    }

    /// The places of the key's columns and of those that have other values after this change than before `first`, an earlier
    /// change of the row or the same.
    pub(crate) fn changed_columns(
        &self,
        table: &Table,
        key: &[usize],
        first: &RowChange<'_>,
    ) -> Vec<usize> {
        let (before, after) = (first.before(), self.after());
        let is_changed = |place: usize, name: &str, value: &str| {
            // Both images have the same columns in the same order, nearly always.
            let was = match before.get(place) {
                Some((column, was)) if column == name => Some(was),
                _ => before
                    .iter()
                    .find(|(column, _)| column == name)
                    .map(|(_, was)| was),
            };
            was.is_none_or(|was| was.get() != value)
        };
        let is_in_order = self.is_in_order_of(table);
        let places = after
            .iter()
            .enumerate()
            .filter_map(|(place, (name, value))| {
                let column = match is_in_order {
                    true => place,
                    false => table.column_near(place, name)?,
                };
                let is_written =
                    !table.columns[column].generated && is_changed(place, name, value.get());
                (is_written || key.contains(&column)).then_some(column)
            });
        places.collect()
    }

    fn unknown_column<'c>(&'c self, table: &Table) -> Option<&'c str> {
        let image = if self.kind == ChangeKind::Delete {
            &self.identity.0[..]
        } else {
            self.after()
        };
        let before = if self.kind == ChangeKind::UpdateOne || self.kind == ChangeKind::DeleteOne {
            self.before()
        } else {
            &[]
        };
        let unknown = |columns: &'c [(Cow<'b, str>, &RawValue)]| {
            let mut names = columns.iter().map(|(name, _)| name.as_ref()).enumerate();
            names.find(|(place, name)| table.column_near(*place, name).is_none())
        };
        let (_, name) = unknown(image).or_else(|| unknown(before))?;
        Some(name)
    }
}

/// The row's identity: the header where the record's key is another, else the key; empty for none.
pub(crate) fn identity_of<'b>(record: &'b Record, headers: &Headers<'b>) -> &'b [u8] {
    match headers.identity {
        Some(identity) => identity.as_bytes(),
        None => record.key().unwrap_or_default(),
    }
}

/// The places of an image's columns; those that the target computes itself are left out.
pub(crate) fn layout(table: &Table, image: &[(Cow<'_, str>, &RawValue)]) -> Vec<usize> {
    image
        .iter()
        .enumerate()
        .filter_map(|(place, (name, _))| table.column_near(place, name))
        .filter(|column| !table.columns[*column].generated)
        .collect()
}

/// As [`layout`], of columns by which rows are looked for: those that the target computes are there as well.
pub(crate) fn key_layout(table: &Table, image: &[(Cow<'_, str>, &RawValue)]) -> Vec<usize> {
    let places = image.iter().enumerate();
    places
        .filter_map(|(place, (name, _))| table.column_near(place, name))
        .collect()
}

/// Whether [`key_layout`] of an image is `layout`.
pub(crate) fn has_key_layout(
    table: &Table,
    layout: &[usize],
    image: &[(Cow<'_, str>, &RawValue)],
) -> bool {
    let mut places = layout.iter();
    let mut names = image.iter();
    names.all(|(name, _)| {
        places
            .next()
            .is_some_and(|place| table.columns[*place].source_name == *name)
    }) && places.next().is_none()
}

/// Whether [`layout`] of an image is `layout`.
pub(crate) fn has_layout(
    table: &Table,
    layout: &[usize],
    image: &[(Cow<'_, str>, &RawValue)],
) -> bool {
    let names = layout
        .iter()
        .map(|place| &table.columns[*place].source_name);
    let mut names = names.peekable();
    let is_left_out = |column: &str| {
        let place = table.column(column);
        place.is_none_or(|place| table.columns[place].generated)
    };
    let fits = image
        .iter()
        .all(|(column, _)| names.next_if(|name| *name == column).is_some() || is_left_out(column));
    fits && names.next().is_none()
}

/// The values of an image for the columns at `layout`.
pub(crate) fn values<'b>(
    table: &Table,
    layout: &[usize],
    image: &[(Cow<'_, str>, &'b RawValue)],
) -> Result<Values<'b>, Failure> {
    let mut next = 0;
    layout
        .iter()
        .map(|place| {
            let column = &table.columns[*place];
            // The layout follows the image's order, so the value is nearly always the next one.
            while image
                .get(next)
                .is_some_and(|(name, _)| *name != column.source_name)
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
            value_of(column, json)
        })
        .collect()
}

/// The value of a column as text for the server.
pub(crate) fn value_of<'b>(
    column: &Column,
    json: &'b RawValue,
) -> Result<Option<Cow<'b, str>>, Failure> {
    to_text(json, &column.pg_type).map_err(|why| {
        Failure::conversion(format!(
            "column {} of type {}: {}",
            column.name, column.type_name, why.0
        ))
    })
}
