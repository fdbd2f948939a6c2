//! Rows on their way into the target in one stream: while the server executes a statement, the next one is made. It takes for
//! granted what holds nearly always: rows that come are new, rows that change are there, and the target refuses nothing. Where
//! that is wrong the caller goes back to a savepoint and takes the careful way of `apply`.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use futures_util::{SinkExt, poll};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::apply::check_unique;
use super::change::{Change, Kind, Values, has_layout, layout, values};
use super::connection::Session;
use super::failure::{Fault, sort};
use super::statements;
use super::tables::{Table, Tables};
use crate::dead_letter::Failure;
use crate::error::{Code, Error};
use crate::event::Op;

/// Rows in one statement at most: enough that its own costs are small, few enough that the server is soon at work.
pub const STATEMENT_ROWS: usize = 1000;
/// A row's text has about so much.
const ROW_BYTES: usize = 256;
/// Statements that the server has got and not answered.
const UNANSWERED: usize = 2;

/// Statements under way.
#[derive(Default)]
pub struct Stream<'b> {
    unanswered: VecDeque<Answer<'b>>,
}

type Answer<'b> = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send + 'b>>;

/// Changes that one statement can make.
struct Group<'c, 'b> {
    table: usize,
    way: Way,
    /// The places of the columns that are written.
    columns: Vec<usize>,
    /// The places of the key's columns.
    key: Vec<usize>,
    changes: Vec<&'c Change<'b>>,
}

/// What is done to rows. In this order a unique value is free again before another row gets it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Delete,
    Update,
    Upsert,
    Insert,
}

impl Way {
    /// What `change`, the last one of its key, has to do where `first` was the first.
    fn of(first: Op, change: &Change<'_>) -> Way {
        match (change.kind, first) {
            (Kind::Delete, _) => Way::Delete,
            (Kind::Append, _) | (_, Op::Create) => Way::Insert,
            (_, Op::Update) => Way::Update,
            _ => Way::Upsert,
        }
    }
}

impl<'c, 'b> Group<'c, 'b> {
    /// `first` is the first change of the key.
    fn of(table: &Table, way: Way, first: &Change<'b>, change: &'c Change<'b>) -> Self {
        let key = layout(table, &change.identity.0);
        let columns = match way {
            Way::Delete => key.clone(),
            Way::Update => change.changed_columns(table, &key, first),
            _ => layout(table, change.after()),
        };
        Group {
            table: change.table,
            way,
            columns,
            key,
            changes: vec![change],
        }
    }

    /// Whether a change can go with those that are there.
    fn takes(&self, table: &Table, way: Way, first: &Change<'b>, change: &Change<'b>) -> bool {
        self.table == change.table
            && self.way == way
            && has_layout(table, &self.key, &change.identity.0)
            && match way {
                Way::Delete => true,
                Way::Update => self.columns == change.changed_columns(table, &self.key, first),
                _ => has_layout(table, &self.columns, change.after()),
            }
    }

    fn sql(&self, table: &Table) -> String {
        match self.way {
            Way::Delete => statements::delete(table, &self.key),
            Way::Update => statements::update(table, &self.columns, &self.key),
            Way::Upsert => statements::insert(table, &self.columns, Some(&self.key)),
            Way::Insert => statements::copy(table, &self.columns),
        }
    }

    /// The values, an array for each column.
    fn arrays(&self, table: &Table) -> Result<Vec<Values<'b>>, Failure> {
        let rows = self.changes.len();
        let mut arrays: Vec<Values<'b>> = vec![Vec::with_capacity(rows); self.columns.len()];
        for change in &self.changes {
            let row = match self.way {
                Way::Delete => values(table, &self.columns, &change.identity.0)?,
                _ => change.new_values(table, &self.columns)?,
            };
            for (array, value) in arrays.iter_mut().zip(row) {
                array.push(value);
            }
        }
        Ok(arrays)
    }
}

impl<'b> Stream<'b> {
    /// Sends the statements for `changes`, of tables with or without a key; those of one key are coalesced.
    pub async fn send(
        &mut self,
        session: &mut Session,
        tables: &Tables,
        changes: &[Change<'b>],
    ) -> Result<(), Fault> {
        let mut groups: Vec<Group<'_, 'b>> = Vec::new();
        for (first, change) in last_of_each_key(changes) {
            let (table, way) = (tables.get(change.table), Way::of(first.op, change));
            let mut known = groups.iter_mut().rev();
            match known.find(|group| group.takes(table, way, first, change)) {
                Some(group) => group.changes.push(change),
                None => groups.push(Group::of(table, way, first, change)),
            }
        }
        groups.sort_by_key(|group| group.way);
        for group in groups {
            let table = tables.get(group.table);
            if group.way == Way::Upsert {
                check_unique(table, &group.key)?;
            }
            if group.way == Way::Insert {
                self.copy(session, table, &group).await?;
                continue;
            }
            let types = vec![Type::TEXT_ARRAY; group.columns.len()];
            let statement = prepared(session, table, &group.sql(table), &types).await?;
            let arrays = group.arrays(table).map_err(Fault::Event)?;
            let expected = (group.way == Way::Update).then_some(group.changes.len() as u64);
            self.start(&session.client, statement, arrays, table, expected)
                .await?;
        }
        Ok(())
    }

    /// Sends new rows.
    async fn copy(
        &mut self,
        session: &mut Session,
        table: &Table,
        group: &Group<'_, 'b>,
    ) -> Result<(), Fault> {
        let statement = prepared(session, table, &group.sql(table), &[]).await?;
        let mut rows = BytesMut::with_capacity(group.changes.len() * ROW_BYTES);
        for change in &group.changes {
            let values = change.new_values(table, &group.columns);
            put_row(&mut rows, &values.map_err(Fault::Event)?);
        }
        let doing = format!("changing {}", table.name);
        // The server is asked when it has done what came before; the rows go to it while the next ones are made.
        self.finish().await?;
        let sink = session.client.copy_in(&statement).await;
        let sink = sink.map_err(|error| not_copied(&doing, &error))?;
        let copied = tokio::spawn(async move {
            let mut sink = pin!(sink);
            sink.send(rows.freeze()).await?;
            sink.finish().await
        });
        self.unanswered.push_back(Box::pin(async move {
            match copied.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(not_copied(&doing, &error)),
                Err(error) => Err(Fault::Other(Error::new(
                    Code::Unreachable,
                    format!("postgres: {doing}: {error}"),
                    "It is tried again.",
                ))),
            }
        }));
        Ok(())
    }

    async fn start(
        &mut self,
        client: &Arc<Client>,
        statement: Statement,
        arrays: Vec<Values<'b>>,
        table: &Table,
        expected: Option<u64>,
    ) -> Result<(), Fault> {
        while self.unanswered.len() >= UNANSWERED {
            self.take_answer().await?;
        }
        let client = Arc::clone(client);
        let table = table.name.clone();
        let mut answer: Answer<'b> = Box::pin(async move {
            let parameters: Vec<&(dyn ToSql + Sync)> =
                arrays.iter().map(|array| array as _).collect();
            let done = client.execute(&statement, &parameters).await;
            let rows = done.map_err(|error| sort(&format!("changing {table}"), &error))?;
            match expected {
                Some(expected) if expected != rows => Err(Fault::Event(Failure::refused(format!(
                    "{table} lacks rows that were changed"
                )))),
                _ => Ok(()),
            }
        });
        // The first look sends the statement.
        if let std::task::Poll::Ready(done) = poll!(&mut answer) {
            done?;
        } else {
            self.unanswered.push_back(answer);
        }
        Ok(())
    }

    /// Waits until the server has done everything.
    pub async fn finish(&mut self) -> Result<(), Fault> {
        while !self.unanswered.is_empty() {
            self.take_answer().await?;
        }
        Ok(())
    }

    async fn take_answer(&mut self) -> Result<(), Fault> {
        match self.unanswered.pop_front() {
            Some(answer) => answer.await,
            None => Ok(()),
        }
    }
}

async fn prepared(
    session: &mut Session,
    table: &Table,
    sql: &str,
    types: &[Type],
) -> Result<Statement, Fault> {
    let prepared = session.prepared(sql, types).await;
    prepared.map_err(|error| sort(&format!("changing {}", table.name), &error))
}

/// Of each key the first and the last change, in the order of the last ones; of rows without a key each.
fn last_of_each_key<'c, 'b>(changes: &'c [Change<'b>]) -> Vec<(&'c Change<'b>, &'c Change<'b>)> {
    let mut places: HashMap<(usize, &[u8]), (usize, usize)> = HashMap::with_capacity(changes.len());
    let mut last = Vec::with_capacity(changes.len());
    for (place, change) in changes.iter().enumerate() {
        if change.key.is_empty() {
            last.push((place, place));
            continue;
        }
        let entry = places.entry((change.table, change.key));
        entry.or_insert((place, place)).1 = place;
    }
    last.extend(places.into_values());
    last.sort_unstable_by_key(|(_, place)| *place);
    let changes = last
        .into_iter()
        .map(|(first, last)| (&changes[first], &changes[last]));
    changes.collect()
}

/// A failed COPY. Where it is not supported, as with row-level security, the careful way inserts.
fn not_copied(doing: &str, error: &tokio_postgres::Error) -> Fault {
    match error.code() {
        Some(&SqlState::FEATURE_NOT_SUPPORTED) => Fault::Event(Failure::refused(doing.to_owned())),
        _ => sort(doing, error),
    }
}

/// A line of COPY's text format.
fn put_row(out: &mut BytesMut, values: &Values<'_>) {
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            out.put_u8(b'\t');
        }
        let Some(value) = value else {
            out.put_slice(b"\\N");
            continue;
        };
        let mut rest = value.as_bytes();
        let special = |byte: &u8| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r');
        while let Some(at) = rest.iter().position(special) {
            out.put_slice(&rest[..at]);
            let escaped = match rest[at] {
                b'\t' => b't',
                b'\n' => b'n',
                b'\r' => b'r',
                byte => byte,
            };
            out.put_slice(&[b'\\', escaped]);
            rest = &rest[at + 1..];
        }
        out.put_slice(rest);
    }
    out.put_u8(b'\n');
}

/// Whether a change can go into a stream: one row of a table without a key is looked for by itself.
pub fn fits(change: &Change<'_>) -> bool {
    !matches!(change.kind, Kind::UpdateOne | Kind::DeleteOne)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_copy_has_nulls_and_escapes() {
        let mut out = BytesMut::new();
        let values: Values<'_> = vec![
            Some("a\tb\\c\n\r".into()),
            None,
            Some("".into()),
            Some("\\N".into()),
        ];
        put_row(&mut out, &values);
        assert_eq!(&out[..], b"a\\tb\\\\c\\n\\r\t\\N\t\t\\\\N\n");
    }
}
