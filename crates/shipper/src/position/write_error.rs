//! Why a position could not be written, or read.

use change::code::Code;
use change::trouble::Trouble;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::kafka::properties::refused_configuration;
use crate::kafka::topics::design::acl_command;
use crate::kafka::trouble_of::trouble_of;
use crate::session::Session;
use crate::trouble::Failure;

/// Why writing did not work out.
#[derive(Debug)]
pub(crate) enum WriteError {
    Again(Trouble),
    Never(Trouble),
    /// This producer is not the newest one of its id. Whose that is, the positions tell.
    Fenced,
    /// Another sender took over.
    Replaced(Trouble),
}

/// Whether a broker has said that a producer is not the newest one of its id.
pub(crate) fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as KafkaCode;
    matches!(
        code,
        KafkaCode::Fenced | KafkaCode::ProducerFenced | KafkaCode::InvalidProducerEpoch
    )
}

impl WriteError {
    /// What an error of a client means for the position.
    pub(crate) fn of(session: &Session, error: &KafkaError, what: &str) -> WriteError {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        if matches!(
            error,
            KafkaError::ClientCreation(_) | KafkaError::ClientConfig(..)
        ) {
            return WriteError::Never(refused_configuration(error));
        }
        if is_fenced(code) {
            return WriteError::Fenced;
        }
        let brokers = &session.settings.brokers;
        let mut trouble = trouble_of(code, brokers, &format!("{what}: {error}"));
        if code == RDKafkaErrorCode::TransactionalIdAuthorizationFailed {
            let (rights, id) = (["Describe", "Write"], session.transactional_id());
            trouble.remedy = acl_command(brokers, &rights, "transactional-id", &id);
        }
        WriteError::Again(trouble)
    }

    /// What it ends the session with: the next one starts at the position. Of [`WriteError::Fenced`] it is known that
    /// nobody took over.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            WriteError::Never(trouble) => Failure::Halt(trouble),
            WriteError::Replaced(trouble) => Failure::Fenced(trouble),
            WriteError::Again(trouble) => Failure::Rewind(trouble),
            WriteError::Fenced => Failure::Rewind(Trouble::new(
                Code::KafkaTransactionTimedOut,
                "Kafka ended a transaction that took too long",
                "Nothing, if it does not come again: the sender starts again at its position. Else raise transaction.timeout.ms in the file of cdc.kafka_config_file.",
            )),
        }
    }

    /// CDC0404: a newer sender has written positions.
    pub(crate) fn replaced(session: &Session) -> WriteError {
        WriteError::Replaced(Trouble::new(
            Code::Fenced,
            format!(
                "fenced: another sender writes the positions of source \"{}\"",
                session.settings.source_name
            ),
            "If this server is the one that should ship, stop the other one, then SELECT pg_reload_conf() here.",
        ))
    }
}
