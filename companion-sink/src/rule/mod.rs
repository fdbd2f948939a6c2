//! Rules: an event of which a `[[rule]]` says that it is to be rejected is treated as one that the target refuses.

pub(crate) mod needs;

pub(crate) mod compiled;
pub(crate) mod condition;
pub(crate) mod expression;
mod moment;
mod operators;
pub(crate) mod subject;
mod value;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::topic_pattern::matches;
use crate::kafka::record::Record;
use crate::rejected::failure::Failure;
use crate::reload::Live;
use crate::rule::compiled::Rule;
use crate::rule::expression::Judgement;
use crate::rule::needs::Needs;
pub(crate) use crate::rule::subject::ColumnTypeOf;
use crate::rule::subject::Subject;

/// The rules of one sink, as the configuration has them now.
pub(crate) struct Rules {
    sink: String,
    live: Live,
    of_sink: Vec<Rule>,
    by_topic: HashMap<Arc<str>, OfTopic>,
    /// Rules of which it was logged that they cannot tell, and why.
    told: HashSet<(String, String)>,
}

#[derive(Default)]
struct OfTopic {
    rules: Vec<Rule>,
    needs: Needs,
}

impl Rules {
    /// The rules of `sink`.
    pub(crate) fn new(sink: &str, live: Live) -> Self {
        let mut rules = Rules {
            sink: sink.to_owned(),
            live,
            of_sink: Vec::new(),
            by_topic: HashMap::new(),
            told: HashSet::new(),
        };
        rules.renew();
        rules
    }

    /// Looks at a row event of a table with the columns `types`. What cannot be told, for a value is NULL, a column is
    /// missing or types do not fit, rejects nothing.
    pub(crate) fn check(
        &mut self,
        record: &Record,
        types: &ColumnTypeOf<'_>,
    ) -> Result<(), Failure> {
        if self.live.has_changed() {
            self.renew();
        }
        if self.of_sink.is_empty() {
            return Ok(());
        }
        if !self.by_topic.contains_key(&record.topic) {
            let of_topic = self.of_topic(&record.topic);
            self.by_topic.insert(Arc::clone(&record.topic), of_topic);
        }
        let Some(OfTopic { rules, needs }) = self.by_topic.get(&record.topic) else {
            return Ok(());
        };
        if rules.is_empty() {
            return Ok(());
        }
        let subject = Subject::read(record, types, needs)?;
        for rule in rules {
            let why = match rule.expression.answer(&subject) {
                Judgement::True => return Err(Failure::rejected(&rule.name)),
                Judgement::False | Judgement::Null => continue,
                // One for many topics does not suit them all.
                Judgement::Missing if rule.topic.contains('*') => continue,
                Judgement::Missing => "the event has no such column".to_owned(),
                Judgement::Unclear(why) => why,
            };
            if self.told.insert((rule.name.clone(), why.clone())) {
                tracing::warn!(
                    sink = self.sink,
                    rule = rule.name,
                    topic = &*record.topic,
                    event = record.event_id(),
                    hint = "Mend reject_if of the [[rule]], then send SIGHUP. This is told once.",
                    "a rule cannot tell, and rejects nothing there: {why}"
                );
            }
        }
        Ok(())
    }

    /// Takes the rules of the configuration that is valid now.
    fn renew(&mut self) {
        self.of_sink = self.live.newest_rules(&self.sink);
        self.by_topic.clear();
        self.told.clear();
    }

    fn of_topic(&self, topic: &str) -> OfTopic {
        let mut of_topic = OfTopic::default();
        for rule in self
            .of_sink
            .iter()
            .filter(|rule| matches(&rule.topic, topic))
        {
            of_topic.needs.add(rule.expression.needs());
            of_topic.rules.push(rule.clone());
        }
        of_topic
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::config::Loaded;
    use crate::error::Code;
    use crate::event::pg_type::PgType;
    use crate::reload::Reloader;
    use crate::rule::expression::Expression;

    const TOPIC: &str = "hr.public.employees";
    const BEFORE: &str = r#"{"emp_id":7,"salary":"9000.00","name":"Eva"}"#;
    const AFTER: &str = r#"{"emp_id":7,"salary":"10000.50","born":"2007-12-31","seen":"2026-11-21T10:40:00.5Z",
        "name":"Eva","nick":"Nan","zip":"8001","city":null,"big":9223372036854775807,"ratio":0.5,"tags":["a","b"],"raises":["1.5",null],
        "digest":"hmac:9f","limit":"NaN","opens":"08:00:00","odd name":1,"home":{"since":"2000-01-01"}}"#;

    fn rules(toml: &str) -> Rules {
        let config = format!(
            "kafka.brokers = \"b\"\n[sink.replica]\nkind = \"postgres\"\ntopics = [\"*\"]\nurl = \"u\"\n{toml}"
        );
        let config = Loaded::parse("f.toml", &config, std::iter::empty()).unwrap();
        Rules::new("replica", Reloader::new(&config, None).unwrap().live())
    }

    fn rule(topic: &str, name: &str, reject_if: &str) -> String {
        format!("[[rule]]\ntopic = \"{topic}\"\nname = \"{name}\"\nreject_if = '{reject_if}'\n")
    }

    fn event(topic: &str, op: &'static str, before: &str, after: &str) -> Record {
        let value = format!(
            r#"{{"op":"{op}","audit":{{"actor":"ann","pid":4711,"context":{{"app.tenant":"t1"}}}},"before":{before},"after":{after}}}"#
        );
        let headers: [(&str, Option<&[u8]>); 1] = [("cdc.op", Some(op.as_bytes()))];
        let (value, headers) = (Some(value.as_bytes()), headers.into_iter());
        Record::new(topic.into(), 0, 0, None, value, headers)
    }

    /// As the target's catalog tells them.
    fn of_target(column: &str) -> Cow<'static, PgType> {
        let array = |element| PgType::Array {
            element: Box::new(element),
            delimiter: ',',
        };
        Cow::Owned(match column {
            "salary" | "digest" | "limit" | "emp_id" | "big" | "ratio" => PgType::Number,
            "born" => PgType::Date,
            "seen" => PgType::TimestampTz,
            "raises" => array(PgType::Number),
            "home" => PgType::Composite(vec![("since".into(), PgType::Date)]),
            _ => PgType::Plain,
        })
    }

    /// As the history knows them: by their names.
    fn by_name(column: &str) -> Cow<'static, PgType> {
        Cow::Owned(PgType::of_name(match column {
            "salary" | "digest" | "limit" => "numeric",
            "emp_id" => "integer",
            "born" => "date",
            "seen" => "timestamp with time zone",
            "opens" => "time without time zone",
            "raises" => "numeric[]",
            _ => "text",
        }))
    }

    fn rejects_as(reject_if: &str, op: &'static str, before: &str, after: &str) -> bool {
        let mut rules = rules(&rule(TOPIC, "r", reject_if));
        let record = event(TOPIC, op, before, after);
        let verdicts =
            [&of_target as &ColumnTypeOf<'_>, &by_name].map(|types| rules.check(&record, types));
        for verdict in &verdicts {
            if let Err(failure) = verdict {
                assert_eq!((failure.code, &*failure.reason), (Code::Rejected, "r"));
            }
        }
        let [of_target, by_name] = verdicts.map(|verdict| verdict.is_err());
        let knows_parts = reject_if.contains("home");
        assert!(knows_parts || of_target == by_name, "{reject_if}");
        of_target
    }

    fn rejects(reject_if: &str) -> bool {
        rejects_as(reject_if, "u", BEFORE, AFTER)
    }

    #[test]
    fn numbers_dates_and_texts_compare_as_what_they_are() {
        for holds in [
            "after.salary > 10000",
            "10000 < after.salary",
            "after.salary == 10000.50",
            "after.salary >= before.salary",
            "after.salary * 12 > 120000",
            "12 * after.salary - before.salary > 1",
            "after.salary / after.emp_id > 1400",
            "after.salary in [1, 10000.5]",
            "after.emp_id > 6.5",
            "after.emp_id % 2 == 1",
            "after.emp_id in [7]",
            "after.big == 9223372036854775807",
            "after.ratio < 1",
            "after.limit > 1000000000",
            "after.zip >= 8000 && after.zip == \"8001\"",
            "after.born > \"2007-12-30\"",
            "after.born == \"2007-12-31\"",
            "after.born in [\"2007-12-31\"]",
            "\"2008-01-01\" > after.born",
            "after.born < timestamp(\"2008-01-01T00:00:00Z\")",
            "timestamp(\"2007-01-01\") < after.born && after.born < after.seen",
            "after.seen == \"2026-11-21T11:40:00.500+01:00\"",
            "after.opens == \"08:00:00\"",
            "after.home.since < \"2000-01-02\"",
            "after.raises[0] > 1",
            "after.tags.exists(tag, tag == \"b\")",
            "after.name.startsWith(\"E\") && size(after.name) == 3",
            "after.name.matches(\"^E.a$\")",
            "after[\"odd name\"] == 1",
            "after.name + \"!\" == \"Eva!\"",
            "op == \"u\" && audit.actor == \"ann\" && audit.context[\"app.tenant\"] == \"t1\"",
            "before.salary != after.salary",
            "has(after.city) && after.city == null",
            "before != null && \"name\" in before",
            "type(after.name) == string",
        ] {
            assert!(rejects(holds), "{holds}");
        }
        for holds_not in [
            "after.salary < 10000",
            "after.emp_id < 0",
            "after.born > \"2007-12-31\"",
            "after.born != \"2007-12-31\"",
            "after.born >= timestamp(\"2008-01-01T00:00:00Z\")",
            "after.salary in [1, 2]",
            "has(after.wage)",
            "op == \"d\"",
        ] {
            assert!(!rejects(holds_not), "{holds_not}");
        }
    }

    #[test]
    fn what_cannot_be_told_rejects_nothing() {
        for unclear in [
            // NULL, and an image that is not there.
            "after.city > \"A\"",
            "!after.city",
            "after.city && true",
            "after.city.startsWith(\"B\")",
            "after.city",
            "after.city + \"x\" == \"x\"",
            "after.raises[1] > 1",
            // Missing.
            "after.wage > 1",
            "after.tags[5] == \"x\"",
            // Types that do not fit, and no bool.
            "after.name > 5",
            "after.nick > 5",
            "after.born > \"Eva\"",
            "after.digest > 5",
            "after.salary",
            "after.emp_id / 0 > 1",
            "after.big + 1 > 0",
            "timestamp(after.name) > after.born",
        ] {
            assert!(!rejects(unclear), "{unclear}");
        }
        assert!(
            rejects("after.wage > 1 || after.salary > 1"),
            "one side is enough"
        );
        assert!(!rejects_as("before.salary > 1", "c", "null", AFTER));
        assert!(!rejects_as("after.salary > 1", "d", BEFORE, "null"));
        assert!(rejects_as(
            "op == \"d\" && before.salary > 1",
            "d",
            BEFORE,
            "null"
        ));
        assert!(rejects_as("after == null", "d", BEFORE, "null"));
    }

    #[test]
    fn why_a_rule_cannot_tell_is_told_without_values() {
        let unclear = |reject_if: &str| {
            let expression = Expression::read(reject_if).unwrap();
            let record = event(TOPIC, "u", BEFORE, AFTER);
            let subject = Subject::read(&record, &of_target, expression.needs()).unwrap();
            expression.answer(&subject)
        };
        for (reject_if, why) in [
            ("after.name > 5", "> of string and int"),
            ("after.born + 1 > 0", "+ of timestamp and int"),
            ("after.name", "it is string, not bool"),
            ("after.emp_id / 0 > 1", "a division by zero"),
            ("after.big + 1 > 0", "a number out of range"),
            ("timestamp(after.name) > after.born", "timestamp failed"),
            (
                "after.name.contains(after.emp_id)",
                "contains of string and int",
            ),
        ] {
            assert_eq!(
                unclear(reject_if),
                Judgement::Unclear(why.into()),
                "{reject_if}"
            );
        }
        assert_eq!(unclear("after.wage > 1"), Judgement::Missing);
        assert_eq!(unclear("after.city > 1"), Judgement::Null);
    }

    #[test]
    fn a_rule_is_for_its_topics_and_sinks_and_the_first_one_counts() {
        let toml = [
            rule("hr.*", "first", "after.n > 5"),
            rule("hr.public.b", "second", "after.n > 1"),
            rule("*", "elsewhere", "true") + "sinks = [\"history\"]\n",
            "[sink.history]\nkind = \"mongo_history\"\ntopics = [\"*\"]\nurl = \"u\"\n".into(),
        ];
        let mut rules = rules(&toml.concat());
        let mut reason = |topic: &str, n: i32| {
            let record = event(topic, "c", "null", &format!("{{\"n\":{n}}}"));
            let checked = rules.check(&record, &of_target);
            checked.err().map(|failure| failure.reason.into_owned())
        };
        assert_eq!(reason("hr.public.a", 9).as_deref(), Some("first"));
        assert_eq!(reason("hr.public.a", 5), None);
        assert_eq!(reason("hr.public.b", 9).as_deref(), Some("first"));
        assert_eq!(reason("hr.public.b", 5).as_deref(), Some("second"));
        assert_eq!(reason("shop.public.b", 9), None);
    }
}
