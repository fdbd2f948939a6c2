//! The target's tables as the catalog has them, and where the source's tables live there.

use crate::sink::postgres::schema::target::{Target, quoted};
use crate::sink::postgres::settings::Settings;

use std::borrow::Cow;
use std::collections::HashMap;

use tokio_postgres::Client;
use tokio_postgres::types::Oid;

use crate::error::{Code, Result};
use crate::event::TableName;
use crate::event::pg_type::PgType;
use crate::sink::postgres::failure::{Fault, Lack, classify};

/// A table of the target.
#[derive(Debug)]
pub(crate) struct Table {
    /// Qualified and quoted.
    pub(crate) name: String,
    /// The same in its parts, not quoted.
    pub(crate) target: Target,
    /// The columns in their order.
    pub(crate) columns: Vec<Column>,
    /// The relation's number in the catalog.
    pub(crate) oid: Oid,
    /// The name of the primary key's constraint, and its columns.
    pub(crate) primary_key: Option<(String, Vec<String>)>,
    /// Which reading of the catalog it comes from: a later one may have other columns.
    pub(crate) reading: u64,
    /// The columns of each unique index that an upsert can use.
    unique: Vec<Vec<String>>,
    /// What the `source` of its events holds, as the sender writes it.
    named: String,
}

/// A column of the target.
#[derive(Debug)]
pub(crate) struct Column {
    /// The name, not quoted.
    pub(crate) name: String,
    /// Its name in events.
    pub(crate) source_name: String,
    /// The type without its modifier, so that a cast never cuts a value; the assignment checks the modifier.
    pub(crate) type_name: String,
    /// How values arrive.
    pub(crate) pg_type: PgType,
    /// Whether the target computes it itself.
    pub(crate) generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: can be given a value when a row is inserted, and none later.
    pub(crate) fixed: bool,
    /// Whether equality of the type means the same value; else its text is compared.
    pub(crate) exact_equality: bool,
    /// The collation, quoted, where it takes different texts for the same.
    pub(crate) collation: Option<String>,
}

impl Table {
    /// The place of the column that events name so.
    pub(crate) fn column(&self, source_name: &str) -> Option<usize> {
        self.columns
            .iter()
            .position(|column| column.source_name == source_name)
    }

    /// As [`Table::column`], looked for at `place` first: images have the columns in the table's order, nearly always.
    pub(crate) fn column_near(&self, place: usize, source_name: &str) -> Option<usize> {
        match self.columns.get(place) {
            Some(column) if column.source_name == source_name => Some(place),
            _ => self.column(source_name),
        }
    }

    /// The type of the column that events name so; of one that is not there nothing is known.
    pub(crate) fn type_of(&self, source_name: &str) -> Cow<'_, PgType> {
        match self.column(source_name) {
            Some(place) => Cow::Borrowed(&self.columns[place].pg_type),
            None => Cow::Owned(PgType::Plain),
        }
    }

    /// A column that a row can be written with without changing it.
    pub(crate) fn writable(&self) -> Option<&Column> {
        let mut columns = self.columns.iter();
        columns.find(|column| !column.generated && !column.fixed)
    }

    /// Whether equal keys with these columns may be written differently, as 1.0 and 1.00 of `numeric`.
    pub(crate) fn has_spellings(&self, key: &[usize]) -> bool {
        key.iter().any(|place| !self.columns[*place].exact_equality)
    }

    /// Whether the `source` of an event names the source's table of this one, as far as that is seen without parsing it.
    pub(crate) fn is_named_in(&self, source: &str) -> bool {
        source.contains(&self.named)
    }

    /// The columns of some unique index.
    pub(crate) fn unique_columns(&self) -> Option<&[String]> {
        self.unique.first().map(Vec::as_slice)
    }

    /// Whether a unique index has exactly these columns.
    pub(crate) fn is_unique(&self, names: &[String]) -> bool {
        self.unique.iter().any(|index| {
            index.len() == names.len() && index.iter().all(|column| names.contains(column))
        })
    }
}

/// The columns of a table, and what is to be known of their types.
const COLUMNS: &str = "SELECT a.attname::text, a.atttypid, pg_catalog.format_type(a.atttypid, -1),
            a.attgenerated <> '', a.attidentity = 'a', k.collation IS NULL AND (t.typtype = 'e' OR
                (CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END)
                IN ('name'::regtype, 'bit'::regtype, 'varbit'::regtype, 'time'::regtype,
                'timetz'::regtype, 'inet'::regtype, 'cidr'::regtype, 'macaddr'::regtype, 'macaddr8'::regtype,
                'money'::regtype, 'pg_lsn'::regtype,
                'bool'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                'oid'::regtype, 'text'::regtype, 'varchar'::regtype, 'uuid'::regtype,
                'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'bytea'::regtype)),
            k.collation, c.oid
     FROM pg_catalog.pg_class c
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
     LEFT JOIN LATERAL (
         SELECT pg_catalog.format('%I.%I', kn.nspname, k.collname) AS collation
         FROM pg_catalog.pg_collation k JOIN pg_catalog.pg_namespace kn ON kn.oid = k.collnamespace
         WHERE k.oid = a.attcollation AND NOT k.collisdeterministic) k ON true
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
     ORDER BY a.attnum";
/// The columns of its unique indexes that an event can be held against.
const UNIQUE_INDEXES: &str = "SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM pg_catalog.pg_index i
     JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indisvalid AND i.indimmediate
       AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
     GROUP BY i.indexrelid";
/// Its primary key.
const PRIMARY_KEY: &str = "SELECT k.conname::text, array(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u(attnum, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.place)
     FROM pg_catalog.pg_constraint k
     JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND k.contype = 'p'";

/// The known tables by the event's `cdc.table`.
#[derive(Default)]
pub(crate) struct Tables {
    known: Vec<Table>,
    by_header: HashMap<String, usize>,
    /// What was admitted: the one `cdc.table` of each topic, and its place.
    by_topic: HashMap<String, (String, usize)>,
    types: HashMap<Oid, PgType>,
    readings: u64,
}

impl Tables {
    /// The table at `place`, as [`Tables::find`] gave it.
    pub(crate) fn get(&self, place: usize) -> &Table {
        &self.known[place]
    }

    /// The place of a table whose events were admitted to this topic already.
    pub(crate) fn known(&self, topic: &str, header: &str) -> Option<usize> {
        let (known, place) = self.by_topic.get(topic)?;
        (known == header).then_some(*place)
    }

    /// The events of a topic are looked at anew: they may be of another table from now on.
    pub(crate) fn forget_topic(&mut self, topic: &str) {
        self.by_topic.remove(topic);
    }

    /// Finds the table of an event that was admitted to its topic.
    pub(crate) async fn find(
        &mut self,
        client: &Client,
        settings: &Settings,
        topic: &str,
        header: &str,
        source: &TableName<'_>,
    ) -> std::result::Result<usize, Fault> {
        if let Some(place) = self.by_header.get(header).copied() {
            let known = (header.to_owned(), place);
            self.by_topic.insert(topic.to_owned(), known);
            return Ok(place);
        }
        let target = settings.target(header, source);
        let mut table = self.load(client, settings, target.clone(), source).await?;
        if table.is_none()
            && let Some(shadow) = &settings.shadow
            && shadow
                .make_like(client, &settings.target_for_readers(header, source))
                .await?
        {
            table = self.load(client, settings, target.clone(), source).await?;
        }
        let Some(table) = table else {
            return Err(Fault::Lack(no_table(client, &target).await?));
        };
        if let Some(shadow) = &settings.shadow {
            shadow.note(settings.target_for_readers(header, source), source);
        }
        self.known.push(table);
        let place = self.known.len() - 1;
        self.by_header.insert(header.to_owned(), place);
        let known = (header.to_owned(), place);
        self.by_topic.insert(topic.to_owned(), known);
        Ok(place)
    }

    /// Reads the definition of a known table again.
    pub(crate) async fn refresh(
        &mut self,
        client: &Client,
        settings: &Settings,
        header: &str,
        source: &TableName<'_>,
    ) -> Result<()> {
        let Some(place) = self.by_header.get(header).copied() else {
            return Ok(());
        };
        let target = settings.target(header, source);
        self.types.clear();
        if let Some(table) = self.load(client, settings, target, source).await? {
            self.known[place] = table;
        }
        Ok(())
    }

    /// The table `target` as the catalog has it; `None` where there is none.
    pub(crate) async fn load(
        &mut self,
        client: &Client,
        settings: &Settings,
        target: Target,
        source: &TableName<'_>,
    ) -> Result<Option<Table>> {
        let Target { schema, table } = &target;
        let failed = |error| classify("reading the catalog", &error);
        let columns = client
            .query(COLUMNS, &[&schema, &table])
            .await
            .map_err(failed)?;
        let Some(first) = columns.first() else {
            return Ok(None);
        };
        self.readings += 1;
        let mut loaded = Table {
            reading: self.readings,
            name: target.quoted(),
            oid: first.get(7),
            columns: Vec::with_capacity(columns.len()),
            primary_key: None,
            unique: Vec::new(),
            named: named(source),
            target: Target::default(),
        };
        for column in &columns {
            // A table may have no columns, yet.
            let Some(name) = column.get::<_, Option<String>>(0) else {
                continue;
            };
            loaded.columns.push(Column {
                source_name: settings.source_column(source, &name).to_owned(),
                name,
                pg_type: self.pg_type(client, column.get(1)).await?,
                type_name: column.get(2),
                generated: column.get(3),
                fixed: column.get(4),
                exact_equality: column.get(5),
                collation: column.get(6),
            });
        }
        let indexes = client
            .query(UNIQUE_INDEXES, &[&schema, &table])
            .await
            .map_err(failed)?;
        loaded.unique = indexes.iter().map(|index| index.get(0)).collect();
        let primary_key = client
            .query_opt(PRIMARY_KEY, &[&schema, &table])
            .await
            .map_err(failed)?;
        loaded.primary_key = primary_key.map(|row| (row.get(0), row.get(1)));
        loaded.target = target;
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
            (_, _, "int2" | "int4" | "int8" | "numeric" | "float4" | "float8" | "money") => {
                PgType::Number
            }
            (_, _, "bit") => PgType::Bit,
            (_, _, "bytea") => PgType::Bytea,
            (_, _, "date") => PgType::Date,
            (_, _, "timestamp") => PgType::Timestamp,
            (_, _, "timestamptz") => PgType::TimestampTz,
            (_, _, "hstore") => PgType::Hstore,
            _ => PgType::Plain,
        };
        self.types.insert(oid, pg_type.clone());
        Ok(pg_type)
    }
}

/// How the sender writes the name of a table. One that it writes otherwise, for its characters, is parsed each time.
pub(crate) fn named(source: &TableName<'_>) -> String {
    let json = |name: &str| serde_json::Value::from(name).to_string();
    format!(
        "\"schema\":{},\"table\":{}",
        json(&source.schema),
        json(&source.table)
    )
}

/// A table that events have and the target has not.
pub(crate) fn missing_table(target: &Target) -> Lack {
    Lack {
        code: Code::TargetRefuses,
        what: format!("table {} does not exist on the target", target.quoted()),
        remedy: "Create it there with the source's columns (with create_tables = true it is made when the table is tracked)".into(),
    }
}

/// As [`missing_table`], where something else may have its name.
pub(crate) async fn no_table(client: &Client, target: &Target) -> Result<Lack> {
    let sql = "SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                      WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'composite type' ELSE 'index' END
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind NOT IN ('r', 'p')";
    let row = client
        .query_opt(sql, &[&target.schema, &target.table])
        .await;
    let row = row.map_err(|error| classify("reading the catalog", &error))?;
    Ok(match row {
        None => missing_table(target),
        Some(row) => Lack {
            code: Code::TargetRefuses,
            what: format!(
                "{} of the target is a {}, no table",
                target.quoted(),
                row.get::<_, &str>(0)
            ),
            remedy: "Put a table with the source's columns in its place, or name another one in tables and restart".into(),
        },
    })
}

/// A column that events have and the target has not (CDC1011).
pub(crate) fn missing_column(table: &Table, column: &str) -> Lack {
    Lack {
        code: Code::SchemaChange,
        what: format!("table {} has no column {}", table.name, quoted(column)),
        remedy: format!(
            "ALTER TABLE {} ADD COLUMN {} TYPE; on the target",
            table.name,
            quoted(column)
        ),
    }
}

/// A text in quotes.
pub(crate) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    match doubled.contains('\\') {
        true => format!(" E'{}'", doubled.replace('\\', "\\\\")),
        false => format!("'{doubled}'"),
    }
}
