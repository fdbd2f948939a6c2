//! What people decided about parked events, in the target's state.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::error::Result;
use crate::kafka::reader::TopicPartition;
use crate::rejected::parked_event::{Action, Decider, Decision};
use crate::sink::postgres::failure::classify;

/// Where decisions are announced; the payload is the sink.
pub(crate) const CHANNEL: &str = "companion_sink";
/// A time in UTC, RFC 3339.
pub(super) const TIME: &str = "YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"";

/// Decisions about the parked events of one sink.
pub(crate) struct Decisions<'s> {
    /// Quoted.
    pub(crate) schema: &'s str,
    /// `<name>.<sink>`, as its consumer group.
    pub(crate) sink: &'s str,
}

impl Decisions<'_> {
    /// The keys of which an event was decided about, and not carried out, with the partition of that.
    pub(crate) async fn decided_keys(
        &self,
        client: &Client,
    ) -> Result<Vec<(TopicPartition, Vec<u8>)>> {
        let sql = format!(
            "SELECT DISTINCT topic, partition, key FROM {}.parked WHERE sink = $1 AND NOT halts AND decision IS NOT NULL",
            self.schema
        );
        let rows = client.query(&sql, &[&self.sink]).await;
        let rows = rows.map_err(|error| classify("reading the decisions", &error))?;
        let decided = |row: &Row| {
            let at = TopicPartition {
                topic: row.get::<_, &str>(0).into(),
                partition: row.get(1),
            };
            (at, row.get(2))
        };
        Ok(rows.iter().map(decided).collect())
    }

    /// What was decided about events that stop the sink, by their ids.
    pub(crate) async fn decided(&self, client: &Client) -> Result<HashMap<String, Decision>> {
        let sql = format!(
            "SELECT event_id, decision, edited_body FROM {}.parked WHERE sink = $1 AND halts AND decision IS NOT NULL",
            self.schema
        );
        let rows = client.query(&sql, &[&self.sink]).await;
        let rows = rows.map_err(|error| classify("reading the decisions", &error))?;
        let decided = rows.iter().filter_map(|row| {
            let decision = decision(row, 1, 2)?;
            Some((row.get(0), decision))
        });
        Ok(decided.collect())
    }

    /// What was decided last about each event that was parked at some time and is not applied as it is, by their ids.
    pub(crate) async fn decided_ever(&self, client: &Client) -> Result<HashMap<String, Decision>> {
        let sql = format!(
            "SELECT DISTINCT ON (event_id) event_id, action, edited_body FROM {}.actions
             WHERE sink = $1 ORDER BY event_id, at DESC",
            self.schema
        );
        let rows = client.query(&sql, &[&self.sink]).await;
        let rows = rows.map_err(|error| classify("reading the actions", &error))?;
        let decided = rows.iter().filter_map(|row| {
            let decision = decision(row, 1, 2)?;
            (decision != Decision::Retry).then(|| (row.get(0), decision))
        });
        Ok(decided.collect())
    }

    /// Notes a decision, and tells the instances.
    pub(crate) async fn decide(
        &self,
        client: &Client,
        event_id: &str,
        decision: &Decision,
        decider: Decider<'_>,
    ) -> Result<()> {
        let edited = match decision {
            Decision::Edit(body) => Some(body),
            _ => None,
        };
        let sql = format!(
            "WITH decided AS (
                 UPDATE {schema}.parked SET decision = $3, edited_body = $4
                 WHERE sink = $1 AND event_id = $2 AND code IS NOT NULL RETURNING event_id, body),
             noted AS (
                 INSERT INTO {schema}.actions (sink, event_id, action, decided_by, reason, body, edited_body)
                 SELECT $1, event_id, $3, $5, $6, body, $4 FROM decided)
             SELECT pg_notify('{CHANNEL}', $1)",
            schema = self.schema
        );
        let parameters: [&(dyn ToSql + Sync); 6] = [
            &self.sink,
            &event_id,
            &decision.name(),
            &edited,
            &decider.by,
            &decider.reason,
        ];
        let noted = client.execute(&sql, &parameters).await;
        noted
            .map(drop)
            .map_err(|error| classify("noting a decision", &error))
    }

    /// What was decided about an event, the oldest first.
    pub(crate) async fn actions(&self, client: &Client, event_id: &str) -> Result<Vec<Action>> {
        let sql = format!(
            "SELECT action, decided_by, to_char(at AT TIME ZONE 'UTC', '{TIME}'), reason FROM {}.actions
             WHERE sink = $1 AND event_id = $2 ORDER BY at",
            self.schema
        );
        let rows = client.query(&sql, &[&self.sink, &event_id]).await;
        let rows = rows.map_err(|error| classify("reading the actions", &error))?;
        let action = |row: &Row| Action {
            action: row.get(0),
            by: row.get(1),
            at: row.get(2),
            reason: row.get(3),
        };
        Ok(rows.iter().map(action).collect())
    }
}

/// The decision in two columns of a row, if there is one.
pub(super) fn decision(row: &Row, decision: usize, edited_body: usize) -> Option<Decision> {
    let name: Option<&str> = row.get(decision);
    Some(Decision::of(name?, row.get(edited_body)))
}
