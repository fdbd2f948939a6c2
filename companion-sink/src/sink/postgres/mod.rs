//! The replica: the tables of the source, kept row by row, with the offsets in the same transaction.

mod connection;
mod failure;
pub(crate) mod in_commit_order;
pub(crate) mod parked;
pub(crate) mod replay;
pub(crate) mod replica;
pub(crate) mod schema;
pub(crate) mod settings;
mod sharing;
mod state;
pub(crate) mod verification;
mod watchdog;
pub(crate) mod write;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use change::trouble::Trouble;

use crate::delivery::watermark::Complete;
use crate::error::{Code, Result};
use crate::kafka::discovery::Topics;
use crate::kafka::reader::TopicPartition;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use crate::sink::Met;
use crate::sink::batch::Applied;
use crate::sink::batch::Batch;
use crate::sink::batch::Move;
use crate::sink::batch::Position;
pub(crate) use crate::sink::postgres::connection::open;
use crate::sink::postgres::failure::classify;
use crate::sink::{Positions, SharedTarget, Sink};
use crate::status::SinkStatus;

use crate::sink::postgres::parked::pending_actions;
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::replica::TargetConnection;
use crate::sink::postgres::replica::not_connected;
use crate::sink::postgres::sharing::{meeting, partitions};
use crate::sink::postgres::write::batch::{BatchEnd, apply_batch};
use crate::sink::postgres::write::whole_table;

/// What `check` wants to know of a role.
pub(crate) struct Role {
    /// It may set `session_replication_role`.
    pub(crate) is_replica: bool,
    /// It may do everything.
    pub(crate) is_superuser: bool,
}

/// Connects and sets the session, for `check`.
pub(crate) async fn try_connect(url: &str, name: &str) -> Result<Role> {
    let client = connection::connect(url, name, &Arc::default()).await?;
    let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let row = client.query_opt(sql, &[]).await;
    let row = row.map_err(|error| classify("asking for the role", &error))?;
    Ok(Role {
        is_superuser: row.is_some_and(|row| row.get(0)),
        is_replica: connection::become_replica(&client).await?,
    })
}

/// The sink of kind `postgres`, as partitions bring their events.
pub(crate) struct Postgres {
    replica: Replica,
}

impl Postgres {
    /// Writes to `replica`.
    pub(crate) fn new(replica: Replica) -> Self {
        Postgres { replica }
    }
}

impl Positions for Postgres {
    async fn positions(&mut self, wanted: &[TopicPartition]) -> Result<Vec<Option<Position>>> {
        self.replica.positions(wanted).await
    }

    async fn begin(&mut self, starts: &[(TopicPartition, i64)]) -> Result<()> {
        self.replica.begin(starts).await
    }
}

impl Sink for Postgres {
    async fn connect(&mut self) -> Result<()> {
        self.replica.connect().await
    }

    async fn apply(&mut self, batch: &Batch, dead_letters: &DeadLetters) -> Result<Applied> {
        let decided = self.replica.decided_batch(batch)?;
        let batch = decided.as_ref().unwrap_or(batch);
        let refused = match apply_batch(&mut self.replica, batch, dead_letters).await? {
            BatchEnd::Committed(applied) => return Ok(applied),
            BatchEnd::RefusedAtCommit(fault) => fault.error("COMMIT"),
        };
        if self.replica.looks_before_commit {
            return Err(refused);
        }
        // Constraint triggers may be there for this role as well. Looked at before, each event is told.
        self.replica.looks_before_commit = true;
        Err(Trouble::new(
            Code::Unreachable,
            refused.message,
            "It is tried again, and the event is looked for.",
        ))
    }

    async fn note_complete(&mut self, complete: &Complete) -> Result<()> {
        let TargetConnection { session, .. } =
            self.replica.connection.as_ref().ok_or_else(not_connected)?;
        self.replica
            .state
            .forget_newest(session, &complete.version)
            .await
    }

    fn no_answer(&self, status: &SinkStatus) -> impl Future<Output = Trouble> + Send + 'static {
        self.replica.no_answer(status)
    }

    async fn rest(&mut self, is_over: bool) {
        self.replica.hold_nothing(is_over).await;
    }

    async fn decided(&self) {
        self.replica.decided().await;
    }

    async fn resumed(&mut self) {
        self.replica.resumed().await;
    }

    async fn carry_out(&mut self, dead_letters: &DeadLetters) -> Result<u64> {
        pending_actions::carry_out(&mut self.replica, dead_letters).await
    }

    fn waits_together(&self, record: &Record) -> bool {
        !whole_table::is_refused_before_it_waits(&self.replica, record)
    }

    async fn apply_together(&mut self, record: &Record, _moves: &[Move]) -> Result<()> {
        let topic = &record.topic;
        Err(Trouble::new(
            Code::TargetRefuses,
            format!("postgres: topic {topic}: instances did not meet"),
            "Report this with the log.",
        ))
    }

    type Shared = Self;

    fn shared(&self) -> Option<&Self> {
        Some(self)
    }

    fn shared_mut(&mut self) -> Option<&mut Self> {
        Some(self)
    }
}

impl SharedTarget for Postgres {
    async fn share(&mut self, wanted: &Topics) -> Result<BTreeSet<TopicPartition>> {
        partitions::share(&mut self.replica, wanted).await
    }

    async fn others_acted(&self) {
        self.replica.news.others_acted.notified().await;
    }

    async fn leave(&mut self) {
        partitions::leave(&mut self.replica).await;
    }

    async fn meet(
        &mut self,
        record: &Record,
        moves: &[Move],
        partitions: i32,
        dead_letters: &DeadLetters,
    ) -> Result<Met> {
        meeting::meet(&mut self.replica, record, moves, partitions, dead_letters).await
    }
}
