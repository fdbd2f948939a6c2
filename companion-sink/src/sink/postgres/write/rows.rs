//! Applies changes inside the open transaction: the last state of each key in one statement for each table and column
//! list. If the target refuses something, the changes are halved between savepoints until the event is alone.

use std::collections::{BTreeMap, HashMap, VecDeque};

use change::trouble::Trouble;
use tokio_postgres::types::{ToSql, Type};

use crate::error::Code;
use crate::event::Headers;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::rejected::guarded::guarded;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::failure::{Fault, Lack, sort};
use crate::sink::postgres::parked::store::ParkedKeys;
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::tables::Tables;
use crate::sink::postgres::schema::target::quoted;
use crate::sink::postgres::write::change::ChangeKind;
use crate::sink::postgres::write::change::RowChange;
use crate::sink::postgres::write::change::Values;
use crate::sink::postgres::write::change::identity_of;
use crate::sink::postgres::write::change::key_layout;
use crate::sink::postgres::write::change::layout;
use crate::sink::postgres::write::change::values;
use crate::sink::postgres::write::newest_versions;
use crate::sink::postgres::write::refusal;
use crate::sink::postgres::write::refusal::Explained;
use crate::sink::postgres::write::statements;

/// Whether rows are upserted, or deleted and inserted, so that unique values can move between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `INSERT ... ON CONFLICT DO UPDATE`.
    Upsert,
    /// All touched keys are deleted first.
    Replace,
}

/// What happened to changes that were not applied.
#[derive(Default)]
pub(crate) struct SetAside<'c, 'b> {
    /// Refused, with the reason.
    pub(crate) refused: Vec<(&'c RowChange<'b>, Failure)>,
    /// Parked behind a refused event of their key.
    pub(crate) behind: Vec<&'c RowChange<'b>>,
}

/// Applies all changes or fails at the first that the target refuses.
pub(crate) async fn apply(
    session: &mut Session,
    tables: &Tables,
    changes: &[&RowChange<'_>],
    mode: Mode,
) -> Result<(), Fault> {
    guarded(apply_all(session, tables, changes, mode)).await
}

async fn apply_all(
    session: &mut Session,
    tables: &Tables,
    changes: &[&RowChange<'_>],
    mode: Mode,
) -> Result<(), Fault> {
    let mut last: HashMap<(usize, &[u8]), usize> = HashMap::with_capacity(changes.len());
    let mut keyless: BTreeMap<usize, Vec<&RowChange<'_>>> = BTreeMap::new();
    for (place, change) in changes.iter().enumerate() {
        if change.key.is_empty() {
            keyless.entry(change.table).or_default().push(change);
        } else {
            last.insert((change.table, change.key), place);
        }
    }
    // The order of the batch, so that the same batch is always the same statements.
    let mut places: Vec<usize> = last.into_values().collect();
    places.sort_unstable();
    let mut keyed: BTreeMap<usize, Vec<&RowChange<'_>>> = BTreeMap::new();
    for place in places {
        let change = changes[place];
        keyed.entry(change.table).or_default().push(change);
    }
    // One order for all instances, so that those that meet at keys with several spellings queue up.
    let mut keyed: Vec<(usize, Vec<&RowChange<'_>>)> = keyed.into_iter().collect();
    keyed.sort_by(|(a, _), (b, _)| tables.get(*a).name.cmp(&tables.get(*b).name));
    for (table, changes) in keyed {
        apply_keyed(session, tables.get(table), &changes, mode).await?;
    }
    for (table, changes) in keyless {
        apply_keyless(session, tables.get(table), &changes).await?;
    }
    Ok(())
}

/// Applies what can be applied; of the rest each event is told apart.
pub(crate) async fn apply_apart<'c, 'b>(
    session: &mut Session,
    tables: &Tables,
    changes: &[&'c RowChange<'b>],
    parked: &mut ParkedKeys,
) -> Result<SetAside<'c, 'b>, Trouble> {
    let mut aside = SetAside::default();
    let mut parts: VecDeque<Vec<&'c RowChange<'b>>> = VecDeque::from([changes.to_vec()]);
    // Tables that take nothing: not each of their events is tried.
    let mut closed: HashMap<usize, Failure> = HashMap::new();
    while let Some(part) = parts.pop_front() {
        // A key may have been parked by an earlier part.
        let mut part = part;
        part.retain(|change| {
            let behind = is_parked(change, parked);
            if behind {
                park_key(change, parked);
                aside.behind.push(change);
                return false;
            }
            if let Some(failure) = closed.get(&change.table) {
                park_key(change, parked);
                aside.refused.push((change, failure.clone()));
                return false;
            }
            true
        });
        if part.is_empty() {
            continue;
        }
        let begin = session.begin_part();
        session.execute(begin).await?;
        let fault = match apply(session, tables, &part, Mode::Replace).await {
            Ok(()) => {
                session.keep_part();
                continue;
            }
            Err(Fault::Other(error)) => return Err(error),
            Err(fault) => fault,
        };
        session.undo_part().await?;
        match part.as_slice() {
            [alone] => {
                let table = tables.get(alone.table);
                let Explained { failure, is_of_all } =
                    refusal::told(&session.client, table, alone, fault).await?;
                if is_of_all {
                    closed.insert(alone.table, failure.clone());
                }
                park_key(alone, parked);
                aside.refused.push((alone, failure));
            }
            _ => {
                let second = part.split_off(part.len() / 2);
                parts.push_front(second);
                parts.push_front(part);
            }
        }
    }
    Ok(aside)
}

/// Whether a change has to wait behind a parked event of its key, or of the key it had before.
pub(crate) fn is_parked(change: &RowChange<'_>, parked: &ParkedKeys) -> bool {
    is_key_parked(change.record, change.key, change.old_key, parked)
}

/// As [`is_parked`], for an event of which no change was made.
pub(crate) fn waits(record: &Record, headers: &Headers<'_>, parked: &ParkedKeys) -> bool {
    let old_key = headers.old_key.map(str::as_bytes);
    is_key_parked(record, identity_of(record, headers), old_key, parked)
}

fn is_key_parked(record: &Record, key: &[u8], old_key: Option<&[u8]>, parked: &ParkedKeys) -> bool {
    if parked.is_empty() {
        return false;
    }
    let is = |key: &[u8]| parked.contains(&(record.topic.clone(), key.into()));
    is(key) || old_key.is_some_and(is)
}

/// Parks the key of a change.
pub(crate) fn park_key(change: &RowChange<'_>, parked: &mut ParkedKeys) {
    parked.insert((change.record.topic.clone(), change.key.into()));
}

async fn apply_keyed(
    session: &mut Session,
    table: &Table,
    changes: &[&RowChange<'_>],
    mode: Mode,
) -> Result<(), Fault> {
    let newest = newest_versions::claim(session, table, changes).await?;
    let changes = newest.as_deref().unwrap_or(changes);
    let mut deletes: BTreeMap<Vec<usize>, Vec<&RowChange<'_>>> = BTreeMap::new();
    let mut upserts: BTreeMap<(Vec<usize>, Vec<usize>), Vec<&RowChange<'_>>> = BTreeMap::new();
    for change in changes {
        let key = key_layout(table, &change.identity.0);
        if change.kind == ChangeKind::Upsert {
            let columns = layout(table, change.after());
            upserts
                .entry((columns, key.clone()))
                .or_default()
                .push(change);
        }
        // Where no column could be written with its own value, a row goes and comes.
        let is_replaced = mode == Mode::Replace || table.writable().is_none();
        if change.kind == ChangeKind::Delete || is_replaced {
            deletes.entry(key).or_default().push(change);
        }
    }
    for (key, changes) in &deletes {
        let mut arrays = Arrays::new(key.len(), changes.len());
        for change in changes {
            arrays.push(values(table, key, &change.identity.0).map_err(Fault::Event)?);
        }
        arrays
            .run(session, table, &statements::delete(table, key))
            .await?;
    }
    for ((columns, key), changes) in &upserts {
        check_unique(table, key)?;
        let mut arrays = Arrays::new(columns.len(), changes.len());
        for change in changes {
            arrays.push(change.new_values(table, columns).map_err(Fault::Event)?);
        }
        let fixed = statements::fixed(table, columns, key);
        let is_searchable = key.iter().all(|place| columns.contains(place));
        if !fixed.is_empty() && is_searchable && mode == Mode::Upsert {
            let sql = statements::delete_otherwise_fixed(table, columns, key, &fixed);
            arrays.run(session, table, &sql).await?;
        }
        let conflict = table.writable().map(|_| key.as_slice());
        let sql = statements::insert(table, columns, conflict);
        arrays.run(session, table, &sql).await?;
    }
    Ok(())
}

/// Without a key order is all there is: runs of new rows go together, everything else one by one.
async fn apply_keyless(
    session: &mut Session,
    table: &Table,
    changes: &[&RowChange<'_>],
) -> Result<(), Fault> {
    let mut rest = changes;
    while let Some(first) = rest.first() {
        if first.kind != ChangeKind::Append {
            change_one(session, table, first).await?;
            rest = &rest[1..];
            continue;
        }
        let columns = layout(table, first.after());
        let run = rest.iter().take_while(|change| {
            change.kind == ChangeKind::Append && layout(table, change.after()) == columns
        });
        let run = run.count();
        let mut arrays = Arrays::new(columns.len(), run);
        for change in &rest[..run] {
            arrays.push(change.new_values(table, &columns).map_err(Fault::Event)?);
        }
        let sql = statements::insert(table, &columns, None);
        arrays.run(session, table, &sql).await?;
        rest = &rest[run..];
    }
    Ok(())
}

async fn change_one(
    session: &mut Session,
    table: &Table,
    change: &RowChange<'_>,
) -> Result<(), Fault> {
    let before = layout(table, change.before());
    let old_values = values(table, &before, change.before()).map_err(Fault::Event)?;
    if before.is_empty() {
        return Err(Fault::Event(Failure::refused(format!(
            "the image before has no column that {} could be searched by",
            table.name
        ))));
    }
    if change.kind != ChangeKind::UpdateOne {
        if run_one(
            session,
            table,
            &statements::delete_one(table, &before),
            &old_values,
        )
        .await?
            == 0
        {
            note_unknown(session, table);
        }
        return Ok(());
    }
    let after = layout(table, change.after());
    let new_values = change.new_values(table, &after).map_err(Fault::Event)?;
    let old_value = |column: usize| {
        let at = before.iter().position(|other| *other == column);
        at.map(|at| &old_values[at])
    };
    let is_same = |(column, value): (&usize, &Option<_>)| old_value(*column) == Some(value);
    let fixed = |column: &usize| table.columns[*column].fixed;
    let mut pairs = after.iter().zip(&new_values);
    let insert = || statements::insert_one(table, &after);
    if !pairs.all(|(column, value)| !fixed(column) || is_same((column, value)))
        || table.writable().is_none()
    {
        // A value that cannot be set comes with another row.
        let delete = statements::delete_one(table, &before);
        if run_one(session, table, &delete, &old_values).await? == 0 {
            note_unknown(session, table);
        }
        run_one(session, table, &insert(), &new_values).await?;
        return Ok(());
    }
    let (set, mut parameters): (Vec<usize>, Values<'_>) = after
        .iter()
        .zip(new_values.iter().cloned())
        .filter(|(column, _)| !fixed(column))
        .unzip();
    parameters.extend(old_values.iter().cloned());
    let sql = statements::update_one(table, &set, &before);
    if run_one(session, table, &sql, &parameters).await? == 0 {
        // Older than what the topic has: the row as it is now is all that is known of it.
        note_unknown(session, table);
        run_one(session, table, &insert(), &new_values).await?;
    }
    Ok(())
}

/// A row of a table without a key was changed or deleted at the source, and the target has none that equals it.
fn note_unknown(session: &mut Session, table: &Table) {
    session.unknown_rows += 1;
    tracing::debug!(
        table = table.name,
        "no row equals the image before the change"
    );
}

/// Runs a statement about one row; how many rows it touched.
async fn run_one(
    session: &mut Session,
    table: &Table,
    sql: &str,
    values: &Values<'_>,
) -> Result<u64, Fault> {
    let types = vec![Type::TEXT; values.len()];
    let doing = format!("changing a row of {}", table.name);
    let failed = |error| sort(&doing, &error);
    let statement = session.prepared(sql, &types).await;
    let statement = statement.map_err(|error| failed(error).of_table())?;
    let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
    let done = session.client.execute(&statement, &parameters).await;
    done.map_err(failed)
}

/// Whether a unique index of the target has exactly the key's columns: what an upsert needs.
pub(crate) fn check_unique(table: &Table, key: &[usize]) -> Result<(), Fault> {
    let names: Vec<String> = key
        .iter()
        .map(|place| table.columns[*place].name.clone())
        .collect();
    if table.is_unique(&names) {
        return Ok(());
    }
    Err(Fault::Lack(Lack {
        code: Code::TargetRefuses,
        what: format!(
            "table {} has no unique index on its key ({})",
            table.name,
            names.join(", ")
        ),
        remedy: format!(
            "CREATE UNIQUE INDEX ON {} ({}); on the target",
            table.name,
            names
                .iter()
                .map(|name| quoted(name))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }))
}

/// The values of many rows, column by column.
struct Arrays<'c> {
    columns: Vec<Values<'c>>,
}

impl<'c> Arrays<'c> {
    fn new(columns: usize, rows: usize) -> Self {
        Arrays {
            columns: (0..columns).map(|_| Vec::with_capacity(rows)).collect(),
        }
    }

    fn push(&mut self, row: Values<'c>) {
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(value);
        }
    }

    async fn run(&self, session: &mut Session, table: &Table, sql: &str) -> Result<(), Fault> {
        let doing = format!("changing {}", table.name);
        let failed = |error| sort(&doing, &error);
        let types = vec![Type::TEXT_ARRAY; self.columns.len()];
        let statement = session.prepared(sql, &types).await;
        let statement = statement.map_err(|error| failed(error).of_table())?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            self.columns.iter().map(|column| column as _).collect();
        session
            .client
            .execute(&statement, &parameters)
            .await
            .map_err(failed)?;
        Ok(())
    }
}
