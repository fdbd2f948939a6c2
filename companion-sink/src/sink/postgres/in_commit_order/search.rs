//! The search for the event that the target refuses at the end of a transaction only: a deferred constraint does not say which
//! row it is about. The transaction is given once more, event by event, and what is in doubt is looked at after each.

use std::collections::HashMap;

use crate::event::RowBody;
use crate::event::image::Image;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::sink::postgres::connection::ConstraintDoubt;
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::write::change::value_of;

/// What is known so far.
#[derive(Default)]
pub(crate) struct Search {
    /// What the transaction was refused for; the search is on while this is there, or events were found.
    pub(crate) wanted: Option<ConstraintDoubt>,
    pub(crate) turns: usize,
    /// The last event whose row the server named.
    pub(crate) named: Option<Record>,
    /// The event since which that is in doubt, and how many looks there were since.
    pub(crate) first: Option<(Record, usize)>,
    /// Events that were found, by their ids: they are set aside when they come again.
    pub(crate) found: HashMap<String, Failure>,
    /// What goes to the dead letters when nothing is in doubt any more.
    pub(crate) letters: Vec<(Record, Failure)>,
}

impl Search {
    /// Whether it goes on.
    pub(crate) fn is_on(&self) -> bool {
        self.wanted.is_some() || !self.found.is_empty()
    }

    /// Why an event was found.
    pub(crate) fn found(&self, record: &Record) -> Option<&Failure> {
        match self.found.is_empty() {
            true => None,
            false => self.found.get(&record.event_id()),
        }
    }

    /// Keeps what the open transaction refuses.
    pub(crate) fn keep(&mut self, letters: &[(&Record, &Failure)]) {
        let letters = letters.iter();
        self.letters
            .extend(letters.map(|(record, failure)| ((*record).clone(), (*failure).clone())));
    }

    /// A transaction begins.
    pub(crate) fn begin(&mut self) {
        self.named = None;
        self.first = None;
        self.letters.clear();
    }
}

/// Whether the server's detail, as in `Key (p)=(99) is not present in table "parent"`, is about the row of an event: what it has
/// now, or, where another table still references it, what it had.
pub(crate) fn names(wanted: &ConstraintDoubt, table: &Table, record: &Record) -> bool {
    let (Some(detail), Some((schema, of))) = (&wanted.detail, &wanted.table) else {
        return false;
    };
    let is_referenced = detail.contains(&format!("\"{of}\""));
    let is_of_table = table.target.table == *of && table.target.schema == *schema;
    let Ok(body) = RowBody::parse(record) else {
        return false;
    };
    let image = match is_referenced {
        false if is_of_table => body.after,
        false => None,
        true => match body
            .before
            .map(|image| Image::parse(image.get().as_bytes()))
        {
            Some(Ok(image)) => Some(image),
            _ => record.key().and_then(|key| Image::parse(key).ok()),
        },
    };
    let Some((columns, _)) = detail
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(")=("))
    else {
        return false;
    };
    let value = |name: &str| {
        let column = table.columns.iter().find(|column| column.name == name)?;
        let json = image.as_ref()?.get(&column.source_name)?;
        value_of(column, json).ok()?
    };
    let values: Option<Vec<_>> = columns.split(", ").map(value).collect();
    values.is_some_and(|values| {
        let values: Vec<&str> = values.iter().map(|value| &**value).collect();
        detail.contains(&format!("({columns})=({})", values.join(", ")))
    })
}
