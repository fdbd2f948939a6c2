//! What events say, before anything of them is written: an event that stops the view stops it with nothing of its commit written.

use std::collections::{BTreeMap, BTreeSet};

use change::event::op::Op;
use change::trouble::Trouble;
use mongodb::bson::{Bson, Document};

use crate::error::{Code, Recovery, Result};
use crate::event::image::Image;
use crate::event::json::Malformed;
use crate::event::snapshot::SnapshotBody;
use crate::event::{Headers, RowBody, TableName};
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, NotApplied};
use crate::rejected::guarded::guarded;
use crate::sink::mongo_history::documents::bson_value::{Names, document, document_of};
use crate::sink::mongo_history::documents::column_types::type_of;
use crate::sink::mongo_history::documents::document::identity;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::tables::admission::Claim;
use crate::sink::mongo_history::tables::schemas::TableDefinition;
use crate::sink::mongo_view::own_events::event;
use crate::sink::mongo_view::plan::Plan;
use crate::sink::mongo_view::row::{Change, ChangeKind, row_id};
use crate::sink::mongo_view::step::{ChunkEnd, Step};
use crate::sink::mongo_view::view::{View, not_connected};
use crate::sink::ordered::{Poison, Why};
use crate::sink::postgres::schema::schema_event::SchemaBody;

/// What events ask for, and those that are refused.
#[derive(Default)]
pub(crate) struct Decoded<'r> {
    pub(crate) steps: Vec<Step>,
    pub(crate) letters: Vec<(&'r Record, Failure)>,
    /// The first event that stops the view: what comes before it is to be done first.
    pub(crate) poison: Option<Box<Poison>>,
}

/// What events ask for.
pub(crate) async fn decode<'r>(view: &mut View, records: &'r [Record]) -> Result<Decoded<'r>> {
    let mut decoded = Decoded::default();
    for record in records {
        match guarded(step(view, record)).await {
            Ok(step) => decoded.steps.extend(step),
            Err(NotApplied::Failed(error)) if error.code.recovery() == Recovery::Halt => {
                decoded.poison = Some(Poison::new(record, Why::Target(error)));
                return Ok(decoded);
            }
            Err(NotApplied::Failed(error)) => return Err(error),
            Err(NotApplied::Refused(failure)) => {
                if !failure.is_forged()
                    && let Some(change) = refusal(view, record)
                {
                    decoded.steps.push(Step::Row(change));
                }
                decoded.letters.push((record, failure));
            }
        }
    }
    Ok(decoded)
}

async fn step(view: &mut View, record: &Record) -> std::result::Result<Option<Step>, NotApplied> {
    if record.is_disbelieved {
        return Err(Failure::unbelievable().into());
    }
    let headers = Headers::read(record)?;
    if let Some(own) = view.plan.own.as_ref()
        && *own.topic == *record.topic
    {
        return event::step(view, own, record, &headers);
    }
    match headers.op {
        Op::Schema => definition(view, record, &headers).await,
        Op::Snapshot => snapshot(view, record, &headers).await,
        Op::Truncate => {
            let source = RowBody::parse(record)?.source.table_name()?;
            let version = headers.version.to_owned();
            let table = admitted(view, record, &headers, Claim::by_row(source)).await?;
            Ok(table.map(|table| Step::Empty { table, version }))
        }
        op if op.is_row() => row(view, record, &headers).await,
        _ => Ok(None),
    }
}

/// The view's table that an event is of; none of another table. One that may not be of it is refused.
async fn admitted(
    view: &mut View,
    record: &Record,
    headers: &Headers<'_>,
    claim: Claim<'_>,
) -> std::result::Result<Option<String>, NotApplied> {
    let table = table_of(view, record, &claim.source, claim.is_first)?;
    let Some(table) = table else {
        return Ok(None);
    };
    let connection = view.connection.as_mut().ok_or_else(not_connected)?;
    let several_topics = &view.settings.several_topics;
    let refused = connection
        .admission
        .refused(record, headers, &claim, several_topics);
    if let Some(failure) = refused.await? {
        return Err(failure.into());
    }
    let topics = &mut connection.state.topics;
    if topics.get(&*record.topic) != Some(&table) {
        topics.insert(record.topic.to_string(), table.clone());
    }
    connection
        .tables_by_header
        .insert(headers.table.to_owned(), table.clone());
    Ok(Some(table))
}

/// A topic's table keeps its place in the view when it gets another name.
fn table_of(
    view: &View,
    record: &Record,
    source: &TableName<'_>,
    is_first: bool,
) -> Result<Option<String>> {
    let connection = view.connection.as_ref().ok_or_else(not_connected)?;
    let known = connection.state.topics.get(&*record.topic);
    if let Some(known) = known.filter(|_| !is_first) {
        return Ok(Some(known.clone()));
    }
    let name = format!("{}.{}", source.schema, source.table);
    Ok(view.plan.has(&name).then_some(name))
}

async fn row(
    view: &mut View,
    record: &Record,
    headers: &Headers<'_>,
) -> std::result::Result<Option<Step>, NotApplied> {
    let body = RowBody::parse(record)?;
    let source = body.source.table_name()?;
    let Some(table) = admitted(view, record, headers, Claim::by_row(source)).await? else {
        return Ok(None);
    };
    let identity = identity(record, headers)
        .filter(|identity| identity.starts_with('{'))
        .ok_or_else(|| without_key(&table))?;
    let connection = view.connection.as_mut().ok_or_else(not_connected)?;
    let names = connection.store.names;
    let types = connection
        .schemas
        .types(&connection.database, headers)
        .await;
    let types = types.map_err(|error| classify("reading a schema", &error))?;
    let types = types.map(|(_, types)| types);
    view.rules.check(record, &|column| type_of(types, column))?;
    let key = document_of(&Image::parse(identity.as_bytes())?, types, names)?;
    let kind = match (headers.op, &body.after) {
        (Op::Delete, _) => ChangeKind::Delete,
        (_, Some(after)) => {
            let row = document_of(after, types, names)?;
            ChangeKind::Put(Document::try_from(row.as_ref()).map_err(|_| unwritable())?)
        }
        (_, None) => return Err(Malformed("the row's image is missing".into()).into()),
    };
    Ok(Some(Step::Row(Change {
        id: row_id(&table, identity),
        table,
        key: Bson::Document(Document::try_from(key.as_ref()).map_err(|_| unwritable())?),
        version: headers.version.to_owned(),
        kind,
    })))
}

/// What is noted of the row of a refused event; none where it cannot be told.
fn refusal(view: &View, record: &Record) -> Option<Change> {
    let headers = Headers::read(record).ok()?;
    let identity = identity(record, &headers)?;
    let table = view
        .connection
        .as_ref()?
        .tables_by_header
        .get(headers.table)?;
    let key = Image::parse(identity.as_bytes()).ok()?;
    let key = document(&key, Names::WithoutDots).ok()?;
    Some(Change {
        id: row_id(table, identity),
        table: table.clone(),
        key: Bson::Document(Document::try_from(key.as_ref()).ok()?),
        version: headers.version.to_owned(),
        kind: ChangeKind::Refuse(headers.id.to_owned()),
    })
}

async fn definition(
    view: &mut View,
    record: &Record,
    headers: &Headers<'_>,
) -> std::result::Result<Option<Step>, NotApplied> {
    let body = SchemaBody::parse(record)?;
    let (is_first, is_drop) = (body.is_first(), body.is_drop());
    let is_farewell = body.is_farewell();
    let now = body.definition().cloned();
    let claim = Claim {
        is_rename: body.is_rename(),
        is_first,
        is_farewell,
        source: body.source,
    };
    let Some(table) = admitted(view, record, headers, claim).await? else {
        return Ok(None);
    };
    let version = headers.version.to_owned();
    if is_farewell {
        return Ok(is_drop.then_some(Step::Dropped { table }));
    }
    let Some(now) = now else {
        return Ok(None);
    };
    let told = TableDefinition::parse(record)?;
    let connection = view.connection.as_mut().ok_or_else(not_connected)?;
    let database = &connection.database;
    let failed = |error| classify("reading a schema", &error);
    // What holds from this event on may be known already, from an attempt before.
    let earlier = Headers {
        version: headers
            .version
            .rsplit_once('-')
            .map_or("", |(earlier, _)| earlier),
        ..*headers
    };
    let before = connection.schemas.types(database, &earlier).await;
    let before = before.map_err(failed)?.map(|(_, types)| types);
    let before: BTreeSet<String> = before
        .into_iter()
        .flat_map(|types| types.keys().cloned())
        .collect();
    let learnt = connection.schemas.learn(database, &told, headers).await;
    learnt.map_err(failed)?;
    if now.primary_key_column_names.is_empty() {
        return Err(without_key(&table).into());
    }
    let names = connection.store.names;
    let key = now.primary_key_column_names.iter();
    let key: BTreeSet<String> = key.map(|column| names.write(column).into_owned()).collect();
    let known_key = connection.store.key_of_a_row(&table).await?;
    let is_dropped = connection.state.dropped.contains(&table);
    if !is_dropped && known_key.is_some_and(|known| known != key) {
        return match view.is_rebuild {
            true => Ok(Some(Step::Empty { table, version })),
            false => Err(another_key(&table, &view.name).into()),
        };
    }
    let columns: BTreeSet<String> = now.columns.into_iter().map(|column| column.name).collect();
    let renames = told.told(record, headers).renames.clone();
    if !view.is_rebuild {
        check_columns(&view.plan, &table, &columns, &renames)?;
    }
    if is_first {
        return Ok(Some(Step::Begun { table, version }));
    }
    let is_less = !renames.is_empty() || before.iter().any(|column| !columns.contains(column));
    Ok(is_less.then_some(Step::Columns {
        table,
        version,
        renames,
        columns,
    }))
}

/// Fails where the view uses a column that its table has not got (CDC1011).
pub(crate) fn check_columns(
    plan: &Plan,
    table: &str,
    columns: &BTreeSet<String>,
    renames: &BTreeMap<String, String>,
) -> Result<()> {
    let used = plan.used_columns(table);
    let Some(missing) = used.into_iter().find(|column| !columns.contains(*column)) else {
        return Ok(());
    };
    let is_now = match renames.get(missing) {
        Some(name) => format!(": it is {name} now"),
        None => String::new(),
    };
    Err(Trouble::new(
        Code::SchemaChange,
        format!(
            "the view uses column {missing} of table {table}, which has none of that name{is_now}"
        ),
        "Correct fields, join and order_by of the sink, then `companion-sink rebuild` it and restart.",
    ))
}

async fn snapshot(
    view: &mut View,
    record: &Record,
    headers: &Headers<'_>,
) -> std::result::Result<Option<Step>, NotApplied> {
    let body = SnapshotBody::parse(record)?;
    let (id, is_beginning, is_chunk_end) = (body.id(), body.is_beginning(), body.is_chunk_end());
    let (is_partial, is_last) = (body.is_partial(), body.is_end());
    let changed: Vec<&[u8]> = body.changed().collect();
    let Some(table) = admitted(view, record, headers, Claim::by_row(body.source)).await? else {
        return Ok(None);
    };
    let (topic, version) = (record.topic.to_string(), headers.version.to_owned());
    if is_beginning {
        return Ok(Some(Step::SnapshotBegins { topic, id, version }));
    }
    let changed = changed
        .into_iter()
        .filter_map(|key| std::str::from_utf8(key).ok());
    let changed = changed.map(|key| row_id(&table, key)).collect();
    Ok(is_chunk_end.then_some(Step::ChunkEnds(ChunkEnd {
        topic,
        table,
        id,
        version,
        changed,
        is_partial,
        is_last,
    })))
}

fn without_key(table: &str) -> Trouble {
    Trouble::new(
        Code::SchemaChange,
        format!("table {table} has no key: a view cannot tell its rows apart"),
        "Give it a primary key or a replica identity index at the source, or take it out of the view; then rebuild the view and restart.",
    )
}

fn another_key(table: &str, view: &str) -> Trouble {
    Trouble::new(
        Code::SchemaChange,
        format!(
            "table {table} has another key now, or its key's columns other names: the rows that are there go by the old one"
        ),
        format!(
            "`companion-sink rebuild {view}` and restart; then a snapshot brings the table's rows: SELECT cdc_snapshot('TABLE', sinks => ARRAY['{view}']) at the source."
        ),
    )
}

fn unwritable() -> Failure {
    Failure::conversion("a value cannot be written as BSON".into())
}
