//! Which records somebody wants to see.

mod key;

use change::event::headers::HeaderName;
use change::event::op::Op;
use change::trouble::Trouble;

use crate::error::{Result, misconfigured};
use crate::history::moment::time_us;
use crate::topic::entry::Entry;
use crate::topic::filter::key::KeyFilter;
use crate::topic::told::actor_of;

/// What people call operations, beside what the header has.
const WORDS: [(&str, Op); 6] = [
    ("create", Op::Create),
    ("insert", Op::Create),
    ("update", Op::Update),
    ("delete", Op::Delete),
    ("read", Op::Read),
    ("truncate", Op::Truncate),
];

/// What somebody asked for, as they wrote it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted<'w> {
    pub(crate) key: Option<&'w str>,
    /// Separated by commas.
    pub(crate) ops: Option<&'w str>,
    pub(crate) actor: Option<&'w str>,
    pub(crate) since: Option<&'w str>,
    pub(crate) until: Option<&'w str>,
    pub(crate) id: Option<&'w str>,
}

/// Everything that is given must hold.
#[derive(Debug, Default)]
pub(crate) struct TopicFilter {
    key: Option<KeyFilter>,
    ops: Option<Vec<Op>>,
    actor: Option<String>,
    since_us: Option<i64>,
    until_us: Option<i64>,
    id: Option<String>,
}

impl TopicFilter {
    /// What is meant.
    ///
    /// # Errors
    /// CDC1001 for an operation or a time that is none.
    pub(crate) fn new(wanted: Wanted<'_>) -> Result<TopicFilter> {
        let time = |text: Option<&str>| text.map(time_us).transpose();
        Ok(TopicFilter {
            key: wanted.key.map(KeyFilter::new),
            ops: wanted.ops.map(ops).transpose()?,
            actor: wanted.actor.map(str::to_owned),
            since_us: time(wanted.since)?,
            until_us: time(wanted.until)?,
            id: wanted.id.map(str::to_owned),
        })
    }

    /// Whether a record is wanted. What needs no look into its value comes first.
    pub(crate) fn accepts(&mut self, entry: &Entry) -> bool {
        let id = entry.record.header(HeaderName::ID.as_str());
        if self.id.is_some() && self.id.as_deref() != id {
            return false;
        }
        let is_op = |ops: &Vec<Op>| entry.op().is_some_and(|op| ops.contains(&op));
        if !self.ops.as_ref().is_none_or(is_op) {
            return false;
        }
        let key = self.key.as_mut();
        if !key.is_none_or(|key| key.accepts(&entry.record)) {
            return false;
        }
        if self.since_us.is_some() || self.until_us.is_some() {
            let Some(time_us) = entry.time_us() else {
                return false;
            };
            if self.since_us.is_some_and(|since| time_us < since)
                || self.until_us.is_some_and(|until| time_us > until)
            {
                return false;
            }
        }
        let actor = self.actor.as_deref();
        actor.is_none_or(|wanted| actor_of(entry).as_deref() == Some(wanted))
    }

    /// Whether it leaves anything out.
    pub(crate) fn is_narrow(&self) -> bool {
        let TopicFilter {
            key,
            ops,
            actor,
            since_us,
            until_us,
            id,
        } = self;
        let times = [since_us, until_us].iter().any(|time| time.is_some());
        key.is_some() || ops.is_some() || actor.is_some() || id.is_some() || times
    }

    /// When a record that is wanted can have been sent at the earliest, milliseconds since 1970: never before it was committed.
    pub(crate) fn sent_since_ms(&self) -> Option<i64> {
        /// The clocks of brokers and of the source differ by less.
        const CLOCKS_MS: i64 = 60_000;
        let since_us = self.since_us?;
        Some((since_us.div_euclid(1000) - CLOCKS_MS).max(0))
    }

    /// Why nothing can be found, where that is known.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.key.as_ref().and_then(KeyFilter::trouble)
    }
}

fn ops(text: &str) -> Result<Vec<Op>> {
    let op = |text: &str| {
        let word = WORDS.iter().find(|(word, _)| *word == text);
        Op::parse(text).or(word.map(|(_, op)| *op)).ok_or_else(|| {
            let known: Vec<&str> = Op::ALL.into_iter().map(Op::header).collect();
            misconfigured(
                format!("\"{text}\" is no operation"),
                format!("There are {}.", known.join(", ")),
            )
        })
    };
    text.split(',').map(|text| op(text.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;

    fn entry(op: &str, value: Option<&str>) -> Entry {
        let headers = [
            ("cdc.op", Some(op.as_bytes())),
            ("cdc.id", Some(&b"n-1"[..])),
        ];
        let headers = headers.into_iter().filter(|_| !op.is_empty());
        let value = value.map(str::as_bytes);
        let key = Some(&b"{\"id\":1}"[..]);
        Entry {
            record: Record::new("t".into(), 0, 0, key, value, headers),
            sent_ms: Some(1_795_257_600_500),
        }
    }

    fn accepts(wanted: Wanted<'_>, entry: &Entry) -> bool {
        TopicFilter::new(wanted).unwrap().accepts(entry)
    }

    const VALUE: &str =
        r#"{"source":{"ts_us":1795257600123456},"audit":{"actor":"ann"},"after":{"id":1}}"#;

    #[test]
    fn every_condition_must_hold() {
        let update = entry("u", Some(VALUE));
        let all = Wanted {
            key: Some("1"),
            ops: Some("c, update"),
            actor: Some("ann"),
            since: Some("2026-11-21T10:40:00Z"),
            until: Some("2026-11-21T10:40:00.2Z"),
            id: Some("n-1"),
        };
        assert!(accepts(Wanted::default(), &update));
        assert!(accepts(all, &update));
        let since = Some("2026-11-21T10:40:00.4Z");
        for wrong in [
            Wanted {
                key: Some("2"),
                ..all
            },
            Wanted {
                ops: Some("d"),
                ..all
            },
            Wanted {
                actor: Some("bob"),
                ..all
            },
            Wanted {
                id: Some("n-2"),
                ..all
            },
            Wanted { since, ..all },
            Wanted {
                until: Some("2026-11-21T10:40:00.1Z"),
                ..all
            },
        ] {
            assert!(!accepts(wrong, &update), "{wrong:?}");
        }
    }

    #[test]
    fn strange_records_have_an_operation_and_a_time_as_far_as_known() {
        let ops = |ops| Wanted {
            ops: Some(ops),
            ..Wanted::default()
        };
        let since = |since| Wanted {
            since: Some(since),
            ..Wanted::default()
        };
        let (tombstone, text) = (entry("", None), entry("", Some("hello")));
        assert!(accepts(ops("tombstone"), &tombstone));
        assert!(!accepts(ops("c,u,d"), &text));
        // It is Kafka's.
        assert!(accepts(since("2026-11-21T10:40:00.4Z"), &text));
        assert!(!accepts(since("2026-11-21T10:40:01Z"), &text));
        let actor = Wanted {
            actor: Some("ann"),
            ..Wanted::default()
        };
        assert!(!accepts(actor, &text));
    }

    #[test]
    fn what_cannot_be_meant_is_an_error() {
        for wrong in [
            Wanted {
                ops: Some("c,x"),
                ..Wanted::default()
            },
            Wanted {
                ops: Some(""),
                ..Wanted::default()
            },
            Wanted {
                since: Some("yesterday"),
                ..Wanted::default()
            },
        ] {
            assert!(TopicFilter::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
