//! The Kafka thread: decompresses, renders, produces, and counts acknowledgements.
//!
//! One idempotent, gapless (or transactional: `exactly_once`) producer; any failed delivery ends it, and the session with
//! it: the next one starts again at the position. In the order of a row's way: `shipper` takes work and renders it,
//! `routing` finds topic and partition (`opening` the topic, `withheld` what is not sent), `outgoing` produces and serves
//! reports, `in_flight` says when a transaction is done, `failed_delivery` what a failure means.

mod broker;
mod exactly_once;
mod failed_delivery;
mod in_flight;
mod kafka_broker;
#[cfg(test)]
mod model;
mod opening;
mod outgoing;
mod routing;
mod shipper;
mod stop;
mod withheld;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer, PurgeConfig};
use rdkafka::util::Timeout;

use crate::kafka::context::ReportingContext;
use crate::kafka::properties::refused_configuration;
use crate::position::cause::{NO_EPOCH, backoff, wait_out};
use crate::position::writer;
use crate::session::Session;
use crate::trouble::Failure;
use crate::work::Work;
use exactly_once::ExactlyOnce;
use in_flight::deliveries::{Deliveries, SharedDeliveries};
use kafka_broker::{EventProducer, KafkaBroker};
use outgoing::Outgoing;
use routing::Router;
use shipper::Shipper;

/// Runs until the board says stop or the session fails.
pub fn run(session: &Session, work: &Receiver<Work>) {
    let mut config = session.settings.events(session.max_batch_bytes);
    if session.settings.exactly_once {
        exactly_once::configure(&mut config, session);
    }
    let mut attempts = backoff();
    loop {
        let deliveries = Arc::new(Mutex::new(Deliveries::new(Instant::now())));
        let producer = match connect(session, &config, &deliveries) {
            Ok(producer) => producer,
            Err(error) => {
                let halt = Failure::Halt(refused_configuration(&error));
                return session.board.fail(halt);
            }
        };
        let exact = match session.settings.exactly_once {
            false => None,
            true => {
                // librdkafka asks for the first token.
                producer.poll(Timeout::After(Duration::ZERO));
                match writer::take_over(session, &producer) {
                    Ok(records) => Some(ExactlyOnce::new(
                        records,
                        session.settings.heartbeat_ms,
                        exactly_once::LONGEST,
                    )),
                    Err(error) => {
                        drop(producer);
                        if !wait_out(session, NO_EPOCH, error, &mut attempts) {
                            return;
                        }
                        continue;
                    }
                }
            }
        };
        let broker = KafkaBroker::new(session, &producer);
        let router = Router::new(Outgoing::new(session, broker, deliveries, exact));
        Shipper::new(session, router).run(work);
        producer.purge(PurgeConfig::default().queue().inflight());
        return;
    }
}

fn connect(
    session: &Session,
    config: &ClientConfig,
    deliveries: &SharedDeliveries,
) -> Result<EventProducer, KafkaError> {
    let reports = Arc::clone(deliveries);
    config.create_with_context(ReportingContext::new(
        &session.settings,
        &session.board,
        reports,
    ))
}
