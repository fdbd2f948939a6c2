//! What a failed delivery means: start again at the position, or with something smaller, or without the topic, or halt.

use change::code::Code;
use change::event::headers::HeaderName;
use change::event::record::{Event, Stage};
use change::trouble::Trouble;
use rdkafka::error::RDKafkaErrorCode;

use crate::aside;
use crate::kafka::settings::{KafkaSettings, MAX_RECORD_BYTES};
use crate::kafka::trouble_of::trouble_of;
use crate::trouble::Failure;

/// What is taken to be the limit of a topic that does not tell it and has refused an event: brokers take 1 MB by default.
const UNTOLD_BYTES: usize = 1_000_000;
/// Room for what a batch has besides keys, values and headers.
pub(super) const BATCH_OVERHEAD_BYTES: usize = 512;

/// What a topic was thought to take when it was opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct TopicLimit {
    /// Keys and headers included; only where events can be made smaller.
    pub(super) max_record_bytes: usize,
    /// It does not tell what it takes.
    pub(super) is_unknown: bool,
}

/// A record that the client or the broker refused.
#[derive(Debug)]
pub(super) struct FailedDelivery {
    pub(super) code: RDKafkaErrorCode,
    pub(super) message: String,
    /// The event's id, as its header has it.
    pub(super) id: String,
    pub(super) value_bytes: usize,
    /// Number of the topic.
    pub(super) topic: usize,
    /// Commit record of its transaction, and the database; 0 if that is not known.
    pub(super) commit_lsn: u64,
    pub(super) database: u32,
}

impl FailedDelivery {
    /// How the session ends. `thought` is the limit of the topic `name`, `max_batch_bytes` what batches may have;
    /// `limit_bytes` asks what the topic takes in one, none if it does not tell.
    pub(super) fn consequence(
        &self,
        (name, thought): (&str, TopicLimit),
        settings: &KafkaSettings,
        max_batch_bytes: usize,
        limit_bytes: impl FnOnce() -> Option<usize>,
    ) -> Failure {
        match self.code {
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::MessageBatchTooLarge => {
                let limit_bytes = limit_bytes();
                let batch_bytes =
                    limit_bytes.map(|bytes| bytes.saturating_sub(BATCH_OVERHEAD_BYTES).max(1));
                match batch_bytes {
                    // The limit is one of batches: an event may be refused for the company that it was in.
                    Some(batch_bytes) if batch_bytes < max_batch_bytes => {
                        Failure::Smaller(batch_bytes)
                    }
                    _ if settings.stubs => self.too_large_for_broker(name, thought, limit_bytes),
                    _ => Failure::Halt(too_large(&self.id, self.value_bytes, name)),
                }
            }
            RDKafkaErrorCode::InvalidRecord => {
                self.put_aside(name, aside::refused_event(&self.id, name, &self.message))
            }
            code => Failure::Rewind(trouble_of(code, &settings.brokers, &self.message)),
        }
    }

    /// A broker takes less than was thought: the topic's limit was lowered, or is not told, or nothing helps.
    fn too_large_for_broker(
        &self,
        name: &str,
        thought: TopicLimit,
        limit_bytes: Option<usize>,
    ) -> Failure {
        let trouble = aside::too_large(&self.id, self.value_bytes, name);
        if thought.is_unknown && thought.max_record_bytes > UNTOLD_BYTES {
            return Failure::SmallerIn(name.to_owned(), UNTOLD_BYTES);
        }
        if limit_bytes.is_some_and(|bytes| bytes < thought.max_record_bytes) {
            return Failure::Rewind(trouble);
        }
        self.put_aside(name, trouble)
    }

    fn put_aside(&self, topic: &str, trouble: Trouble) -> Failure {
        let (from, database) = (self.commit_lsn, self.database);
        Failure::Aside(Box::new(aside::new(topic, from, database, trouble)))
    }
}

/// CDC0305 where nothing may be left out.
pub(super) fn too_large(id: &str, value_bytes: usize, name: &str) -> Trouble {
    let id = if id.is_empty() { "" } else { &format!(" {id}") };
    Trouble::new(Code::EventTooLarge, format!("event{id} of {value_bytes} bytes is too large for topic \"{name}\""), if value_bytes < MAX_RECORD_BYTES {
            "Raise max.message.bytes of the topic, or set cdc.oversize = 'stub'; then SELECT pg_reload_conf()."
        } else {
            "Set cdc.oversize = 'stub', then SELECT pg_reload_conf(): no topic takes so much from this client."
        }
        .to_owned())
}

/// The event's id, as its header has it; empty where it is not rendered yet.
pub(super) fn event_id(event: &Event<'_>) -> String {
    let mut headers = event.headers.iter().filter(|_| event.stage == Stage::Sent);
    let id = headers.find(|(name, _)| *name == HeaderName::ID.c_str());
    String::from_utf8_lossy(id.map_or(b"", |(_, value)| value)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consequence(
        code: RDKafkaErrorCode,
        stubs: bool,
        thought: TopicLimit,
        limit_bytes: Option<usize>,
    ) -> Failure {
        let failed = FailedDelivery {
            code,
            message: "refused".to_owned(),
            id: "1f-1".to_owned(),
            value_bytes: 5_000_000,
            topic: 0,
            commit_lsn: 100,
            database: 5,
        };
        let settings = KafkaSettings {
            stubs,
            ..KafkaSettings::default()
        };
        failed.consequence(("t", thought), &settings, 1_000_000, || limit_bytes)
    }

    const TOO_LARGE: RDKafkaErrorCode = RDKafkaErrorCode::MessageSizeTooLarge;

    fn thought(max_record_bytes: usize) -> TopicLimit {
        TopicLimit {
            max_record_bytes,
            is_unknown: false,
        }
    }

    #[test]
    fn what_only_kafka_can_mend_is_sent_again() {
        let failure = consequence(RDKafkaErrorCode::MessageTimedOut, true, thought(9), None);
        assert!(
            matches!(failure, Failure::Rewind(trouble) if trouble.code == Code::BrokersUnreachable)
        );
    }

    #[test]
    fn a_batch_that_is_too_large_becomes_smaller_before_an_event_is_blamed() {
        for stubs in [false, true] {
            let failure = consequence(TOO_LARGE, stubs, thought(9_000_000), Some(800_000));
            assert_eq!(failure, Failure::Smaller(800_000 - BATCH_OVERHEAD_BYTES));
        }
    }

    #[test]
    fn an_event_that_is_too_large_halts_where_nothing_may_be_left_out() {
        let failure = consequence(TOO_LARGE, false, thought(9_000_000), Some(2_000_000));
        assert!(matches!(failure, Failure::Halt(trouble) if trouble.code == Code::EventTooLarge));
    }

    #[test]
    fn a_limit_that_was_lowered_is_read_again() {
        let failure = consequence(TOO_LARGE, true, thought(9_000_000), Some(2_000_000));
        assert!(
            matches!(failure, Failure::Rewind(trouble) if trouble.code == Code::EventDoesNotFit)
        );
    }

    #[test]
    fn a_topic_that_does_not_tell_its_limit_is_thought_to_have_the_default() {
        let unknown = TopicLimit {
            max_record_bytes: MAX_RECORD_BYTES,
            is_unknown: true,
        };
        let failure = consequence(TOO_LARGE, true, unknown, None);
        assert_eq!(failure, Failure::SmallerIn("t".to_owned(), UNTOLD_BYTES));
    }

    #[test]
    fn a_topic_that_takes_nothing_smaller_is_put_aside_from_the_transaction_on() {
        let failures = [
            consequence(TOO_LARGE, true, thought(2_000_000), Some(2_000_000)),
            consequence(RDKafkaErrorCode::InvalidRecord, false, thought(9), None),
        ];
        for (failure, code) in failures
            .into_iter()
            .zip([Code::EventDoesNotFit, Code::EventRefused])
        {
            let Failure::Aside(aside) = failure else {
                panic!("{failure:?}");
            };
            assert_eq!(
                (aside.from, aside.database, aside.trouble.code),
                (100, 5, code)
            );
        }
    }
}
