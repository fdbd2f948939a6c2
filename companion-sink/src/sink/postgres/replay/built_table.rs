//! The tables that a replay has built.

use change::trouble::Trouble;
use tokio_postgres::{Client, Row};

use crate::error::{Code, Result};
use crate::event::TableName;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::replay::difference::Pair;
use crate::sink::postgres::replay::shadow::{MetTable, Shadow};
use crate::sink::postgres::schema::definition::Definition;
use crate::sink::postgres::schema::tables::{Column, Table, missing_column};
use crate::sink::postgres::schema::target::{Target, quoted};
use crate::sink::postgres::settings::Settings;

/// A table that the replay has met.
pub(super) struct BuiltTable {
    pub shadow: Target,
    pub source: TableName<'static>,
    pub target: Target,
    pub topic: String,
    pub definition: Option<Definition>,
    /// The transaction id where a snapshot began that is under way.
    pub snapshot_since: Option<String>,
    /// The sink follows another definition.
    pub is_behind: bool,
    /// The source has dropped its table.
    pub is_dropped: bool,
}

/// The sink whose place the replay takes.
pub(super) struct LiveSink<'a> {
    /// Of its state, quoted.
    pub schema: &'a str,
    /// `<name>.<sink>`.
    pub sink: &'a str,
}

impl BuiltTable {
    /// What the replay has built.
    pub(super) async fn all(
        client: &Client,
        shadow: &Shadow,
        live: &LiveSink<'_>,
    ) -> Result<Vec<BuiltTable>> {
        let (live_schema, replay_schema) = (live.schema, quoted(&shadow.schema));
        let sql = format!(
            "SELECT c.relname::text, d.topic, d.definition, s.begun_at, l.definition IS NOT NULL AND l.definition IS DISTINCT FROM d.definition,
                 coalesce(d.is_dropped, false)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             LEFT JOIN {replay_schema}.definitions d ON d.target_table = c.relname
             LEFT JOIN {replay_schema}.snapshots s ON s.topic = d.topic
             LEFT JOIN {live_schema}.definitions l ON l.sink = $2 AND l.topic = d.topic
             WHERE n.nspname = $1"
        );
        let rows = client
            .query(&sql, &[&shadow.schema, &live.sink])
            .await
            .map_err(|error| classify("reading what was built", &error))?;
        let mut met = shadow.met();
        let mut built = Vec::new();
        for row in rows {
            let table: String = row.get(0);
            if let Some(met) = met.remove(&table) {
                built.push(BuiltTable::read(&row, shadow, table, met)?);
            }
        }
        built.sort_by_key(|one| one.target.quoted());
        Ok(built)
    }

    fn read(row: &Row, shadow: &Shadow, table: String, met: MetTable) -> Result<BuiltTable> {
        let definition: Option<&str> = row.get(2);
        let definition = definition.map(serde_json::from_str).transpose();
        Ok(BuiltTable {
            shadow: Target {
                schema: shadow.schema.clone(),
                table,
            },
            source: met.source,
            target: met.target,
            topic: row.get::<_, Option<String>>(1).unwrap_or_default(),
            definition: definition.map_err(|error| {
                Trouble::new(
                    Code::TargetRefuses,
                    format!("postgres: a definition in the replay's state cannot be read: {error}"),
                    "Replay again; report it if it happens once more.",
                )
            })?,
            snapshot_since: row.get(3),
            is_behind: row.get(4),
            is_dropped: row.get(5),
        })
    }

    /// It and the table that readers use.
    pub(super) fn pair<'t>(&self, settings: &Settings, table: &'t Table) -> Result<Pair<'t>> {
        let find = |name: &str| {
            let name = settings.target_column(&self.source, name);
            let column = table.columns.iter().find(|column| column.name == name);
            column.ok_or_else(|| missing_column(table, name).error())
        };
        let (columns, key): (Vec<&Column>, Vec<&Column>) = match &self.definition {
            Some(definition) => (
                definition
                    .columns
                    .iter()
                    .map(|column| find(&column.name))
                    .collect::<Result<_>>()?,
                definition
                    .primary_key_column_names
                    .iter()
                    .map(|name| find(name))
                    .collect::<Result<_>>()?,
            ),
            None => {
                let unique = table.unique_columns().unwrap_or_default();
                let columns = table.columns.iter();
                (
                    columns.clone().collect(),
                    columns
                        .filter(|column| unique.contains(&column.name))
                        .collect(),
                )
            }
        };
        Ok(Pair {
            table,
            shadow: self.shadow.quoted(),
            columns: columns
                .into_iter()
                .filter(|column| !column.generated)
                .collect(),
            key,
        })
    }
}
