//! What a client tells its surroundings: lines for the log, errors, brokers and their quotas.

use std::error::Error;
use std::sync::Arc;

use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use super::settings::KafkaSettings;
use super::token;
use super::trouble_of::{CLOSED, trouble_of};
use crate::board::Board;

/// What a client tells its surroundings.
#[derive(Clone)]
pub(super) struct Reporter {
    board: Arc<Board>,
    brokers: String,
    unsigned_tokens: bool,
}

impl Reporter {
    pub(super) fn new(settings: &KafkaSettings, board: &Arc<Board>) -> Reporter {
        Reporter {
            board: Arc::clone(board),
            brokers: settings.brokers.clone(),
            unsigned_tokens: settings.unsigned_tokens(),
        }
    }
}

impl Reporter {
    pub(super) fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let reason = (facility == "FAIL").then(|| reason_of(message));
        if let Some(reason) = reason.filter(|reason| reason.starts_with(CLOSED)) {
            // librdkafka makes no error of it.
            let code = RDKafkaErrorCode::BrokerTransportFailure;
            self.board
                .connection_failed(trouble_of(code, &self.brokers, reason));
        }
        // CONFWARN comes with every start: the gapless guarantee is called experimental there.
        let matters = level as i32 <= RDKafkaLogLevel::Warning as i32 && facility != "CONFWARN";
        if matters && reason.is_none_or(|reason| self.board.is_news(reason)) {
            self.board.log(format!("librdkafka {facility}: {message}"));
        }
    }

    pub(super) fn stats(&self, statistics: &Statistics) {
        // Bootstrap entries have a negative id.
        let brokers = || {
            statistics
                .brokers
                .values()
                .filter(|broker| broker.nodeid >= 0)
        };
        let up = brokers().filter(|broker| broker.state == "UP").count() as u32;
        let all = brokers().count() as u32;
        let throttles = brokers().filter_map(|broker| broker.throttle.as_ref());
        let throttle_ms = throttles.map(|window| window.avg).max().unwrap_or(0);
        self.board.with_facts(|facts| {
            facts.brokers_up = up;
            facts.brokers_down = all - up;
            facts.throttle_ms = u32::try_from(throttle_ms).unwrap_or(0);
        });
    }

    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode as KafkaCode;
        let reason = reason_of(reason);
        let Some(mut code) = error.rdkafka_error_code() else {
            return;
        };
        // An alert by which the broker ends TLS comes as a connection that broke.
        if code == KafkaCode::BrokerTransportFailure && reason.contains("SSL routines") {
            code = KafkaCode::SSL;
        }
        let trouble = || trouble_of(code, &self.brokers, reason);
        match code {
            // One broker of several: the client goes on with the others.
            KafkaCode::BrokerTransportFailure | KafkaCode::Resolve => {
                self.board.connection_failed(trouble())
            }
            // Reported with the message or call that it concerns.
            KafkaCode::Fatal
            | KafkaCode::PartitionEOF
            | KafkaCode::Fenced
            | KafkaCode::ProducerFenced
            | KafkaCode::InvalidProducerEpoch => {}
            // Partitions are assigned: the reader's group is a name only.
            KafkaCode::GroupAuthorizationFailed => {}
            KafkaCode::Authentication | KafkaCode::SaslAuthenticationFailed | KafkaCode::SSL => {
                self.board.connection_failed(trouble());
                self.board.set_trouble(Some(trouble()));
            }
            // How many they are differs from one client to the other.
            KafkaCode::AllBrokersDown => {
                let trouble = trouble_of(code, &self.brokers, "no broker answers");
                self.board.set_trouble(Some(trouble));
            }
            _ => self.board.set_trouble(Some(trouble())),
        }
    }

    pub(super) fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn Error>> {
        token::make(config.unwrap_or_default(), self.unsigned_tokens).map_err(|reason| {
            // Brokers refuse the old token with words that say less.
            let code = RDKafkaErrorCode::Authentication;
            self.board
                .cause_found(trouble_of(code, &self.brokers, &reason));
            reason.into()
        })
    }
}

/// What librdkafka says, without thread, broker and time in front and behind: the same failure has the same text.
fn reason_of(message: &str) -> &str {
    let mut reason = message;
    if let Some((_thread, rest)) = reason
        .strip_prefix("[thrd:")
        .and_then(|rest| rest.split_once("]: "))
    {
        reason = rest;
    }
    if let Some((broker, rest)) = reason.split_once(": ")
        && broker.contains('/')
        && !broker.contains(' ')
    {
        reason = rest;
    }
    reason
        .rsplit_once(" (after ")
        .map_or(reason, |(reason, _)| reason)
}
