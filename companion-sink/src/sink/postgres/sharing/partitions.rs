//! Which partitions an instance has: as many as the others, and those that nobody has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use change::partition::partition_of;
use tokio::time::timeout;

use crate::error::Result;
use crate::kafka::discovery::Topics;
use crate::kafka::reader::TopicPartition;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::schema::bindings::Bindings;
use crate::sink::postgres::schema::tables::Tables;

use crate::sink::postgres::connection::INSTANCES_CHANNEL;
use crate::sink::postgres::replica::Replica;
use crate::sink::postgres::replica::TargetConnection;
use crate::sink::postgres::replica::not_connected;
use crate::sink::postgres::sharing::partition_locks::{
    ASLEEP_AFTER_SECONDS, end_session, give_up, lock_name, take, tell_others,
};

/// How long leaving may take where the server does not answer.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// This instance's place among those that are awake.
#[derive(Debug, Clone, Copy)]
struct InstanceRank {
    rank: usize,
    instances: usize,
}

impl InstanceRank {
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

/// Takes free partitions, and gives up those that other instances are to have; those that this one has then.
pub(crate) async fn share(
    replica: &mut Replica,
    wanted: &Topics,
) -> Result<BTreeSet<TopicPartition>> {
    let place = place_among_instances(replica).await?;
    let sink = replica.state.sink();
    let TargetConnection {
        session,
        sharing,
        parked,
        tables,
        bindings,
        ..
    } = replica.connection.as_mut().ok_or_else(not_connected)?;
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
    let parked_events = replica.state.parked_events();
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
pub(crate) async fn leave(replica: &mut Replica) {
    let sink = replica.state.sink();
    let Some(TargetConnection {
        session, sharing, ..
    }) = replica.connection.as_mut()
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
        Ok(Err(error)) => tracing::debug!(sink = replica.name, %error, "not left in order"),
        Err(_) => tracing::debug!(sink = replica.name, "not left in order: no answer"),
    }
}

/// Finds this instance's place, and ends the sessions of those that are asleep.
async fn place_among_instances(replica: &mut Replica) -> Result<InstanceRank> {
    let TargetConnection {
        session, sharing, ..
    } = replica.connection.as_mut().ok_or_else(not_connected)?;
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
        .query(&statement, &[&replica.state.sink(), &asleep_after])
        .await
        .map_err(failed)?;
    let mut place = InstanceRank {
        rank: 0,
        instances: 0,
    };
    for row in rows {
        let (pid, is_own, is_asleep): (i32, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if is_asleep && !is_own {
            if !sharing.left_asleep.contains(&pid)
                && !end_session(client, &replica.name, pid).await?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_its_instance_and_none_has_two_more_than_another() {
        for instances in 1..=7 {
            for partitions in 0..=20 {
                for topic in ["shop.public.t", "shop.public.customer", "x"] {
                    let quotas = (0..instances).map(|rank| {
                        let place = InstanceRank { rank, instances };
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
            let place = InstanceRank { rank, instances: 2 };
            let had: usize = topics.iter().map(|topic| place.quota(topic, 1)).sum();
            assert!((10..=30).contains(&had), "{had}");
        }
    }
}
