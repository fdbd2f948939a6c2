//! Opens a topic before the first record goes to it: it is there, as the position has it, and it is known what it takes.

use std::time::{Duration, Instant};

use change::code::Code;
use change::position::Ends;
use change::topic_name;
use change::trouble::Trouble;
use rdkafka::error::RDKafkaErrorCode;

use super::broker::Broker;
use super::failed_delivery::TopicLimit;
use super::in_flight::open_topics::OpenTopic;
use super::outgoing::Outgoing;
use super::stop::Stop;
use crate::aside;
use crate::host::topic_counters::{Safety, SafetySettings, TopicCounter};
use crate::kafka::settings::{KafkaSettings, MAX_RECORD_BYTES};
use crate::kafka::topics::describe::{Described, Limits};
use crate::kafka::topics::design::{self, Design, MAX_MESSAGE_BYTES, Use};
use crate::kafka::trouble_of::trouble_of;
use crate::trouble::Failure;
use crate::work::Known;

/// How long a topic's settings are asked for again.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// After a change a leader learns from its followers how far the partition is acknowledged.
const LEADER_LEARNS: Duration = Duration::from_secs(5);
const LEADER_MS: i32 = 50;

/// What became of it.
pub(super) enum Opened {
    /// Its number.
    Topic(usize),
    /// It cannot be used, and others can: it is to be put aside.
    Unusable(Trouble),
}

/// Makes sure that the topic is there, with its partitions and id known.
pub(super) fn open<B: Broker>(
    out: &mut Outgoing<'_, B>,
    known: &Known,
    name: &str,
) -> Result<Opened, Stop> {
    let refusal = topic_name::refusal(name);
    if let Some(reason) = refusal.filter(|_| !topic_name::is_control(name)) {
        let why = format!("as a topic of pg_cdc {reason}");
        return Ok(Opened::Unusable(aside::refused_name(name, &why)));
    }
    let ends = known.ends.get(name);
    let described = match describe(out, ends.is_some(), name)? {
        Ok(described) => described,
        Err(trouble) => return Ok(Opened::Unusable(trouble)),
    };
    if let Some(ends) = ends {
        compare(out, name, ends, &described)?;
    }
    let limits = limits(out, name)?;
    let settings = &out.session().settings;
    let max_record_bytes = match &limits {
        Some(limits) if settings.stubs => limits.max_message_bytes.min(MAX_RECORD_BYTES),
        None if settings.stubs => {
            let smaller = known.smaller_in.get(name);
            smaller.copied().unwrap_or(MAX_RECORD_BYTES)
        }
        _ => MAX_RECORD_BYTES,
    };
    let database = out.database();
    let counter = out.session().host.topic_counters.claim(name);
    if let Some(counter) = counter {
        counter.belongs_to(database);
        note_safety(counter, settings, &described, limits);
    }
    out.broker().open_topic(name);
    let topic = OpenTopic {
        name: name.to_owned(),
        topic_id: described.topic_id,
        partitions: described.partitions,
        limit: TopicLimit {
            max_record_bytes,
            is_unknown: limits.is_none(),
        },
        database,
        untracked: false,
        control: ends.and_then(|ends| ends.control.clone()),
    };
    Ok(Opened::Topic(out.add_topic(topic, counter)))
}

/// How a topic of events is made. One that was there and is not is not made again in silence.
fn design(settings: &KafkaSettings, was_there: bool, name: &str) -> Design {
    let is_control = topic_name::is_control(name);
    let mut configs = match is_control {
        false => vec![
            (c"cleanup.policy", "delete".to_owned()),
            (c"retention.ms", settings.retention_ms.to_string()),
        ],
        // The newest definition stays as long as its table does; what came before it, as long as rows may be there that need it.
        true => vec![
            (c"cleanup.policy", "compact".to_owned()),
            (
                c"min.compaction.lag.ms",
                compaction_lag_ms(settings.retention_ms).to_string(),
            ),
        ],
    };
    configs.push((MAX_MESSAGE_BYTES, settings.max_event_bytes.to_string()));
    Design {
        usage: Use::Events,
        create: settings.create_topics && !was_there,
        partitions: if is_control { 1 } else { settings.partitions },
        replication_factor: settings.replication_factor,
        configs,
    }
}

/// Kafka deletes a segment when its newest record is as old as the retention says: its oldest may be twice as old.
fn compaction_lag_ms(retention_ms: i64) -> i64 {
    match retention_ms {
        // For ever.
        ..0 => i64::MAX,
        _ => retention_ms.saturating_mul(2),
    }
}

/// The topic as the brokers have it, made where it is new; waits for it as long as may be. The inner error is a reason to
/// put it aside.
fn describe<B: Broker>(
    out: &mut Outgoing<'_, B>,
    was_there: bool,
    name: &str,
) -> Result<Result<Described, Trouble>, Stop> {
    let session = out.session();
    let (settings, board) = (&session.settings, &session.board);
    let design = design(settings, was_there, name);
    let began = Instant::now();
    let described = loop {
        match out.broker().ensure_topic(name, &design) {
            Ok(described) => break Ok(described),
            Err(error) if was_there && error.is_missing() => {
                return Err(refuse(out, name, "is gone"));
            }
            Err(error) if error.is_refused_name() => {
                break Err(aside::refused_name(name, &error.message));
            }
            Err(error) => {
                let trouble = design::trouble(&error, &settings.brokers, name, &design);
                let is_over = settings
                    .topic_timeout
                    .is_some_and(|timeout| began.elapsed() >= timeout);
                if is_over && !was_there && error.is_of_topic() {
                    break Err(aside::unusable(name, trouble));
                }
                board.set_blocked(Some(trouble));
            }
        }
        out.serve_and_wait()?;
    };
    board.set_blocked(None);
    Ok(described)
}

/// Notes what the topic is worth, for `cdc_check`.
fn note_safety(
    counter: &TopicCounter,
    settings: &KafkaSettings,
    described: &Described,
    limits: Option<Limits>,
) {
    let narrow = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
    counter.note(Safety {
        replicas: narrow(described.replicas),
        settings: limits.map(|limits| SafetySettings {
            min_in_sync: narrow(limits.min_in_sync),
            is_compacted: limits.is_compacted,
            is_small: limits.max_message_bytes < settings.max_event_bytes,
        }),
    });
}

/// The topic's settings, none where they may not be read. A broker may not have heard of a new topic yet.
fn limits<B: Broker>(out: &mut Outgoing<'_, B>, name: &str) -> Result<Option<Limits>, Stop> {
    let began = Instant::now();
    loop {
        match out.broker().limits(name) {
            Ok(limits) => return Ok(Some(limits)),
            Err(error) if error.is_passing() && began.elapsed() < SETTINGS_TIMEOUT => {}
            Err(error) => {
                let why = &error.message;
                out.session().board.log(format!(
                    "pg_cdc: settings of topic \"{name}\" cannot be read: {why}"
                ));
                return Ok(None);
            }
        }
        out.serve_and_wait()?;
    }
}

/// A topic is as the position has it, or the session fails: keys must not move, and what was acknowledged must be there.
fn compare<B: Broker>(
    out: &mut Outgoing<'_, B>,
    name: &str,
    known: &Ends,
    described: &Described,
) -> Result<(), Stop> {
    if described.topic_id != known.topic_id {
        return Err(refuse(out, name, "was made anew"));
    }
    if described.partitions != known.partitions {
        return Err(out.end_with(Failure::Halt(Trouble::new(Code::PartitionsChanged, format!(
                "partitions of topic \"{name}\" changed from {} to {}",
                known.partitions, described.partitions
            ), format!(
                "Let readers reach its end, then SELECT cdc_skip_topic('{name}', sent_lsn, 'more partitions') FROM cdc_status(): keys move to other partitions."
            )))));
    }
    for (partition, end) in (0..).zip(&known.end) {
        compare_end(out, name, partition, *end)?;
    }
    Ok(())
}

fn compare_end<B: Broker>(
    out: &mut Outgoing<'_, B>,
    name: &str,
    partition: i32,
    end: i64,
) -> Result<(), Stop> {
    let start = Instant::now();
    loop {
        match out.broker().end_of(name, partition) {
            Ok(high) if high >= end => return Ok(()),
            // A new leader may not know yet what its followers have.
            Ok(_) if start.elapsed() < LEADER_LEARNS && !out.is_over() => {
                out.wait_for_answer(Some(LEADER_MS));
            }
            Ok(high) => {
                let why =
                    format!("[{partition}] ends at {high}, events up to {end} were acknowledged");
                return Err(refuse(out, name, &why));
            }
            Err(error) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let reason = format!("the end of \"{name}\" [{partition}]: {error}");
                let trouble = trouble_of(code, &out.session().settings.brokers, &reason);
                return Err(out.end_with(Failure::Rewind(trouble)));
            }
        }
    }
}

/// CDC0307: events that were acknowledged are not in the topic any more.
fn refuse<B: Broker>(out: &Outgoing<'_, B>, name: &str, why: &str) -> Stop {
    out.end_with(Failure::Halt(Trouble::new(Code::TopicLost, format!("topic \"{name}\" {why}: events that it had are lost"), format!(
            "Restore it; or go on with what is there: SELECT cdc_skip_topic('{name}', sent_lsn, 'why') FROM cdc_status(), then cdc_snapshot() of its table."
        ))))
}
