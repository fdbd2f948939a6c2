//! What is said of a whole table: a truncate, another definition, the beginnings and ends of a snapshot.

use change::trouble::Trouble;

use crate::config::Emptying;
use crate::error::{Code, Result};
use crate::event::Headers;
use crate::event::Op;
use crate::event::RowBody;
use crate::event::TableName;
use crate::event::json::Malformed;
use crate::event::snapshot::SnapshotBody;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::rejected::origin;
use crate::sink::postgres::connection::Session;
use crate::sink::postgres::failure::{classify, state_of};
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::replica::TargetConnection;
use crate::sink::postgres::replica::not_connected;
use crate::sink::postgres::schema::bindings::Refusal;
use crate::sink::postgres::schema::definitions::Follower;
use crate::sink::postgres::schema::schema_event::SchemaBody;
use crate::sink::unreadable_snapshot;

/// What an event about a whole table names.
struct Named<'b> {
    source: TableName<'b>,
    is_rename: bool,
    is_farewell: bool,
}

impl<'b> Named<'b> {
    /// Refused where it cannot be read, or its header and its body do not agree.
    fn of(record: &'b Record, headers: &Headers<'_>) -> std::result::Result<Self, Failure> {
        let named = match headers.op {
            Op::Schema => {
                let body = SchemaBody::parse(record)?;
                Named {
                    is_rename: body.is_rename(),
                    is_farewell: body.is_farewell(),
                    source: body.source,
                }
            }
            Op::Snapshot => Named::only(SnapshotBody::parse(record)?.source),
            _ => Named::only(RowBody::parse(record)?.source.table_name()?),
        };
        origin::check(headers.table, &named.source)?;
        Ok(named)
    }

    fn only(source: TableName<'b>) -> Self {
        Named {
            source,
            is_rename: false,
            is_farewell: false,
        }
    }
}

/// Whether an event about a whole table is refused whatever comes: the partitions need not wait for each other at it, of which
/// perhaps only one has a copy.
pub(crate) fn is_refused_before_it_waits(replica: &Replica, record: &Record) -> bool {
    let Ok(headers) = Headers::read(record) else {
        return true;
    };
    let Ok(named) = Named::of(record, &headers) else {
        return true;
    };
    let target = replica
        .settings
        .target_for_readers(headers.table, &named.source);
    if !named.is_farewell && replica.settings.refuses_schema(&target.schema).is_some() {
        return true;
    }
    let bindings = replica.connection.as_ref().map(|known| &known.bindings);
    let bound = bindings.and_then(|bindings| bindings.known(&record.topic));
    let owner = bound.and_then(|bound| bound.header.as_deref());
    owner.is_some_and(|owner| owner != headers.table && !named.is_rename)
}

/// Why an event of a batch is refused that is no row's, and that no partition waited at.
pub(crate) async fn refused_apart(
    replica: &mut Replica,
    record: &Record,
    headers: &Headers<'_>,
) -> Result<Option<Failure>> {
    let refusal = refused_whole(replica, record, headers).await?;
    if refusal.is_none() && matches!(headers.op, Op::Schema | Op::Truncate) {
        // Another instance has noted meanwhile that it is right: the partitions have to wait for each other.
        return Err(Trouble::new(
            Code::OtherInstance,
            format!("topic {} belongs to another table now", record.topic),
            "Nothing to do: what is known of it is read again.",
        ));
    }
    Ok(refusal.map(Refusal::failure))
}

/// Why an event about a whole table is refused. One that is admitted binds its topic.
pub(crate) async fn refused_whole(
    replica: &mut Replica,
    record: &Record,
    headers: &Headers<'_>,
) -> Result<Option<Refusal>> {
    if !headers.op.is_about_table() {
        return Ok(None);
    }
    let named = match Named::of(record, headers) {
        Ok(named) => named,
        Err(failure) => return Ok(Some(Refusal::Final(failure))),
    };
    if named.is_farewell {
        let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
        connection.tables.forget_topic(&record.topic);
        let client = &connection.session.client;
        let bindings = &mut connection.bindings;
        let topics = replica.state.topics();
        let refused = bindings.release(client, &topics, &record.topic, headers.table);
        return Ok(refused.await?.map(Refusal::Final));
    }
    let admitted = replica.admit(record, headers, &named.source, named.is_rename);
    admitted.await
}

/// Does what an event about a whole table says, in the open transaction.
pub(crate) async fn apply_to_table(
    replica: &mut Replica,
    record: &Record,
    headers: &Headers<'_>,
) -> Result<()> {
    match headers.op {
        Op::Schema => follow_schema(replica, record, headers).await,
        Op::Truncate => empty_tables(replica, &[(record, *headers)]).await,
        Op::Snapshot => note_snapshot(replica, record, headers).await,
        _ => Ok(()),
    }
}

/// The beginning or the end of a snapshot's chunk.
async fn note_snapshot(
    replica: &mut Replica,
    record: &Record,
    headers: &Headers<'_>,
) -> Result<()> {
    let body = SnapshotBody::parse(record).map_err(unreadable_snapshot)?;
    let snapshots = replica.state.snapshots();
    let Some(TargetConnection {
        session,
        tables,
        parked,
        ..
    }) = replica.connection.as_mut()
    else {
        return Err(not_connected());
    };
    if body.is_beginning() {
        replica
            .state
            .note_loading(&session.client, &record.topic)
            .await?;
        snapshots.begin(session, record, &body).await?;
    }
    if !body.is_end() {
        return match body.is_chunk_end() {
            true => snapshots.keep(&session.client, record, &body).await,
            false => Ok(()),
        };
    }
    let table = tables
        .find(
            &session.client,
            &replica.settings,
            &record.topic,
            headers.table,
            &body.source,
        )
        .await
        .map_err(|fault| fault.error("ending a snapshot"))?;
    let table = tables.get(table);
    // Those of other instances' partitions, and those that the open transaction parks.
    let mut waiting = replica.state.parked_events().keys(&session.client).await?;
    waiting.extend(parked.iter().cloned());
    let gone = snapshots
        .end(session, record, &body, table, &waiting)
        .await?;
    replica
        .state
        .note_loaded(&session.client, &record.topic)
        .await?;
    tracing::info!(
        sink = replica.name,
        table = table.name,
        gone,
        "a snapshot of the source ended"
    );
    Ok(())
}

/// Empties the tables that one statement of the source emptied, together: each may reference another one.
pub(crate) async fn empty_tables(
    replica: &mut Replica,
    truncates: &[(&Record, Headers<'_>)],
) -> Result<()> {
    let Some(TargetConnection {
        session, tables, ..
    }) = replica.connection.as_mut()
    else {
        return Err(not_connected());
    };
    let mut names: Vec<String> = Vec::with_capacity(truncates.len());
    for (record, headers) in truncates {
        let body = RowBody::parse(record).map_err(unreadable)?;
        let source = body.source.table_name().map_err(unreadable)?;
        let table = tables
            .find(
                &session.client,
                &replica.settings,
                &record.topic,
                headers.table,
                &source,
            )
            .await
            .map_err(|fault| fault.error("emptying a table"))?;
        let name = &tables.get(table).name;
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    empty(
        session,
        &names,
        replica.settings.truncate == Emptying::Delete,
    )
    .await?;
    tracing::info!(
        sink = replica.name,
        tables = names.join(", "),
        "emptied, as at the source"
    );
    Ok(())
}

/// The table's definition is another one.
async fn follow_schema(
    replica: &mut Replica,
    record: &Record,
    headers: &Headers<'_>,
) -> Result<()> {
    let body = SchemaBody::parse(record).map_err(unreadable)?;
    let Some(TargetConnection {
        session, tables, ..
    }) = replica.connection.as_mut()
    else {
        return Err(not_connected());
    };
    let before = replica
        .state
        .followed(&session.client, &record.topic)
        .await?;
    if body.is_farewell() {
        tracing::info!(
            table = headers.table,
            "the source no longer sends this table; the target keeps it"
        );
        if let Some(mut now) = before.filter(|_| body.is_drop()) {
            now.is_dropped = true;
            replica
                .state
                .follow(&session.client, &record.topic, &now)
                .await?;
        }
        return Ok(());
    }
    // A topic may get another table when its own is no longer sent: that is no other name.
    let target = replica.settings.target(headers.table, &body.source);
    let before = before.filter(|before| before.target == target || !body.is_first());
    tables.forget_topic(&record.topic);
    // Rows of a table that the source has dropped are no rows of the one that it made in its place.
    let mut is_emptied = false;
    if let Some(dropped) = before.as_ref().filter(|before| before.is_dropped) {
        let (client, target) = (&session.client, dropped.target.clone());
        let table = tables.load(client, &replica.settings, target, &body.source);
        if let Some(table) = table.await? {
            let by_delete = replica.settings.truncate == Emptying::Delete;
            empty(session, std::slice::from_ref(&table.name), by_delete).await?;
            is_emptied = true;
        }
    }
    let follower = Follower {
        client: &session.client,
        settings: &replica.settings,
        header: headers.table,
        is_emptied,
    };
    let now = follower.follow(tables, &body, before.as_ref()).await?;
    // A key may have another type now.
    session.newest_tables.clear();
    if let Some(now) = now.filter(|now| Some(now) != before.as_ref()) {
        replica
            .state
            .follow(&session.client, &record.topic, &now)
            .await?;
    }
    if body.awaits_snapshot() {
        replica
            .state
            .note_loading(&session.client, &record.topic)
            .await?;
    }
    Ok(())
}

/// Empties tables. Where a foreign key of another table, or row-level security, or a table of another server forbids TRUNCATE,
/// the rows are deleted, those that reference others first where the server says so.
async fn empty(session: &mut Session, names: &[String], by_delete: bool) -> Result<()> {
    if !by_delete {
        let sql = format!("TRUNCATE {}", names.join(", "));
        session.execute("SAVEPOINT emptying").await?;
        match session.client.batch_execute(&sql).await {
            Ok(()) => return session.execute("RELEASE SAVEPOINT emptying").await,
            Err(error) if may_be_deleted(&error) => {
                tracing::info!(
                    statement = sql,
                    "not possible here: the rows are deleted instead"
                );
                let undo = "ROLLBACK TO SAVEPOINT emptying; RELEASE SAVEPOINT emptying";
                session.execute(undo).await?;
            }
            Err(error) => return Err(classify(&sql, &error)),
        }
    }
    // In one statement for all: a foreign key is looked at when it is over, and cannot tell then who was first.
    let deletes = names.iter().enumerate().map(|(place, name)| {
        let last = place + 1 == names.len();
        match last {
            true => format!("DELETE FROM {name}"),
            false => format!("e{place} AS (DELETE FROM {name})"),
        }
    });
    let mut deletes: Vec<String> = deletes.collect();
    let last = deletes.pop().unwrap_or_default();
    let sql = match deletes.is_empty() {
        true => last,
        false => format!("WITH {} {last}", deletes.join(", ")),
    };
    let done = session.client.batch_execute(&sql).await;
    done.map_err(|error| match state_of(&error) {
        Some("23503") => Trouble::new(
            Code::TargetRefuses,
            classify(&sql, &error).message,
            "Rows of a table that the source does not empty reference these: let the sink's role set session_replication_role (GRANT SET ON PARAMETER), or drop the foreign key, or delete the rows; then send SIGHUP.",
        ),
        _ => classify(&sql, &error),
    })
}

/// Whether TRUNCATE is forbidden where DELETE may not be.
fn may_be_deleted(error: &tokio_postgres::Error) -> bool {
    matches!(state_of(error), Some("0A000" | "42501" | "42809" | "55006"))
}

/// An event about a whole table that cannot be read.
pub(crate) fn unreadable(Malformed(why): Malformed) -> Trouble {
    Trouble::new(
        Code::SchemaChange,
        format!("an event about a whole table: {why}"),
        "Look at the topic; do by hand what the event says, set the stored offsets behind it, send SIGHUP.",
    )
}
