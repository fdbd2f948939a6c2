//! What people want to become of an effect that is not done: a record in a topic, which the active instance carries out.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::{Deserialize, Serialize};

use crate::effect::state::event_place::EventPlace;
use crate::effect::state::journal::blocking;
use crate::error::{Result, kafka_failed};
use crate::kafka::client::configuration_error;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What is to become of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wanted {
    /// It is tried at once.
    Retry,
    /// It is left out for good.
    Skip,
}

/// An order of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// What.
    pub(crate) order: Wanted,
    /// The event.
    pub(crate) event: EventPlace,
    /// Who.
    pub(crate) by: String,
    /// Why.
    pub(crate) reason: Option<String>,
    /// When, RFC 3339.
    pub(crate) at: String,
}

impl Wanted {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Wanted::Retry => "retry",
            Wanted::Skip => "skip",
        }
    }
}

impl Order {
    /// Who, and why, on one line.
    pub(crate) fn told(&self) -> String {
        let told = match &self.reason {
            Some(reason) => format!("by {}: {reason}", self.by),
            None => format!("by {}", self.by),
        };
        told.replace(char::is_control, " ")
    }
}

/// Sends orders to a sink, and waits until Kafka has them.
pub(crate) async fn send(client: &ClientConfig, topic: &str, orders: Vec<Order>) -> Result<()> {
    let mut client = client.clone();
    client
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "10000");
    let topic = topic.to_owned();
    blocking(move || {
        let producer: BaseProducer = client
            .create()
            .map_err(|error| configuration_error(&error))?;
        let failed = |error: &KafkaError| kafka_failed(&format!("writing {topic}"), error);
        for order in &orders {
            let json = serde_json::to_vec(order).unwrap_or_default();
            let record = BaseRecord::<(), [u8]>::to(&topic)
                .partition(0)
                .payload(&json);
            producer.send(record).map_err(|(error, _)| failed(&error))?;
        }
        producer.flush(TIMEOUT).map_err(|error| failed(&error))?;
        match producer.in_flight_count() {
            0 => Ok(()),
            _ => Err(failed(&KafkaError::Global(
                RDKafkaErrorCode::OperationTimedOut,
            ))),
        }
    })
    .await
}
