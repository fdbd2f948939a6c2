//! Several instances share the partitions of a replica with `consistency = "row"`, each topic's as evenly as can be. Who is
//! there, and who has what, stands in the locks of the target's server: an instance holds the sink's lock together with the
//! others, and alone the one of each partition that it has. They go with its session, whatever ends it. One that sleeps (SIGSTOP,
//! a host that is gone) keeps its session; the others end it.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;

use crate::error::Result;
use crate::kafka::reader::TopicPartition;
use crate::sink::postgres::failure::classify;

use crate::sink::postgres::connection::INSTANCES_CHANNEL;

/// An instance whose session waited for so many seconds for a statement is asleep.
pub(crate) const ASLEEP_AFTER_SECONDS: i32 = 5;
/// How often an instance shows that it is awake.
const AWAKE_EVERY: Duration = Duration::from_secs(1);
/// What an instance knows of those that share with it.
#[derive(Default)]
pub(crate) struct Sharing {
    /// The partitions whose locks it holds.
    pub(crate) owned: BTreeSet<TopicPartition>,
    /// Sessions that are asleep and could not be ended, by their process ids.
    pub(crate) left_asleep: BTreeSet<i32>,
}

/// Says that this instance is there now, and awake.
pub(crate) async fn join_instances(client: &Arc<Client>, sink: &str) -> Result<()> {
    tokio::spawn(stay_awake(Arc::downgrade(client)));
    client
        .batch_execute(&format!("LISTEN {INSTANCES_CHANNEL}"))
        .await
        .map_err(|error| classify("listening to other instances", &error))?;
    tell_others(client, sink).await
}

/// Has the other instances of the sink look, when the open transaction, if there is one, is committed.
pub(crate) async fn tell_others(client: &Client, sink: &str) -> Result<()> {
    let told = client
        .execute("SELECT pg_notify($1, $2)", &[&INSTANCES_CHANNEL, &sink])
        .await;
    told.map(drop)
        .map_err(|error| classify("telling other instances", &error))
}

/// Shows once a second that this process is awake, whatever it waits for, as long as the connection is in use. It stands in
/// line behind the statement that is executed.
async fn stay_awake(client: Weak<Client>) {
    loop {
        sleep(AWAKE_EVERY).await;
        let Some(client) = client.upgrade() else {
            return;
        };
        if client.batch_execute("").await.is_err() {
            // Whoever uses the connection is told as well.
            return;
        }
    }
}

/// The name, to be hashed, of what instances of a sink lock of a topic.
pub(crate) fn lock_name(sink: &str, topic: &str) -> String {
    format!("companion-sink/{sink}/{topic}")
}

/// Locks up to `at_most` of the partitions that nobody has.
pub(crate) async fn take(
    client: &Client,
    name: &str,
    partitions: &[i32],
    at_most: usize,
) -> Result<Vec<i32>> {
    // Row by row: after the last one that is wanted, none is tried.
    let sql = "SELECT p FROM unnest($2::int[]) AS p
               WHERE pg_try_advisory_lock(hashtextextended($1::text || '/' || p, 0)) LIMIT $3";
    let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
    let rows = client.query(sql, &[&name, &partitions, &at_most]).await;
    let rows = rows.map_err(|error| classify("taking partitions", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub(crate) async fn give_up(client: &Client, sink: &str, excess: &[TopicPartition]) -> Result<()> {
    let names = excess.iter().map(|at| lock_name(sink, &at.topic));
    let names: Vec<String> = names.collect();
    let partitions: Vec<i32> = excess.iter().map(|at| at.partition).collect();
    let sql = "SELECT pg_advisory_unlock(hashtextextended(name || '/' || p, 0))
               FROM unnest($1::text[], $2::int[]) AS u(name, p)";
    let given_up = client.query(sql, &[&names, &partitions]).await;
    given_up
        .map(drop)
        .map_err(|error| classify("giving partitions up", &error))
}

/// Ends the session of an instance that is asleep, and with it what it has locked; whether that was possible.
pub(crate) async fn end_session(client: &Client, name: &str, pid: i32) -> Result<bool> {
    match client
        .query_one("SELECT pg_terminate_backend($1)", &[&pid])
        .await
    {
        Ok(_) => {
            tracing::warn!(
                sink = name,
                pid,
                "another instance did nothing for {ASLEEP_AFTER_SECONDS} s: its session is ended, its partitions are shared out"
            );
            Ok(true)
        }
        Err(error) if error.as_db_error().is_some() => {
            tracing::warn!(
                sink = name,
                pid,
                %error,
                hint = "Run all instances with the same role on the target, or GRANT pg_signal_backend TO it.",
                "another instance is asleep, and its session cannot be ended: it keeps its partitions"
            );
            Ok(false)
        }
        Err(error) => Err(classify("ending a session", &error)),
    }
}
