//! The search for the event that the target refuses at the end of a transaction only: a deferred constraint does not say which
//! row it is about. The transaction is given once more, event by event, and what is in doubt is looked at after each.

use std::collections::HashMap;

use crate::config::OnError;
use crate::error::{Code, Error, Result};
use crate::event::{Headers, Image, RowBody};
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::rejected::failure::Failure;
use crate::sink::postgres::connection::Doubt;
use crate::sink::postgres::in_commit_order::transaction::{Poison, Why};
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::write::change::value_of;
use crate::sink::postgres::{Postgres, not_connected};

/// So often is looked at most since when the same is in doubt: each look is at all of it.
const LOOKS_MAX: usize = 1000;
/// A transaction is not given more often for one event.
const TURNS_MAX: usize = 3;

/// Why nothing of a transaction is in the target.
pub enum Uncommitted {
    /// This event cannot be applied.
    Poisoned(Box<Poison>),
    /// The target refused it at its end, and did not say for which event: it is to be given once more, from its beginning.
    Again,
}

/// What is known so far.
#[derive(Default)]
pub struct Search {
    /// What the transaction was refused for; the search is on while this is there, or events were found.
    wanted: Option<Doubt>,
    turns: usize,
    /// The last event whose row the server named.
    named: Option<Record>,
    /// The event since which that is in doubt, and how many looks there were since.
    first: Option<(Record, usize)>,
    /// Events that were found, by their ids: they are set aside when they come again.
    found: HashMap<String, Failure>,
    /// What goes to the dead letters when nothing is in doubt any more.
    letters: Vec<(Record, Failure)>,
}

impl Search {
    /// Whether it goes on.
    pub fn is_on(&self) -> bool {
        self.wanted.is_some() || !self.found.is_empty()
    }

    /// Why an event was found.
    pub fn found(&self, record: &Record) -> Option<&Failure> {
        match self.found.is_empty() {
            true => None,
            false => self.found.get(&record.event_id()),
        }
    }

    /// Keeps what the open transaction refuses.
    pub fn keep(&mut self, letters: &[(&Record, &Failure)]) {
        let letters = letters.iter();
        self.letters
            .extend(letters.map(|(record, failure)| ((*record).clone(), (*failure).clone())));
    }

    /// A transaction begins.
    pub fn begin(&mut self) {
        self.named = None;
        self.first = None;
        self.letters.clear();
    }
}

impl Postgres {
    /// Looks at what is in doubt after an event. A row that comes before the one it references is so for a while.
    pub(crate) async fn look_at_doubts(&mut self, record: &Record) -> Result<()> {
        let Some(wanted) = &self.search.wanted else {
            return Ok(());
        };
        if self.search.found(record).is_some() {
            return Ok(());
        }
        let connection = self.connection.as_ref().ok_or_else(not_connected)?;
        let header = record.header("cdc.table").unwrap_or_default();
        if let Some(table) = connection.tables.known(&record.topic, header)
            && names(wanted, connection.tables.get(table), record)
        {
            self.search.named = Some(record.clone());
        }
        let looks = self.search.first.as_ref().map(|(_, looks)| *looks);
        // A detail names the row, nearly always.
        let may_be_named = wanted.detail.is_some() && self.search.turns < 2;
        if self.search.named.is_some() || may_be_named || looks > Some(LOOKS_MAX) {
            return Ok(());
        }
        let session = &connection.session;
        session.execute("SAVEPOINT looking").await?;
        let doubt = session.doubt().await?;
        let end = match doubt {
            None => "RELEASE SAVEPOINT looking; SET CONSTRAINTS ALL DEFERRED",
            Some(_) => "ROLLBACK TO SAVEPOINT looking; RELEASE SAVEPOINT looking",
        };
        session.execute(end).await?;
        let is_wanted = doubt.is_some_and(|doubt| doubt.is_same(wanted));
        match &mut self.search.first {
            first if !is_wanted => *first = None,
            Some((_, looks)) => *looks += 1,
            first => *first = Some((record.clone(), 0)),
        }
        Ok(())
    }

    /// Commits. `None` if that is done; else the search goes on, or has found the event.
    pub(crate) async fn end_transaction(
        &mut self,
        last: Option<&Record>,
        dead_letters: &DeadLetters,
    ) -> Result<Option<Uncommitted>> {
        let doubt = match self.search.is_on() {
            true => self.connection()?.session.doubt().await?,
            false => None,
        };
        let doubt = match doubt {
            Some(doubt) => doubt,
            None => {
                let letters = std::mem::take(&mut self.search.letters);
                let letters: Vec<_> = letters.iter().map(|(record, why)| (record, why)).collect();
                if !letters.is_empty() {
                    self.tell(&letters, dead_letters).await?;
                }
                match self.connection()?.session.commit().await? {
                    None => {
                        self.search = Search::default();
                        return Ok(None);
                    }
                    Some(doubt) => doubt,
                }
            }
        };
        let connection = self.connection()?;
        connection.session.execute("ROLLBACK").await?;
        connection.in_transaction = false;
        let search = &mut self.search;
        let is_wanted = search
            .wanted
            .as_ref()
            .is_some_and(|wanted| wanted.is_same(&doubt));
        search.turns += 1;
        let is_told = is_wanted && (search.named.is_some() || search.first.is_some());
        if !is_told && search.turns <= TURNS_MAX {
            search.wanted = Some(doubt);
            return Ok(Some(Uncommitted::Again));
        }
        let first = search.first.take().map(|(record, _)| record);
        // What does not show before the end is told of the last event.
        let Some(record) = search.named.take().or(first).or_else(|| last.cloned()) else {
            return Err(doubt.fault.error("COMMIT"));
        };
        let mut failure = match doubt.fault.refusal::<()>()? {
            Err(failure) => failure,
            Ok(()) => return Ok(None),
        };
        failure.message += &format!(
            "; found at the end of the transaction, event of {}",
            record.header("cdc.table").unwrap_or_default()
        );
        let is_row = Headers::read(&record).is_ok_and(|headers| headers.op.is_row());
        if self.settings.on_error() == OnError::Halt || !is_row {
            self.search = Search::default();
            let poison = Poison::new(&record, Why::Refused(failure));
            return Ok(Some(Uncommitted::Poisoned(poison)));
        }
        let what = format!("postgres: COMMIT: {}", failure.message);
        let known = search.found.insert(record.event_id(), failure);
        search.wanted = None;
        search.turns = 0;
        let checked = self.refusals.check(search.found.len());
        if known.is_some() || checked.is_err() {
            // It is not this one, or there are too many: a person has to look, and the search begins anew then.
            self.search = Search::default();
            checked?;
            return Err(Error::new(
                Code::TargetRefuses,
                what,
                "Correct the target's constraint or trigger, then send SIGHUP.",
            ));
        }
        Ok(Some(Uncommitted::Again))
    }
}

/// Whether the server's detail, as in `Key (p)=(99) is not present in table "parent"`, is about the row of an event: what it has
/// now, or, where another table still references it, what it had.
fn names(wanted: &Doubt, table: &Table, record: &Record) -> bool {
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
