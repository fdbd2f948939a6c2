//! Who owns which partition: the members of a consumer group share `account`, and the client id of a member is the address at which
//! it is asked. Kafka knows, so nobody else has to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rdkafka::consumer::Consumer;
use rdkafka::groups::GroupMemberInfo;
use tokio::task::spawn_blocking;

use crate::topics::{Result, TIMEOUT, Topics};

/// The owners as they were when Kafka was asked last.
pub(crate) struct Owners {
    pub(crate) topics: Arc<Topics>,
    /// The name of the group.
    pub(crate) group: String,
    /// The address of this instance.
    pub(crate) me: String,
    known: Mutex<BTreeMap<i32, String>>,
    asked_at: tokio::sync::Mutex<Instant>,
}

/// What Kafka said, for this instance.
pub(crate) struct Told<'a> {
    owners: BTreeMap<i32, String>,
    me: &'a str,
}

impl Owners {
    /// None is known yet.
    pub(crate) fn new(topics: Arc<Topics>, group: String, me: String) -> Owners {
        Owners {
            topics,
            group,
            me,
            known: Mutex::default(),
            asked_at: tokio::sync::Mutex::new(Instant::now()),
        }
    }

    /// The address of who owns a partition, as far as is known.
    pub(crate) fn of(&self, partition: i32) -> Option<String> {
        let known = self.known.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        known.get(&partition).cloned()
    }

    /// Asks Kafka again, unless somebody else has done so meanwhile.
    pub(crate) async fn refresh(self: &Arc<Self>) {
        let wanted_at = Instant::now();
        let mut asked_at = self.asked_at.lock().await;
        if *asked_at > wanted_at {
            return;
        }
        *asked_at = Instant::now();
        let owners = Arc::clone(self);
        let told = spawn_blocking(move || owners.ask().map(|told| told.owners));
        match told.await {
            // Nobody while the partitions are being shared anew: those who had them still do, or will say that they do not.
            Ok(Ok(told)) if !told.is_empty() => {
                let known = self.known.lock();
                *known.unwrap_or_else(PoisonError::into_inner) = told;
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => eprintln!("Kafka does not say who owns what: {error}"),
            Err(error) => eprintln!("asking for the owners has failed: {error}"),
        }
    }

    /// Asks Kafka.
    pub(crate) fn ask(&self) -> Result<Told<'_>> {
        let groups = self
            .topics
            .asking
            .fetch_group_list(Some(&self.group), TIMEOUT)?;
        let group = groups
            .groups()
            .iter()
            .find(|group| group.name() == self.group);
        let stable = group.filter(|group| group.state() == "Stable");
        let mut owners = BTreeMap::new();
        for member in stable.iter().flat_map(|group| group.members()) {
            for partition in partitions_of(member).unwrap_or_default() {
                owners.insert(partition, member.client_id().to_owned());
            }
        }
        Ok(Told {
            owners,
            me: &self.me,
        })
    }
}

impl Told<'_> {
    /// Whether this instance owns the partition.
    pub(crate) fn is_mine(&self, partition: i32) -> bool {
        self.owners
            .get(&partition)
            .is_some_and(|owner| owner == self.me)
    }
}

/// The partitions of a member: its assignment in the form of Kafka's consumers (version, topics, and of each the name and the
/// partitions; all lengths big endian).
fn partitions_of(member: &GroupMemberInfo) -> Option<Vec<i32>> {
    let mut rest = member.assignment()?.get(2..)?;
    let mut number = |bytes: usize| {
        let (number, behind) = rest.split_at_checked(bytes)?;
        rest = behind;
        Some(number.to_vec())
    };
    let mut int = |bytes: usize| {
        let bytes = number(bytes)?;
        Some(
            bytes
                .iter()
                .fold(0, |n: i32, byte| (n << 8) | i32::from(*byte)),
        )
    };
    let mut partitions = Vec::new();
    for _ in 0..int(4)? {
        let length = int(2)?;
        for _ in 0..length {
            int(1)?;
        }
        for _ in 0..int(4)? {
            partitions.push(int(4)?);
        }
    }
    Some(partitions)
}
