//! Why Kafka does not answer: the client tries again and again without a word, so it is asked from outside.

use std::time::Duration;

use change::code::Code;
use change::trouble::Trouble;
use rdkafka::client::{Client, ClientContext};

use super::topics::describe;

/// For what the brokers say of a topic.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Looks at a topic whose records are not acknowledged for too long; none if nobody says more than that.
pub(crate) fn diagnose<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    brokers: &str,
) -> Option<Trouble> {
    let metadata = client.fetch_metadata(Some(name), TIMEOUT).ok()?;
    let topic = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == name)?;
    if let Some(alone) = topic.partitions().iter().find(|p| p.leader() < 0) {
        return Some(Trouble::new(
            Code::BrokersUnreachable,
            format!("partition {} of \"{name}\" has no leader", alone.id()),
            "Bring its brokers back. The WAL is held meanwhile.",
        ));
    }
    let wanted = describe::settings(client, name, ["min.insync.replicas"]);
    let [wanted] = wanted.ok()?;
    let wanted: usize = wanted.parse().ok()?;
    let short = topic.partitions().iter().find(|p| p.isr().len() < wanted);
    Some(match short {
        Some(short) => Trouble::new(
            Code::WritesRefused,
            format!(
                "broker refuses writes: partition {} of \"{name}\" has {} in-sync replicas, min.insync.replicas is {wanted}",
                short.id(),
                short.isr().len()
            ),
            "Bring the missing brokers back, or correct min.insync.replicas.",
        ),
        None => Trouble::new(
            Code::BrokersUnreachable,
            format!("brokers \"{brokers}\" do not acknowledge events of \"{name}\""),
            "Look into the log of the partitions' leaders. The WAL is held meanwhile.",
        ),
    })
}
