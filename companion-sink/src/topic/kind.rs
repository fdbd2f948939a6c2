//! What a topic is for.

use change::topic_name;

use crate::topic::entry::Entry;

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicKind {
    /// It has a table's rows.
    Rows,
    /// It has an application's own events.
    Emitted,
    /// It has what is about tables as a whole.
    Control,
    Positions,
    DeadLetters,
    /// Kafka has it for itself.
    Internal,
    /// Its newest record is not pg_cdc's, or it has none.
    Unknown,
}

impl TopicKind {
    /// By its name, or by its newest record.
    pub(crate) fn of(topic: &str, newest: Option<&Entry>) -> TopicKind {
        use change::event::op::Op;
        match newest.and_then(|newest| newest.record.op()) {
            _ if topic.ends_with(".dlq") => TopicKind::DeadLetters,
            _ if topic.ends_with(".cdc_positions") => TopicKind::Positions,
            _ if topic_name::is_control(topic) => TopicKind::Control,
            _ if topic.starts_with("__") => TopicKind::Internal,
            Some(Op::Emit) => TopicKind::Emitted,
            Some(_) => TopicKind::Rows,
            None => TopicKind::Unknown,
        }
    }

    /// As answers have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TopicKind::Rows => "rows",
            TopicKind::Emitted => "emitted",
            TopicKind::Control => "control",
            TopicKind::Positions => "positions",
            TopicKind::DeadLetters => "dead letters",
            TopicKind::Internal => "internal",
            TopicKind::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;

    #[test]
    fn a_topic_is_what_its_name_or_its_newest_record_says() {
        let entry = |op: &str| Entry {
            record: Record::new(
                "t".into(),
                0,
                0,
                None,
                None,
                [("cdc.op", Some(op.as_bytes()))].into_iter(),
            ),
            sent_ms: None,
        };
        for (topic, op, kind) in [
            ("a.public.t", "tombstone", TopicKind::Rows),
            ("a.public.t.dlq", "u", TopicKind::DeadLetters),
            ("a.cdc-control", "schema", TopicKind::Control),
            ("pg.cdc_positions", "", TopicKind::Positions),
            ("mails", "emit", TopicKind::Emitted),
            ("__consumer_offsets", "", TopicKind::Internal),
            ("strange", "zz", TopicKind::Unknown),
        ] {
            assert_eq!(TopicKind::of(topic, Some(&entry(op))), kind, "{topic}");
        }
        assert_eq!(TopicKind::of("empty", None), TopicKind::Unknown);
    }
}
