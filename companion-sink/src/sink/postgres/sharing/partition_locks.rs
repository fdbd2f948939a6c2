//! Several instances share the partitions of a replica with `consistency = "row"`, each topic's as evenly as can be. Who is
//! there, and who has what, stands in the locks of the target's server: an instance holds the sink's lock together with the
//! others, and alone the one of each partition that it has. They go with its session, whatever ends it. One that sleeps (SIGSTOP,
//! a host that is gone) keeps its session; the others end it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use change::partition::partition_of;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::error::Result;
use crate::kafka::discovery::Topics;
use crate::kafka::reader::TopicPartition;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::schema::bindings::Bindings;
use crate::sink::postgres::schema::tables::Tables;
use crate::sink::postgres::{Connection, Postgres, not_connected};

/// Where instances tell each other that there is something to look at; the payload is the sink.
pub const INSTANCES_CHANNEL: &str = "companion_sink_instances";

/// An instance whose session waited for so many seconds for a statement is asleep.
const ASLEEP_AFTER_SECONDS: i32 = 5;
/// How often an instance shows that it is awake.
const AWAKE_EVERY: Duration = Duration::from_secs(1);
/// How long leaving may take where the server does not answer.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What an instance knows of those that share with it.
#[derive(Default)]
pub struct Sharing {
    /// The partitions whose locks it holds.
    pub owned: BTreeSet<TopicPartition>,
    /// Sessions that are asleep and could not be ended, by their process ids.
    left_asleep: BTreeSet<i32>,
}

/// This instance's place among those that are awake.
#[derive(Debug, Clone, Copy)]
struct Place {
    rank: usize,
    instances: usize,
}

impl Place {
    /// How many partitions of a topic it is to have. Where they do not come out even, another instance has one more with each
    /// topic.
    fn quota(self, topic: &str, partitions: i32) -> usize {
        let partitions = usize::try_from(partitions).unwrap_or_default();
        let turn = partition_of(Some(topic.as_bytes()), i32::MAX);
        let turn = usize::try_from(turn).unwrap_or_default();
        let is_among_first = (self.rank + turn) % self.instances < partitions % self.instances;
        partitions / self.instances + usize::from(is_among_first)
    }
}

impl Postgres {
    /// Takes free partitions, and gives up those that other instances are to have; those that this one has then.
    pub async fn share_partitions(&mut self, wanted: &Topics) -> Result<BTreeSet<TopicPartition>> {
        let place = self.place_among_instances().await?;
        let sink = self.state.sink();
        let Connection {
            session,
            sharing,
            parked,
            tables,
            bindings,
            ..
        } = self.connection.as_mut().ok_or_else(not_connected)?;
        let mut fresh = Vec::new();
        let is_wanted = |at: &&TopicPartition| wanted.contains_key(&*at.topic);
        let unwanted = sharing.owned.iter().filter(|at| !is_wanted(at));
        let mut excess: Vec<TopicPartition> = unwanted.cloned().collect();
        let mut owned_of: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
        for at in &sharing.owned {
            owned_of.entry(&at.topic).or_default().insert(at.partition);
        }
        for (topic, partitions) in wanted {
            let quota = place.quota(topic, *partitions);
            let owned = owned_of.remove(topic.as_str()).unwrap_or_default();
            let topic: Arc<str> = topic.as_str().into();
            let of_topic = |partition: i32| TopicPartition {
                topic: Arc::clone(&topic),
                partition,
            };
            if owned.len() < quota {
                let others: Vec<i32> = (0..*partitions).filter(|p| !owned.contains(p)).collect();
                let free = quota - owned.len();
                let taken = take(&session.client, &lock_name(sink, &topic), &others, free).await?;
                fresh.extend(taken.into_iter().map(of_topic));
            } else {
                excess.extend(owned.into_iter().skip(quota).map(of_topic));
            }
        }
        let parked_events = self.state.parked_events();
        if !excess.is_empty() {
            sharing.owned.retain(|at| !excess.contains(at));
            give_up(&session.client, sink, &excess).await?;
            tell_others(&session.client, sink).await?;
            let left: Vec<TopicPartition> = sharing.owned.iter().cloned().collect();
            *parked = parked_events.keys_of(&session.client, &left).await?;
        }
        if !fresh.is_empty() {
            // Who had them may have parked keys, and followed changes of definitions.
            let keys = parked_events.keys_of(&session.client, &fresh).await?;
            parked.extend(keys);
            *tables = Tables::default();
            *bindings = Bindings::default();
            sharing.owned.extend(fresh);
        }
        Ok(sharing.owned.clone())
    }

    /// Leaves the others, who may have everything of this one. The session goes on to listen for decisions.
    pub async fn leave_instances(&mut self) {
        let sink = self.state.sink();
        let Some(Connection {
            session, sharing, ..
        }) = self.connection.as_mut()
        else {
            return;
        };
        sharing.owned.clear();
        let leaving = async {
            session
                .client
                .batch_execute(&format!(
                    "ROLLBACK; SELECT pg_advisory_unlock_all(); UNLISTEN {INSTANCES_CHANNEL}"
                ))
                .await
                .map_err(|error| classify("leaving the other instances", &error))?;
            tell_others(&session.client, sink).await
        };
        match timeout(LEAVE_TIMEOUT, leaving).await {
            Ok(Ok(())) => {}
            // The locks go with the session.
            Ok(Err(error)) => tracing::debug!(sink = self.name, %error, "not left in order"),
            Err(_) => tracing::debug!(sink = self.name, "not left in order: no answer"),
        }
    }

    /// Finds this instance's place, and ends the sessions of those that are asleep.
    async fn place_among_instances(&mut self) -> Result<Place> {
        let Connection {
            session, sharing, ..
        } = self.connection.as_mut().ok_or_else(not_connected)?;
        let sql = "SELECT l.pid, l.pid = pg_backend_pid(),
                coalesce(a.state LIKE 'idle%' AND a.state_change < clock_timestamp() - make_interval(secs => $2), false)
             FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND l.objsubid = 2
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
               AND l.classid::bigint = hashtext('companion-sink')::bigint & 4294967295
               AND l.objid::bigint = hashtext($1)::bigint & 4294967295
             ORDER BY l.pid";
        let failed = |error| classify("asking for other instances", &error);
        let statement = session.prepared(sql, &[]).await.map_err(failed)?;
        let client = &session.client;
        let asleep_after = f64::from(ASLEEP_AFTER_SECONDS);
        let rows = client
            .query(&statement, &[&self.state.sink(), &asleep_after])
            .await
            .map_err(failed)?;
        let mut place = Place {
            rank: 0,
            instances: 0,
        };
        for row in rows {
            let (pid, is_own, is_asleep): (i32, bool, bool) = (row.get(0), row.get(1), row.get(2));
            if is_asleep && !is_own {
                if !sharing.left_asleep.contains(&pid)
                    && !end_session(client, &self.name, pid).await?
                {
                    sharing.left_asleep.insert(pid);
                }
                continue;
            }
            if is_own {
                place.rank = place.instances;
            }
            place.instances += 1;
        }
        place.instances = place.instances.max(1);
        Ok(place)
    }
}

/// Says that this instance is there now, and awake.
pub async fn join_instances(client: &Arc<Client>, sink: &str) -> Result<()> {
    tokio::spawn(stay_awake(Arc::downgrade(client)));
    client
        .batch_execute(&format!("LISTEN {INSTANCES_CHANNEL}"))
        .await
        .map_err(|error| classify("listening to other instances", &error))?;
    tell_others(client, sink).await
}

/// Has the other instances of the sink look, when the open transaction, if there is one, is committed.
pub async fn tell_others(client: &Client, sink: &str) -> Result<()> {
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
pub fn lock_name(sink: &str, topic: &str) -> String {
    format!("companion-sink/{sink}/{topic}")
}

/// Locks up to `at_most` of the partitions that nobody has.
async fn take(client: &Client, name: &str, partitions: &[i32], at_most: usize) -> Result<Vec<i32>> {
    // Row by row: after the last one that is wanted, none is tried.
    let sql = "SELECT p FROM unnest($2::int[]) AS p
               WHERE pg_try_advisory_lock(hashtextextended($1::text || '/' || p, 0)) LIMIT $3";
    let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
    let rows = client.query(sql, &[&name, &partitions, &at_most]).await;
    let rows = rows.map_err(|error| classify("taking partitions", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn give_up(client: &Client, sink: &str, excess: &[TopicPartition]) -> Result<()> {
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
async fn end_session(client: &Client, name: &str, pid: i32) -> Result<bool> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_its_instance_and_none_has_two_more_than_another() {
        for instances in 1..=7 {
            for partitions in 0..=20 {
                for topic in ["shop.public.t", "shop.public.customer", "x"] {
                    let quotas = (0..instances).map(|rank| {
                        let place = Place { rank, instances };
                        place.quota(topic, partitions)
                    });
                    let quotas: Vec<usize> = quotas.collect();
                    assert_eq!(quotas.iter().sum::<usize>(), partitions as usize);
                    let (least, most) = (quotas.iter().min(), quotas.iter().max());
                    assert!(most.unwrap() - least.unwrap() <= 1, "{quotas:?}");
                }
            }
        }
    }

    #[test]
    fn topics_of_one_partition_are_shared_out() {
        let topics: Vec<String> = (0..40).map(|n| format!("shop.public.t{n}")).collect();
        for rank in 0..2 {
            let place = Place { rank, instances: 2 };
            let had: usize = topics.iter().map(|topic| place.quota(topic, 1)).sum();
            assert!((10..=30).contains(&had), "{had}");
        }
    }
}
