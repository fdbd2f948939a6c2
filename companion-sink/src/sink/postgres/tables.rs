//! The target's tables as the catalog has them, and their creation from schema events.

use std::collections::HashMap;

use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::types::Oid;

use super::failure::classify;
use super::pg_text::PgType;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::event::{Malformed, TableName, parse_body};
use crate::record::Record;

/// A table of the target.
#[derive(Debug)]
pub struct Table {
    /// Qualified and quoted.
    pub name: String,
    /// The columns in their order.
    pub columns: Vec<Column>,
    /// The columns of each unique index that an upsert can use.
    unique: Vec<Vec<String>>,
}

/// A column of the target.
#[derive(Debug)]
pub struct Column {
    /// The name, not quoted.
    pub name: String,
    /// The type without its modifier, so that a cast never cuts a value; the assignment checks the modifier.
    pub type_name: String,
    /// How values arrive.
    pub pg_type: PgType,
    /// Whether the target computes it itself.
    pub generated: bool,
    /// Whether equality of the type means the same value; else its text is compared.
    pub exact_equality: bool,
}

impl Table {
    /// The place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether a unique index has exactly these columns.
    pub fn is_unique(&self, names: &[String]) -> bool {
        self.unique.iter().any(|index| {
            index.len() == names.len() && index.iter().all(|column| names.contains(column))
        })
    }
}

/// The known tables by the event's `cdc.table`.
#[derive(Default)]
pub struct Tables {
    known: Vec<Table>,
    by_header: HashMap<String, usize>,
    types: HashMap<Oid, PgType>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    source: TableName<'a>,
    schema_change: Change,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    table_changes: Vec<TableChange>,
}

#[derive(Deserialize)]
struct TableChange {
    table: Option<Definition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    #[serde(default)]
    primary_key_column_names: Vec<String>,
    columns: Vec<ColumnDefinition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ColumnDefinition {
    name: String,
    type_expression: String,
    optional: bool,
}

impl Tables {
    /// The table at `place`, as [`Tables::find`] gave it.
    pub fn get(&self, place: usize) -> &Table {
        &self.known[place]
    }

    /// The place of a table that is known already.
    pub fn known(&self, header: &str) -> Option<usize> {
        self.by_header.get(header).copied()
    }

    /// Finds the table of an event; missing is an error that halts.
    pub async fn find(
        &mut self,
        client: &Client,
        settings: &config::Postgres,
        header: &str,
        source: &TableName<'_>,
    ) -> Result<usize> {
        if let Some(place) = self.known(header) {
            return Ok(place);
        }
        let schema = target_schema(settings, header, &source.schema);
        let Some(table) = self.load(client, &schema, &source.table).await? else {
            return Err(Error::new(
                Code::TargetRefuses,
                format!(
                    "postgres: table {} does not exist on the target",
                    qualified(&schema, &source.table)
                ),
                "Create it there with the source's columns, then restart. (With create_tables = true it is made when the table is tracked.)",
            ));
        };
        self.known.push(table);
        let place = self.known.len() - 1;
        self.by_header.insert(header.to_owned(), place);
        Ok(place)
    }

    /// Reads the definition of a known table again.
    pub async fn refresh(
        &mut self,
        client: &Client,
        settings: &config::Postgres,
        header: &str,
        source: &TableName<'_>,
    ) -> Result<()> {
        let Some(place) = self.known(header) else {
            return Ok(());
        };
        let schema = target_schema(settings, header, &source.schema);
        self.types.clear();
        if let Some(table) = self.load(client, &schema, &source.table).await? {
            self.known[place] = table;
        }
        Ok(())
    }

    /// Follows a schema event. Its copies in the other partitions find the work done.
    pub async fn follow(
        &mut self,
        client: &Client,
        settings: &config::Postgres,
        header: &str,
        record: &Record,
    ) -> Result<std::result::Result<(), Malformed>> {
        let body: Body<'_> = match parse_body(record) {
            Ok(body) => body,
            Err(malformed) => return Ok(Err(malformed)),
        };
        let kind = body.schema_change.kind.as_str();
        if matches!(kind, "UNTRACK" | "DROP") {
            tracing::info!(
                table = header,
                kind,
                "the source no longer sends this table; the target keeps it"
            );
            return Ok(Ok(()));
        }
        let mut definitions = body.schema_change.table_changes.into_iter();
        let Some(definition) = definitions.find_map(|change| change.table) else {
            return Ok(match kind {
                "CREATE" => Err(Malformed("the schema event has no table".into())),
                _ => Ok(()),
            });
        };
        let schema = target_schema(settings, header, &body.source.schema);
        let table = &*body.source.table;
        if kind == "CREATE"
            && settings.create_tables
            && self.load(client, &schema, table).await?.is_none()
        {
            create(client, &schema, table, &definition).await?;
            tracing::info!(table = %qualified(&schema, table), "table made");
        }
        match self.known(header) {
            Some(_) => self.refresh(client, settings, header, &body.source).await?,
            None => {
                self.find(client, settings, header, &body.source).await?;
            }
        }
        let Some(place) = self.known(header) else {
            return Ok(Ok(()));
        };
        for column in &definition.columns {
            if self.known[place].column(&column.name).is_none() {
                return Err(missing_column(
                    &self.known[place],
                    &column.name,
                    Some(&column.type_expression),
                ));
            }
        }
        Ok(Ok(()))
    }

    async fn load(&mut self, client: &Client, schema: &str, table: &str) -> Result<Option<Table>> {
        let failed = |error| classify("reading the catalog", &error);
        let columns = client
            .query(
                "SELECT a.attname::text, a.atttypid, pg_catalog.format_type(a.atttypid, -1),
                        a.attgenerated <> '',
                        a.atttypid IN ('bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                            'oid'::regtype, 'text'::regtype, 'varchar'::regtype, 'uuid'::regtype,
                            'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'bytea'::regtype)
                 FROM pg_catalog.pg_attribute a
                 JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
                   AND a.attnum > 0 AND NOT a.attisdropped
                 ORDER BY a.attnum",
                &[&schema, &table],
            )
            .await
            .map_err(failed)?;
        if columns.is_empty() {
            return Ok(None);
        }
        let mut loaded = Table {
            name: qualified(schema, table),
            columns: Vec::with_capacity(columns.len()),
            unique: Vec::new(),
        };
        for column in &columns {
            loaded.columns.push(Column {
                name: column.get(0),
                pg_type: self.pg_type(client, column.get(1)).await?,
                type_name: column.get(2),
                generated: column.get(3),
                exact_equality: column.get(4),
            });
        }
        let indexes = client
            .query(
                "SELECT array_agg(a.attname::text ORDER BY k.place)
                 FROM pg_catalog.pg_index i
                 JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                 WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indisvalid AND i.indimmediate
                   AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
                 GROUP BY i.indexrelid",
                &[&schema, &table],
            )
            .await
            .map_err(failed)?;
        loaded.unique = indexes.iter().map(|index| index.get(0)).collect();
        Ok(Some(loaded))
    }

    /// How values of a type arrive; domains as their base, arrays and composites by their parts.
    async fn pg_type(&mut self, client: &Client, oid: Oid) -> Result<PgType> {
        if let Some(known) = self.types.get(&oid) {
            return Ok(known.clone());
        }
        let failed = |error| classify("reading the catalog", &error);
        let row = client
            .query_one(
                "SELECT t.typname::text, t.typtype::text, t.typcategory::text, t.typelem, t.typbasetype, t.typrelid,
                        coalesce((SELECT e.typdelim FROM pg_catalog.pg_type e WHERE e.oid = t.typelem), ',')::text
                 FROM pg_catalog.pg_type t WHERE t.oid = $1",
                &[&oid],
            )
            .await
            .map_err(failed)?;
        let (name, kind, category): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let pg_type = match (kind.as_str(), category.as_str(), name.as_str()) {
            ("d", _, _) => Box::pin(self.pg_type(client, row.get(4))).await?,
            ("c", _, _) => {
                let relation: Oid = row.get(5);
                let attributes = client
                    .query(
                        "SELECT attname::text, atttypid FROM pg_catalog.pg_attribute
                         WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                        &[&relation],
                    )
                    .await
                    .map_err(failed)?;
                let mut parts = Vec::with_capacity(attributes.len());
                for attribute in attributes {
                    let part = Box::pin(self.pg_type(client, attribute.get(1))).await?;
                    parts.push((attribute.get(0), part));
                }
                PgType::Composite(parts)
            }
            (_, "A", "int2vector" | "oidvector") => PgType::Vector,
            (_, "A", _) => {
                let delimiter: String = row.get(6);
                PgType::Array {
                    element: Box::new(Box::pin(self.pg_type(client, row.get(3))).await?),
                    delimiter: delimiter.chars().next().unwrap_or(','),
                }
            }
            (_, _, "bit") => PgType::Bit,
            (_, _, "bytea") => PgType::Bytea,
            (_, _, "date") => PgType::Date,
            (_, _, "timestamp") => PgType::Timestamp,
            (_, _, "timestamptz") => PgType::TimestampTz,
            (_, _, "time") => PgType::Time,
            (_, _, "hstore") => PgType::Hstore,
            _ => PgType::Plain,
        };
        self.types.insert(oid, pg_type.clone());
        Ok(pg_type)
    }
}

/// A column that events have and the target has not (CDC1011).
pub fn missing_column(table: &Table, column: &str, type_expression: Option<&str>) -> Error {
    let type_expression = type_expression.unwrap_or("TYPE");
    Error::new(
        Code::SchemaChange,
        format!(
            "postgres: table {} has no column {}",
            table.name,
            quoted(column)
        ),
        format!(
            "ALTER TABLE {} ADD COLUMN {} {type_expression}; on the target, then restart.",
            table.name,
            quoted(column)
        ),
    )
}

async fn create(client: &Client, schema: &str, table: &str, definition: &Definition) -> Result<()> {
    let mut parts = Vec::with_capacity(definition.columns.len() + 1);
    for column in &definition.columns {
        check_type(client, &column.type_expression, schema, table).await?;
        let not_null = if column.optional { "" } else { " NOT NULL" };
        parts.push(format!(
            "{} {}{not_null}",
            quoted(&column.name),
            column.type_expression
        ));
    }
    if !definition.primary_key_column_names.is_empty() {
        let key: Vec<_> = definition
            .primary_key_column_names
            .iter()
            .map(|name| quoted(name))
            .collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    let exists = client
        .query_opt(
            "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1",
            &[&schema],
        )
        .await
        .map_err(|error| classify("reading the catalog", &error))?;
    let mut sql = String::new();
    // IF NOT EXISTS wants the right to create schemas even where there is nothing to do.
    if exists.is_none() {
        sql += &format!("CREATE SCHEMA IF NOT EXISTS {};\n", quoted(schema));
    }
    sql += &format!(
        "CREATE TABLE IF NOT EXISTS {} ({})",
        qualified(schema, table),
        parts.join(", ")
    );
    client.batch_execute(&sql).await.map_err(|error| {
        classify(
            &format!("making table {}", qualified(schema, table)),
            &error,
        )
    })
}

/// The expression goes into SQL: only what the server reads as the name of a type is let through.
async fn check_type(client: &Client, expression: &str, schema: &str, table: &str) -> Result<()> {
    let known = client
        .query_one("SELECT to_regtype($1) IS NOT NULL", &[&expression])
        .await;
    let known = match known {
        Ok(row) => row.get(0),
        Err(error) if error.as_db_error().is_some() => false,
        Err(error) => return Err(classify("asking for a type", &error)),
    };
    if known {
        return Ok(());
    }
    Err(Error::new(
        Code::SchemaChange,
        format!(
            "postgres: the target has no type {expression}, which {} needs",
            qualified(schema, table)
        ),
        "Create the type (CREATE TYPE or CREATE EXTENSION) on the target, then restart.",
    ))
}

/// The target's schema for a table of the source.
fn target_schema(settings: &config::Postgres, header: &str, schema: &str) -> String {
    let database = header.split('.').next().unwrap_or_default();
    settings
        .schema
        .replace("{database}", database)
        .replace("{schema}", schema)
}

fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// An identifier in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
