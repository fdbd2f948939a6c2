//! The tables that a replay builds beside those that readers use: in a schema of their own, together with the replay's state,
//! so that dropping the schema leaves nothing of it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use tokio_postgres::Client;

use crate::error::Result;
use crate::event::TableName;
use crate::rejected::parked_event::Decision;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::schema::definition::Definition;
use crate::sink::postgres::schema::target::Target;

/// Bytes of a name in PostgreSQL.
const NAME_BYTES_MAX: usize = 63;
const HASH_DIGITS: usize = 16;

/// Where a replay builds, and what it has to know of the sink whose place it takes.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    /// The schema, not quoted.
    pub(crate) schema: String,
    /// What the sink follows, by the tables that readers use.
    pub(crate) definitions: HashMap<Target, Definition>,
    /// What people decided about refused events, by their ids.
    pub(crate) decided: HashMap<String, Decision>,
    /// The rows that were there were copied: whole images are written, whatever a change has changed.
    pub(crate) writes_whole_rows: bool,
    /// The tables that the replay has met, by the names of their shadows.
    met: Mutex<BTreeMap<String, MetTable>>,
}

/// A table that the replay has met.
#[derive(Debug, Clone)]
pub(crate) struct MetTable {
    /// The source's.
    pub(crate) source: TableName<'static>,
    /// The one that readers use.
    pub(crate) target: Target,
}

impl Shadow {
    /// The schema for a replay of the sink `sink` of the instance `instance`.
    pub(crate) fn schema_name(instance: &str, sink: &str) -> String {
        shortened(format!("{instance}_replay_{sink}"))
    }

    /// The shadow of a table that readers use.
    pub(crate) fn of(&self, target: &Target) -> Target {
        Target {
            schema: self.schema.clone(),
            table: shortened(format!("{}.{}", target.schema, target.table)),
        }
    }

    /// Of a replay that has met nothing yet.
    pub(crate) fn new(
        schema: String,
        definitions: HashMap<Target, Definition>,
        decided: HashMap<String, Decision>,
        writes_whole_rows: bool,
    ) -> Shadow {
        Shadow {
            schema,
            definitions,
            decided,
            writes_whole_rows,
            met: Mutex::default(),
        }
    }

    /// Notes that the replay has met a table.
    pub(crate) fn note(&self, target: Target, source: &TableName<'_>) {
        let source = TableName {
            db: source.db.clone().into_owned().into(),
            schema: source.schema.clone().into_owned().into(),
            table: source.table.clone().into_owned().into(),
        };
        self.met
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.of(&target).table, MetTable { source, target });
    }

    /// The tables that the replay has met, by the names of their shadows; one that was renamed since is there under both.
    pub(crate) fn met(&self) -> BTreeMap<String, MetTable> {
        self.met
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes the shadow of a table like the one that readers use, so that it refuses what that would; false if there is none.
    pub(crate) async fn make_like(&self, client: &Client, target: &Target) -> Result<bool> {
        let is_there = client
            .query_one("SELECT to_regclass($1) IS NOT NULL", &[&target.quoted()])
            .await
            .map_err(|error| classify("reading the catalog", &error))?;
        if !is_there.get::<_, bool>(0) {
            return Ok(false);
        }
        self.make_shadow(client, target).await?;
        Ok(true)
    }

    /// Makes the shadow of a table that is there, empty.
    pub(crate) async fn make_shadow(&self, client: &Client, target: &Target) -> Result<()> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} (LIKE {} INCLUDING ALL)",
            self.of(target).quoted(),
            target.quoted()
        );
        let made = client.batch_execute(&sql).await;
        made.map_err(|error| classify("making a table of the replay", &error))
    }
}

/// A name that PostgreSQL does not cut, told apart by a hash where it would be too long.
fn shortened(name: String) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let mut end = NAME_BYTES_MAX - HASH_DIGITS - 1;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{:016x}", &name[..end], hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_fit_and_stay_apart() {
        let shadow = Shadow::default();
        let of = |table: &str| {
            let target = Target {
                schema: "s".into(),
                table: table.into(),
            };
            shadow.of(&target).table
        };
        assert_eq!(of("t"), "s.t");
        let (one, other) = ("ä".repeat(31) + "1", "ä".repeat(31) + "2");
        assert!(of(&one).len() <= NAME_BYTES_MAX && of(&one) != of(&other));
    }
}
