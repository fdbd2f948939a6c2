//! What an event that the target refuses is told with: who is to blame, the table, and the column whose value it is.

use change::trouble::Trouble;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{Code, Result};
use crate::rejected::failure::Failure;
use crate::sink::postgres::failure::{Fault, Lack, classify, state_of};
use crate::sink::postgres::schema::tables::Column;
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::tables::missing_column;
use crate::sink::postgres::schema::tables::no_table;
use crate::sink::postgres::schema::target::quoted;
use crate::sink::postgres::write::change::ChangeKind;
use crate::sink::postgres::write::change::RowChange;
use crate::sink::postgres::write::change::value_of;

/// Columns that are tried one by one at most.
const TRIED_MAX: usize = 200;

/// Why an event was refused.
pub(crate) struct Explained {
    /// With its table, and where it is one value with the column.
    pub(crate) failure: Failure,
    /// The table takes no event of its source, whatever that holds.
    pub(crate) is_of_all: bool,
}

/// Why the event of `change`, alone, was refused, in the open transaction and after the part of it that failed was undone. The
/// target as a whole is told as the error that it is.
pub(crate) async fn told(
    client: &Client,
    table: &Table,
    change: &RowChange<'_>,
    fault: Fault,
) -> Result<Explained> {
    let of_event = |failure| Explained {
        failure,
        is_of_all: false,
    };
    let of_table = |lack: Lack| Explained {
        failure: lack.failure(),
        is_of_all: true,
    };
    let mut failure = match fault {
        Fault::Other(error) => return Err(error),
        Fault::Event(failure) => failure,
        Fault::Lack(lack) => {
            return Ok(match find_lack(client, table).await? {
                Some(lack) => of_table(lack),
                None => of_event(lack.failure()),
            });
        }
        Fault::Doubtful { failure, .. } => match find_lack(client, table).await? {
            Some(lack) => return Ok(of_table(lack)),
            None => *failure,
        },
    };
    let Some(state) = failure.state.clone() else {
        return Ok(of_event(failure));
    };
    failure.message += &format!("; table {}", table.name);
    if let Some(column) = find_column(client, table, change, &state).await? {
        failure.message += &format!(", column {} of type {}", column.name, column.type_name);
        if &*state == "22P02"
            && let Some(name) = enum_of(client, table, column).await?
        {
            failure.message += &format!(
                "; if the source's type has a label more: ALTER TYPE {name} ADD VALUE 'LABEL'; on the target, with the label that the event has in this column"
            );
        }
    }
    Ok(of_event(failure))
}

/// What the target's table has no more that it had when its definition was read, or what the role may not do with it; `None`
/// if nothing: then what was refused is the event.
async fn find_lack(client: &Client, table: &Table) -> Result<Option<Lack>> {
    let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    // Rights on every column that is written serve as well as those on the table.
    let row = client
        .query_opt(
            "SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
                 (SELECT w.name FROM unnest($3::text[]) WITH ORDINALITY AS w(name, place)
                  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                    WHERE a.attrelid = c.oid AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped)
                  ORDER BY w.place LIMIT 1),
                 (SELECT array_agg(p.name ORDER BY p.name) FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS p(name)
                  WHERE NOT CASE p.name
                      WHEN 'DELETE' THEN pg_catalog.has_table_privilege(c.oid, p.name)
                      ELSE pg_catalog.has_table_privilege(c.oid, p.name) OR (
                          SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(c.oid, a.attnum, p.name)) IS TRUE
                          FROM pg_catalog.pg_attribute a
                          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') END),
                 current_user::text
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
            &[&table.target.schema, &table.target.table, &names],
        )
        .await;
    let row = row.map_err(|error| classify("looking at a table that refuses an event", &error))?;
    let Some(row) = row else {
        return no_table(client, &table.target).await.map(Some);
    };
    let (may_use, column, rights): (bool, Option<&str>, Option<Vec<&str>>) =
        (row.get(0), row.get(1), row.get(2));
    let role = quoted(row.get(3));
    let no_right = |right: &str, of: &str| Lack {
        code: Code::TargetRefuses,
        what: format!(
            "the sink's role {role} has no right to {right} on {of} (SQLSTATE 42501), table {}",
            table.name
        ),
        remedy: format!("GRANT {right} ON {of} TO {role}; on the target"),
    };
    Ok(match (may_use, column, rights) {
        (false, ..) => Some(no_right(
            "USAGE",
            &format!("SCHEMA {}", quoted(&table.target.schema)),
        )),
        (_, Some(column), _) => Some(missing_column(table, column)),
        (.., Some(rights)) => Some(no_right(
            &rights.join(", "),
            &format!("TABLE {}", table.name),
        )),
        _ => None,
    })
}

/// The first column whose value is refused in the same way when it comes alone.
async fn find_column<'t>(
    client: &Client,
    table: &'t Table,
    change: &RowChange<'_>,
    state: &str,
) -> Result<Option<&'t Column>> {
    let image = match change.kind {
        ChangeKind::Delete => &change.identity.0[..],
        ChangeKind::DeleteOne => change.before(),
        _ => change.after(),
    };
    let failed = |error: tokio_postgres::Error| -> Trouble { classify("trying a value", &error) };
    for (name, json) in image.iter().take(TRIED_MAX) {
        let Some(column) = table.column(name).map(|place| &table.columns[place]) else {
            continue;
        };
        let Ok(Some(value)) = value_of(column, json) else {
            continue;
        };
        if column.generated {
            continue;
        }
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT $1::text::{}",
            table.name,
            quoted(&column.name),
            column.type_name
        );
        let parameters: [&(dyn ToSql + Sync); 1] = [&value];
        client
            .batch_execute("SAVEPOINT trial")
            .await
            .map_err(failed)?;
        let tried = match client.prepare_typed(&sql, &[Type::TEXT]).await {
            Ok(statement) => client.execute(&statement, &parameters).await,
            Err(error) => Err(error),
        };
        client
            .batch_execute("ROLLBACK TO SAVEPOINT trial; RELEASE SAVEPOINT trial")
            .await
            .map_err(failed)?;
        let is_it = |error: &tokio_postgres::Error| {
            let by_itself = error.as_db_error().is_some_and(|db| db.where_().is_none());
            by_itself && state_of(error) == Some(state)
        };
        if tried.as_ref().is_err_and(is_it) {
            return Ok(Some(column));
        }
    }
    Ok(None)
}

/// The enum that a column is of, or its elements are, or its domain is over.
async fn enum_of(client: &Client, table: &Table, column: &Column) -> Result<Option<String>> {
    let row = client
        .query_opt(
            "SELECT pg_catalog.format_type(e.oid, NULL) FROM pg_catalog.pg_attribute a
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             JOIN pg_catalog.pg_type e ON e.oid IN (t.oid, t.typbasetype, t.typelem) AND e.typtype = 'e'
             WHERE a.attrelid = $1 AND a.attname = $2 LIMIT 1",
            &[&table.oid, &column.name],
        )
        .await;
    row.map(|row| row.map(|row| row.get(0)))
        .map_err(|error| classify("reading the catalog", &error))
}
