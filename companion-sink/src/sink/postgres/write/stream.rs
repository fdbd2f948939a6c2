//! Rows on their way into the target in one stream: while the server executes a statement, the next one is made. It takes for
//! granted what holds nearly always: rows that come are new, rows that change are there, and the target refuses nothing. Where
//! that is wrong the caller goes back to a savepoint and takes the careful way of `apply`.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use change::trouble::Trouble;
use futures_util::{SinkExt, poll};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, CopyInSink, Statement};

use crate::error::Code;
use crate::event::Op;
use crate::rejected::failure::Failure;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::failure::{Fault, sort};
use crate::sink::postgres::schema::tables::{Table, Tables};
use crate::sink::postgres::write::change::ChangeKind;
use crate::sink::postgres::write::change::RowChange;
use crate::sink::postgres::write::change::has_key_layout;
use crate::sink::postgres::write::change::key_layout;
use crate::sink::postgres::write::change::layout;
use crate::sink::postgres::write::change::values;
use crate::sink::postgres::write::rows::check_unique;
use crate::sink::postgres::write::statements;
use crate::sink::postgres::write::text_array::TextArray;

/// Rows in one statement at most: enough that its own costs are small, few enough that the server is soon at work.
pub(crate) const STATEMENT_ROWS: usize = 500;
/// A row's text has about so much.
const ROW_BYTES: usize = 256;
/// Statements that the server has got and not answered.
const UNANSWERED: usize = 2;

/// Statements under way, and a COPY that takes more rows.
#[derive(Default)]
pub(crate) struct Stream {
    unanswered: VecDeque<Answer>,
    copying: Option<Copying>,
}

type Answer = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// An open COPY.
struct Copying {
    table: usize,
    columns: Vec<usize>,
    sink: Pin<Box<CopyInSink<Bytes>>>,
    doing: String,
}

/// Changes that one statement can make.
struct Group<'c, 'b> {
    table: usize,
    way: Way,
    /// The places of the columns that are written.
    columns: Vec<usize>,
    /// The places of the key's columns.
    key: Vec<usize>,
    changes: Vec<&'c RowChange<'b>>,
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
    fn of(first: Op, change: &RowChange<'_>) -> Way {
        match (change.kind, first) {
            (ChangeKind::Delete, _) => Way::Delete,
            (ChangeKind::Append, _) | (_, Op::Create) => Way::Insert,
            (_, Op::Update) => Way::Update,
            _ => Way::Upsert,
        }
    }
}

impl<'c, 'b> Group<'c, 'b> {
    /// `first` is the first change of the key.
    fn of(table: &Table, way: Way, first: &RowChange<'b>, change: &'c RowChange<'b>) -> Self {
        let key = key_layout(table, &change.identity.0);
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
    fn takes(
        &self,
        table: &Table,
        way: Way,
        first: &RowChange<'b>,
        change: &RowChange<'b>,
    ) -> bool {
        self.table == change.table
            && self.way == way
            && has_key_layout(table, &self.key, &change.identity.0)
            && match way {
                Way::Delete => true,
                Way::Update => self.columns == change.changed_columns(table, &self.key, first),
                _ => change.has_layout(table, &self.columns),
            }
    }

    /// Whether rows would be written with columns that can be given a value only when a row is inserted.
    fn is_for_careful(&self, table: &Table) -> bool {
        let is_written = matches!(self.way, Way::Update | Way::Upsert);
        let fixed = || statements::fixed(table, &self.columns, &self.key);
        is_written && (table.writable().is_none() || !fixed().is_empty())
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
    fn arrays(&self, table: &Table) -> Result<Vec<TextArray>, Failure> {
        let mut arrays: Vec<TextArray> = Vec::new();
        arrays.resize_with(self.columns.len(), TextArray::default);
        for change in &self.changes {
            let row = match self.way {
                Way::Delete => values(table, &self.columns, &change.identity.0)?,
                _ => change.new_values(table, &self.columns)?,
            };
            for (array, value) in arrays.iter_mut().zip(row) {
                array.push(value.as_deref());
            }
        }
        Ok(arrays)
    }

    /// The rows as lines of a COPY.
    fn lines(&self, table: &Table) -> Result<Bytes, Failure> {
        let mut lines = BytesMut::with_capacity(self.changes.len() * ROW_BYTES);
        for change in &self.changes {
            put_row(&mut lines, &change.new_values(table, &self.columns)?);
        }
        Ok(lines.freeze())
    }
}

impl Stream {
    /// Sends a statement without parameters.
    pub(crate) async fn execute(
        &mut self,
        session: &Session,
        sql: &'static str,
    ) -> Result<(), Fault> {
        let client = Arc::clone(&session.client);
        let done = async move { client.batch_execute(sql).await.map_err(|e| sort(sql, &e)) };
        self.start(Box::pin(done)).await
    }

    /// Sends the statements for `changes`, of tables with or without a key; those of one key are coalesced.
    pub(crate) async fn send(
        &mut self,
        session: &mut Session,
        tables: &Tables,
        changes: &[RowChange<'_>],
    ) -> Result<(), Fault> {
        let mut groups: Vec<Group<'_, '_>> = Vec::new();
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
            if group.is_for_careful(table) {
                let why = "a column can be given a value only when a row is inserted";
                return Err(Fault::Event(Failure::refused(why.to_owned())));
            }
            match group.way {
                Way::Insert => self.copy(session, table, &group).await?,
                way => {
                    if way == Way::Upsert {
                        check_unique(table, &group.key)?;
                    }
                    self.change(session, table, &group).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends new rows, into the COPY that is open if that is one of such rows.
    async fn copy(
        &mut self,
        session: &mut Session,
        table: &Table,
        group: &Group<'_, '_>,
    ) -> Result<(), Fault> {
        let lines = group.lines(table).map_err(Fault::Event)?;
        let is_open = self.copying.as_ref().is_some_and(|copying| {
            copying.table == group.table && copying.columns == group.columns
        });
        if !is_open {
            // One answer is waited for out of its turn: the driver holds back the others only so far.
            self.finish().await?;
            let statement = self.prepared(session, table, group, &[]).await?;
            let doing = format!("changing {}", table.name);
            let sink = session.client.copy_in(&statement).await;
            let sink = sink.map_err(|error| not_copied(&doing, &error))?;
            self.copying = Some(Copying {
                table: group.table,
                columns: group.columns.clone(),
                sink: Box::pin(sink),
                doing,
            });
        }
        match &mut self.copying {
            Some(copying) => copying.send(lines).await,
            None => Ok(()),
        }
    }

    /// Lets the open COPY come to its end.
    async fn end_copy(&mut self) -> Result<(), Fault> {
        let Some(mut copying) = self.copying.take() else {
            return Ok(());
        };
        // A task of its own: what comes next waits in the connection until the end of the rows was sent.
        let ended = tokio::spawn(async move { copying.finish().await });
        self.push(Box::pin(async move {
            ended.await.unwrap_or_else(|error| {
                Err(Fault::Other(Trouble::new(
                    Code::Unreachable,
                    format!("postgres: COPY: {error}"),
                    "It is tried again.",
                )))
            })
        }))
        .await
    }

    /// Sends a statement with the rows as arrays.
    async fn change(
        &mut self,
        session: &mut Session,
        table: &Table,
        group: &Group<'_, '_>,
    ) -> Result<(), Fault> {
        self.end_copy().await?;
        let types = vec![Type::TEXT_ARRAY; group.columns.len()];
        let arrays = group.arrays(table).map_err(Fault::Event)?;
        let statement = self.prepared(session, table, group, &types).await?;
        let expected = (group.way == Way::Update).then_some(group.changes.len() as u64);
        let client: Arc<Client> = Arc::clone(&session.client);
        let table = table.name.clone();
        let done = async move {
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
        };
        self.start(Box::pin(done)).await
    }

    async fn prepared(
        &mut self,
        session: &mut Session,
        table: &Table,
        group: &Group<'_, '_>,
        types: &[Type],
    ) -> Result<Statement, Fault> {
        let sql = group.sql(table);
        if !session.has_prepared(&sql) {
            self.finish().await?;
        }
        let prepared = session.prepared(&sql, types).await;
        prepared.map_err(|error| sort(&format!("changing {}", table.name), &error))
    }

    /// Sends a statement, whose first look does that.
    async fn start(&mut self, mut answer: Answer) -> Result<(), Fault> {
        match poll!(&mut answer) {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => self.push(answer).await,
        }
    }

    async fn push(&mut self, answer: Answer) -> Result<(), Fault> {
        self.unanswered.push_back(answer);
        while self.unanswered.len() > UNANSWERED {
            self.take_answer().await?;
        }
        Ok(())
    }

    /// Waits until the server has done everything.
    pub(crate) async fn finish(&mut self) -> Result<(), Fault> {
        self.end_copy().await?;
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

impl Copying {
    async fn send(&mut self, lines: Bytes) -> Result<(), Fault> {
        match self.sink.send(lines).await {
            Ok(()) => Ok(()),
            // The server's answer tells why.
            Err(closed) => Err(match self.finish().await {
                Err(fault) => fault,
                Ok(()) => not_copied(&self.doing, &closed),
            }),
        }
    }

    async fn finish(&mut self) -> Result<(), Fault> {
        let finished = self.sink.as_mut().finish().await;
        finished.map_or_else(|error| Err(not_copied(&self.doing, &error)), |_| Ok(()))
    }
}

/// Of each key the first and the last change, in the order of the last ones; of rows without a key each.
fn last_of_each_key<'c, 'b>(
    changes: &'c [RowChange<'b>],
) -> Vec<(&'c RowChange<'b>, &'c RowChange<'b>)> {
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
fn put_row(out: &mut BytesMut, values: &[Option<Cow<'_, str>>]) {
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
pub(crate) fn fits(change: &RowChange<'_>) -> bool {
    !matches!(change.kind, ChangeKind::UpdateOne | ChangeKind::DeleteOne)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_copy_has_nulls_and_escapes() {
        let mut out = BytesMut::new();
        let values = [
            Some("a\tb\\c\n\r".into()),
            None,
            Some("".into()),
            Some("\\N".into()),
        ];
        put_row(&mut out, &values);
        assert_eq!(&out[..], b"a\\tb\\\\c\\n\\r\t\\N\t\t\\\\N\n");
    }
}
