//! Makes a table equal to its shadow by writing the rows that differ, and no others: grants, indexes, views and foreign keys
//! stay, and so do columns that only the target has.

use change::trouble::Trouble;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Code, Result};
use crate::sink::changes::Changes;
use crate::sink::postgres::failure::{Fault, sort};
use crate::sink::postgres::schema::tables::Column;
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::target::quoted;

/// A table that readers use, and its shadow.
pub(crate) struct Pair<'t> {
    /// What readers use.
    pub(crate) table: &'t Table,
    /// The shadow, quoted.
    pub(crate) shadow: String,
    /// The columns that the source fills.
    pub(crate) columns: Vec<&'t Column>,
    /// Those of them that identify a row; none where nothing does.
    pub(crate) key: Vec<&'t Column>,
}

impl Pair<'_> {
    /// Writes what differs, in the open transaction.
    pub(crate) async fn merge(&self, client: &Client) -> Result<Changes> {
        let mut changes = Changes {
            table: format!("{}.{}", self.table.target.schema, self.table.target.table),
            ..Changes::default()
        };
        if self.key.is_empty() {
            let [delete, insert] = self.without_key();
            changes.deleted = self.execute(client, &delete).await?;
            changes.inserted = self.execute(client, &insert).await?;
            return Ok(changes);
        }
        changes.deleted = self.execute(client, &self.delete()).await?;
        let mut replaced = 0;
        if let Some(delete) = self.delete_otherwise_fixed() {
            replaced = self.execute(client, &delete).await?;
            changes.updated = replaced;
        }
        if let Some(update) = self.update() {
            let (updated, more) = self.update_or_replace(client, &update).await?;
            changes.updated += updated;
            replaced += more;
        }
        let inserted = self.execute(client, &self.insert()).await?;
        changes.inserted = inserted.saturating_sub(replaced);
        Ok(changes)
    }

    /// Writes rows once more that were written in the shadow since the transaction `xid`, so that the end of the snapshot that
    /// began there finds them written.
    pub(crate) async fn touch(&self, client: &Client, xid: &str) -> Result<()> {
        let Some(written) = self.table.writable().filter(|_| !self.key.is_empty()) else {
            return Ok(());
        };
        let name = quoted(&written.name);
        let sql = format!(
            "UPDATE {} AS t SET {name} = t.{name} FROM {} AS s WHERE {} AND age(s.xmin) <= age('{xid}'::xid8::xid)",
            self.table.name,
            self.shadow,
            self.is_same_row()
        );
        self.execute(client, &sql).await.map(drop)
    }

    /// A unique value may move from row to row: where updates one by one collide, the rows go, and come again when the missing
    /// ones do. How many rows differ, and how many of them are to come again.
    async fn update_or_replace(&self, client: &Client, update: &str) -> Result<(u64, u64)> {
        let failed = |error: tokio_postgres::Error| self.failed(&error);
        client
            .batch_execute("SAVEPOINT updates")
            .await
            .map_err(failed)?;
        match client.execute(update, &[]).await {
            Ok(updated) => {
                client
                    .batch_execute("RELEASE SAVEPOINT updates")
                    .await
                    .map_err(failed)?;
                Ok((updated, 0))
            }
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) && self.is_whole() => {
                client
                    .batch_execute("ROLLBACK TO SAVEPOINT updates; RELEASE SAVEPOINT updates")
                    .await
                    .map_err(failed)?;
                let replaced = self.execute(client, &self.delete_different()).await?;
                Ok((replaced, replaced))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn execute(&self, client: &Client, sql: &str) -> Result<u64> {
        let done = client.execute(sql, &[]).await;
        done.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Trouble {
        match sort(&format!("comparing {}", self.table.name), error) {
            fault @ (Fault::Doubtful { .. } | Fault::Lack(_) | Fault::Other(_)) => {
                fault.error("comparing rows")
            }
            Fault::Event(failure) => Trouble::new(
                Code::ValueRefused,
                format!(
                    "postgres: rows of {} cannot be brought to what the topics say: {}",
                    self.table.name, failure.message
                ),
                "Nothing was changed. Correct the target's table, then replay again.",
            ),
        }
    }

    /// Whether the source fills all columns that are not computed.
    fn is_whole(&self) -> bool {
        let filled = |column: &Column| self.columns.iter().any(|other| other.name == column.name);
        let mut columns = self.table.columns.iter();
        columns.all(|column| column.generated || filled(column))
    }

    fn delete(&self) -> String {
        format!(
            "DELETE FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS s WHERE {})",
            self.table.name,
            self.shadow,
            self.is_same_row()
        )
    }

    /// Rows whose columns that can be given a value only when a row is inserted have another one; `None` where there is no such
    /// column.
    fn delete_otherwise_fixed(&self) -> Option<String> {
        let fixed = self.columns.iter().filter(|column| column.fixed);
        let different: Vec<String> = fixed
            .map(|column| {
                format!(
                    "t.{} IS DISTINCT FROM {}",
                    quoted(&column.name),
                    value(column)
                )
            })
            .collect();
        (!different.is_empty()).then(|| {
            format!(
                "DELETE FROM {} AS t USING {} AS s WHERE {} AND ({})",
                self.table.name,
                self.shadow,
                self.is_same_row(),
                different.join(" OR ")
            )
        })
    }

    /// `None` where all columns are the key's.
    fn update(&self) -> Option<String> {
        let others: Vec<&&Column> = self.others().collect();
        if others.is_empty() {
            return None;
        }
        let assignments = others
            .iter()
            .map(|column| format!("{} = {}", quoted(&column.name), value(column)));
        Some(format!(
            "UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND ({})",
            self.table.name,
            assignments.collect::<Vec<_>>().join(", "),
            self.shadow,
            self.is_same_row(),
            self.is_different()
        ))
    }

    fn delete_different(&self) -> String {
        format!(
            "DELETE FROM {} AS t USING {} AS s WHERE {} AND ({})",
            self.table.name,
            self.shadow,
            self.is_same_row(),
            self.is_different()
        )
    }

    fn insert(&self) -> String {
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})",
            self.table.name,
            self.names(),
            self.values(),
            self.shadow,
            self.table.name,
            self.is_same_row()
        )
    }

    /// Rows are told apart by their values, and equal ones by counting them: those too many go, those too few come.
    fn without_key(&self) -> [String; 2] {
        let numbered = |more: &str, values: &str, from: &str| {
            format!(
                "SELECT {more} ROW({values})::text AS image, row_number() OVER (PARTITION BY ROW({values})::text) AS n FROM {from}"
            )
        };
        let own: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("t.{}", quoted(&column.name)))
            .collect();
        let (own, table) = (own.join(", "), format!("{} AS t", self.table.name));
        let shadow = format!("{} AS s", self.shadow);
        let there = numbered("t.tableoid AS relation, t.ctid AS place,", &own, &table);
        let wanted = numbered(
            &format!("{},", self.named_values()),
            &self.values(),
            &shadow,
        );
        let is_missing = |in_other: &str| {
            format!(
                "NOT EXISTS (SELECT FROM ({in_other}) AS o WHERE o.image = x.image AND o.n = x.n)"
            )
        };
        [
            format!(
                "DELETE FROM {table} USING ({there}) AS x WHERE t.ctid = x.place AND t.tableoid = x.relation AND {}",
                is_missing(&wanted)
            ),
            format!(
                "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM ({wanted}) AS x WHERE {}",
                self.table.name,
                is_missing(&there),
                names = self.names(),
            ),
        ]
    }

    fn others(&self) -> impl Iterator<Item = &&Column> {
        let is_key = |column: &Column| self.key.iter().any(|key| key.name == column.name);
        // Of a key that has several spellings, that is brought over as well.
        let is_other = move |column: &Column| !is_key(column) || !column.exact_equality;
        self.columns
            .iter()
            .filter(move |column| is_other(column) && !column.fixed)
    }

    fn is_same_row(&self) -> String {
        let same = self
            .key
            .iter()
            .map(|column| format!("t.{} = {}", quoted(&column.name), value(column)));
        same.collect::<Vec<_>>().join(" AND ")
    }

    fn is_different(&self) -> String {
        let different = self.others().map(|column| {
            let (name, value) = (quoted(&column.name), value(column));
            match column.exact_equality {
                true => format!("t.{name} IS DISTINCT FROM {value}"),
                false => format!("t.{name}::text IS DISTINCT FROM ({value})::text"),
            }
        });
        different.collect::<Vec<_>>().join(" OR ")
    }

    fn names(&self) -> String {
        let names = self.columns.iter().map(|column| quoted(&column.name));
        names.collect::<Vec<_>>().join(", ")
    }

    fn values(&self) -> String {
        let values = self.columns.iter().map(|column| value(column));
        values.collect::<Vec<_>>().join(", ")
    }

    fn named_values(&self) -> String {
        let values = self
            .columns
            .iter()
            .map(|column| format!("{} AS {}", value(column), quoted(&column.name)));
        values.collect::<Vec<_>>().join(", ")
    }
}

/// The shadow's value as one of the table's type.
fn value(column: &Column) -> String {
    format!("s.{}::{}", quoted(&column.name), column.type_name)
}
