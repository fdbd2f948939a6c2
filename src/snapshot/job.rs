//! A snapshot as the table `cdc_snapshot_jobs` has it. Texts are JSON in UTF-8 there, whatever the database's encoding.

use change::code::Code;
use change::trouble::Trouble;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde::{Deserialize, Serialize};

use crate::report::Raise;

/// What was asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Wanted {
    /// SQL condition on one row, as a table's filter is.
    pub filter: Option<String>,
    pub rows_per_second: Option<i32>,
    pub sinks: Option<Vec<String>>,
}

/// How far it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The last row's key columns, as PostgreSQL's text.
    pub values: Vec<String>,
    /// The same as events have it, a JSON object.
    pub key: String,
}

/// A snapshot that is not finished.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub id: i64,
    pub relation: pg_sys::Oid,
    pub wanted: Wanted,
    /// The newest chunk that Kafka has.
    pub chunk: u64,
    pub place: Option<Place>,
    pub rows_done: i64,
}

/// Jobs of one table that may be unfinished, for who is not an administrator, and finished ones that are kept.
pub(crate) const MOST_OF_TABLE: i64 = 10;

/// The jobs of the connected database. Every method is for a running transaction in which names are pg_catalog's: the
/// worker's, or under `as_superuser`.
pub(crate) struct Jobs {
    /// Quoted and qualified.
    table: String,
}

/// CDC0504.
pub(super) fn failure(id: i64, code: Code, message: &str) -> Trouble {
    Trouble::new(
        Code::SnapshotFailed,
        format!("snapshot {id} failed"),
        format!("See to the cause, then SELECT cdc_snapshot_resume({id})."),
    )
    .detail(format!("{code}: {message}"))
}

/// A failed query of our own.
fn failed(error: pgrx::spi::Error) -> ! {
    pgrx::error!("pg_cdc could not read or write its snapshots: {error}")
}

impl Jobs {
    /// None where the extension is not in this database.
    pub(crate) fn find() -> Option<Jobs> {
        let query = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
            JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_cdc'";
        let schema = match Spi::get_one::<String>(query) {
            Ok(schema) => schema,
            Err(pgrx::spi::Error::InvalidPosition) => None,
            Err(error) => failed(error),
        };
        schema.map(|schema| Jobs {
            table: format!("{schema}.cdc_snapshot_jobs"),
        })
    }

    fn run(&self, statement: &str, arguments: &[DatumWithOid<'_>]) {
        let statement = statement.replace("JOBS", &self.table);
        if let Err(error) = Spi::run_with_args(&statement, arguments) {
            failed(error);
        }
    }

    /// How many jobs of a table are not finished.
    pub(crate) fn unfinished(&self, relation: pg_sys::Oid) -> i64 {
        let query = "SELECT pg_catalog.count(*) FROM JOBS
            WHERE relation = $1 AND state NOT IN ('done', 'cancelled')"
            .replace("JOBS", &self.table);
        let found = Spi::connect(|client| {
            client
                .select(&query, Some(1), &[relation.into()])?
                .first()
                .get_one::<i64>()
        });
        match found {
            Ok(count) => count.unwrap_or_default(),
            Err(error) => failed(error),
        }
    }

    /// Cancels the oldest of a table that is not being made: another one that is asked for does what it would have done.
    pub(crate) fn cancel_oldest(&self, relation: pg_sys::Oid) {
        self.run(
            "UPDATE JOBS SET state = 'cancelled' WHERE snapshot_id = (SELECT o.snapshot_id FROM JOBS o
                 WHERE o.relation = $1 AND o.state NOT IN ('done', 'cancelled', 'running')
                 ORDER BY o.snapshot_id LIMIT 1 FOR UPDATE SKIP LOCKED)",
            &[relation.into()],
        );
    }

    /// Forgets finished jobs of a table but for the newest ones, and all of tables that are gone.
    fn forget_old(&self, relation: pg_sys::Oid) {
        self.run(
            "DELETE FROM JOBS WHERE snapshot_id IN (SELECT o.snapshot_id FROM JOBS o
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = o.relation)
                    OR (o.relation = $1 AND o.state IN ('done', 'cancelled') AND o.snapshot_id <= (
                        SELECT k.snapshot_id FROM JOBS k WHERE k.relation = $1 AND k.state IN ('done', 'cancelled')
                        ORDER BY k.snapshot_id DESC OFFSET $2 LIMIT 1))
                 FOR UPDATE SKIP LOCKED)",
            &[relation.into(), MOST_OF_TABLE.into()],
        );
    }

    /// Adds one; returns its id.
    pub(crate) fn add(&self, relation: pg_sys::Oid, wanted: &Wanted) -> i64 {
        self.forget_old(relation);
        let statement =
            "INSERT INTO JOBS (relation, request) VALUES ($1, $2) RETURNING snapshot_id"
                .replace("JOBS", &self.table);
        let request = json(wanted);
        let id = Spi::connect_mut(|client| {
            client
                .update(&statement, Some(1), &[relation.into(), request.into()])?
                .first()
                .get_one::<i64>()
        });
        match id {
            Ok(Some(id)) => id,
            Ok(None) => failed(pgrx::spi::Error::InvalidPosition),
            Err(error) => failed(error),
        }
    }

    /// Whether the same is asked for and has not begun, and will not before the transaction ends.
    pub(crate) fn has_pending(&self, relation: pg_sys::Oid, wanted: &Wanted) -> bool {
        // One that the worker just looks at may begin now.
        let query = "SELECT snapshot_id FROM JOBS WHERE relation = $1 AND request = $2
            AND state = 'waiting_for_writers' AND started IS NULL LIMIT 1 FOR UPDATE SKIP LOCKED"
            .replace("JOBS", &self.table);
        let found = Spi::connect_mut(|client| {
            let rows = client.update(&query, Some(1), &[relation.into(), json(wanted).into()])?;
            Ok(!rows.is_empty())
        });
        found.unwrap_or_else(|error: pgrx::spi::Error| failed(error))
    }

    /// The first that is to be gone on with, of the owner whose turn is longest ago. Those that cannot be read have failed then: read
    /// as nothing, a request would be one for the whole table.
    pub(crate) fn next(&self) -> Option<Job> {
        loop {
            match self.first()? {
                Ok(job) => return Some(job),
                Err((id, why)) => {
                    failure(id, Code::SnapshotFailed, &why).log();
                    self.fail(id, Code::SnapshotFailed, &why);
                }
            }
        }
    }

    /// The first one, or its number and why it cannot be read.
    fn first(&self) -> Option<Result<Job, (i64, String)>> {
        let query = "SELECT snapshot_id, relation, request, chunk, place, rows_done FROM (
                SELECT j.*, pg_catalog.max(j.served) OVER (PARTITION BY c.relowner) AS owner_served
                FROM JOBS j LEFT JOIN pg_catalog.pg_class c ON c.oid = j.relation) AS j
            WHERE state IN ('waiting_for_writers', 'running') ORDER BY owner_served NULLS FIRST, snapshot_id LIMIT 1"
            .replace("JOBS", &self.table);
        let found = Spi::connect(|client| {
            let mut rows = client.select(&query, Some(1), &[])?;
            let Some(row) = rows.next() else {
                return Ok(None);
            };
            let id = row.get(1)?.unwrap_or_default();
            let unreadable = |column: &str, error: serde_json::Error| {
                (id, format!("its {column} cannot be read: {error}"))
            };
            let request: Vec<u8> = row.get(3)?.unwrap_or_default();
            let wanted = serde_json::from_slice(&request);
            let place: Option<Vec<u8>> = row.get(5)?;
            let place = place.map(|json| serde_json::from_slice(&json)).transpose();
            let (wanted, place) = match (wanted, place) {
                (Ok(wanted), Ok(place)) => (wanted, place),
                (Err(error), _) => return Ok(Some(Err(unreadable("request", error)))),
                (_, Err(error)) => return Ok(Some(Err(unreadable("place", error)))),
            };
            Ok(Some(Ok(Job {
                id,
                relation: row.get(2)?.unwrap_or(pg_sys::InvalidOid),
                wanted,
                chunk: row.get::<i64>(4)?.unwrap_or_default() as u64,
                place,
                rows_done: row.get(6)?.unwrap_or_default(),
            })))
        });
        found.unwrap_or_else(|error: pgrx::spi::Error| failed(error))
    }

    /// Whether another owner's job waits for this one.
    pub(crate) fn others_wait(&self, relation: pg_sys::Oid) -> bool {
        let query = "SELECT FROM JOBS j JOIN pg_catalog.pg_class c ON c.oid = j.relation
            WHERE j.state IN ('waiting_for_writers', 'running')
              AND c.relowner <> (SELECT o.relowner FROM pg_catalog.pg_class o WHERE o.oid = $1) LIMIT 1"
            .replace("JOBS", &self.table);
        let found = Spi::connect(|client| {
            let rows = client.select(&query, Some(1), &[relation.into()])?;
            Ok(!rows.is_empty())
        });
        found.unwrap_or_else(|error: pgrx::spi::Error| failed(error))
    }

    /// Locks the job and says whether it is to be gone on with: nobody paused or cancelled it.
    pub(crate) fn goes_on(&self, id: i64) -> bool {
        self.lock(id)
            .is_some_and(|state| state == "waiting_for_writers" || state == "running")
    }

    /// Waits for whoever is just adding a job, and keeps others from it until the transaction ends.
    pub(crate) fn lock_out_new_ones(&self) {
        self.run("LOCK TABLE JOBS IN SHARE MODE", &[]);
    }

    pub(crate) fn wait_for_writers(&self, id: i64) {
        self.run(
            "UPDATE JOBS SET state = 'waiting_for_writers', served = pg_catalog.clock_timestamp() WHERE snapshot_id = $1",
            &[id.into()],
        );
    }

    /// Begins, or begins again: the estimate is made once.
    pub(crate) fn begin(&self, id: i64) {
        self.run(
            "UPDATE JOBS j SET state = 'running', started = COALESCE(started, pg_catalog.clock_timestamp()), problem = NULL,
                 rows_estimated = COALESCE(rows_estimated, (
                     SELECT pg_catalog.sum(GREATEST(c.reltuples, 0))::bigint FROM pg_catalog.pg_class c
                     WHERE c.oid = j.relation
                        OR c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree(j.relation) t WHERE t.isleaf)))
             WHERE snapshot_id = $1",
            &[id.into()],
        );
    }

    /// Writes down that Kafka has the job's chunks so far.
    pub(crate) fn save(&self, job: &Job, busy_ms: i64) {
        self.run(
            "UPDATE JOBS SET chunk = $2, place = $3, rows_done = $4,
                 busy_ms = busy_ms + $5 WHERE snapshot_id = $1",
            &[
                job.id.into(),
                (job.chunk as i64).into(),
                job.place.as_ref().map(json).into(),
                job.rows_done.into(),
                busy_ms.into(),
            ],
        );
    }

    pub(crate) fn finish(&self, id: i64) {
        self.run(
            "UPDATE JOBS SET state = 'done', rows_estimated = rows_done WHERE snapshot_id = $1",
            &[id.into()],
        );
    }

    pub(crate) fn fail(&self, id: i64, code: Code, message: &str) {
        let problem = json(&serde_json::json!({"code": code, "message": message}));
        self.run(
            "UPDATE JOBS SET state = 'failed', problem = $2 WHERE snapshot_id = $1",
            &[id.into(), problem.into()],
        );
    }

    /// The table of a job.
    pub(crate) fn relation_of(&self, id: i64) -> Option<pg_sys::Oid> {
        let query = "SELECT relation FROM JOBS WHERE snapshot_id = $1".replace("JOBS", &self.table);
        let found = Spi::connect(|client| {
            let mut rows = client.select(&query, Some(1), &[id.into()])?;
            rows.next().map_or(Ok(None), |row| row.get(1))
        });
        found.unwrap_or_else(|error: pgrx::spi::Error| failed(error))
    }

    /// Locks a job; its state.
    pub(crate) fn lock(&self, id: i64) -> Option<String> {
        let query =
            "SELECT state FROM JOBS WHERE snapshot_id = $1 FOR UPDATE".replace("JOBS", &self.table);
        let state = Spi::connect_mut(|client| {
            let mut rows = client.update(&query, Some(1), &[id.into()])?;
            rows.next().map_or(Ok(None), |row| row.get::<String>(1))
        });
        state.unwrap_or_else(|error: pgrx::spi::Error| failed(error))
    }

    pub(crate) fn set_state(&self, id: i64, state: &str) {
        self.run(
            "UPDATE JOBS SET state = $2 WHERE snapshot_id = $1",
            &[id.into(), state.into()],
        );
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
