//! Rules with their expressions checked.

use crate::config;
use crate::config::topic_pattern::matches;
use crate::config::{Config, Kind, StatisticsSettings, nearest};
use crate::rule::expression::{Expression, OF_EVENTS};

/// A reason is a label of a metric and a header, so names are short and plain.
const NAME_LENGTH_MAX: usize = 64;

/// A rule that can be asked.
#[derive(Clone)]
pub(crate) struct Rule {
    /// Name or `*` pattern of topics.
    pub(crate) topic: String,
    /// The reason of what it rejects.
    pub(crate) name: String,
    /// The sinks that it is for; none for all.
    sinks: Vec<String>,
    /// When it rejects an event.
    pub(crate) expression: Expression,
}

impl Rule {
    fn compile(keys: &config::RuleSettings) -> Result<Rule, String> {
        let config::RuleSettings {
            topic,
            name,
            reject_if,
            sinks,
        } = keys;
        if name.is_empty() {
            return Err("a [[rule]] has no name".into());
        }
        for (key, value) in [("topic", topic), ("reject_if", reject_if)] {
            if value.is_empty() {
                return Err(format!("rule \"{name}\": {key} is missing"));
            }
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.len() > NAME_LENGTH_MAX || !name.bytes().all(is_plain) {
            return Err(format!(
                "rule \"{name}\": a name has 1 to {NAME_LENGTH_MAX} of the characters A-Z a-z 0-9 _ -, for it becomes the reason of the dead letter"
            ));
        }
        let expression = Expression::read(reject_if)
            .map_err(|why| format!("rule \"{name}\": reject_if: {why}"))?;
        Ok(Rule {
            topic: topic.clone(),
            name: name.clone(),
            sinks: sinks.clone(),
            expression,
        })
    }

    /// Whether it looks at the events of a sink.
    pub(crate) fn is_for(&self, sink: &str) -> bool {
        self.sinks.is_empty() || self.sinks.iter().any(|name| name == sink)
    }
}

/// Checks all rules: each by itself, and together (sinks that are not there, rules that could not be told apart).
pub(crate) fn compile(config: &Config) -> Result<Vec<Rule>, String> {
    let rules: Vec<Rule> = config
        .rules
        .iter()
        .map(Rule::compile)
        .collect::<Result<_, _>>()?;
    for (place, rule) in rules.iter().enumerate() {
        let (name, sinks) = (&rule.name, &config.sinks);
        if let Some(sink) = rule.sinks.iter().find(|sink| !sinks.contains_key(*sink)) {
            let near = nearest(sink, sinks.keys().map(String::as_str));
            let meant = near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
            return Err(format!("rule \"{name}\": no sink \"{sink}\"{meant}"));
        }
        let is_same = |other: &&Rule| {
            other.name == *name
                && (matches(&other.topic, &rule.topic) || matches(&rule.topic, &other.topic))
        };
        if let Some(other) = rules[..place].iter().find(is_same) {
            return Err(format!("two rules \"{name}\" for topic {}", other.topic));
        }
    }
    Ok(rules)
}

/// The condition of a sink of figures; what is wrong with it is told in words.
pub(crate) fn condition(settings: &StatisticsSettings) -> Result<Option<Expression>, String> {
    match settings.r#where.as_str() {
        "" => Ok(None),
        source => Expression::read_over(source, OF_EVENTS).map(Some),
    }
}

/// Checks the conditions of all sinks of figures; the sink of a wrong one, and what is wrong with it.
pub(crate) fn check_conditions(config: &Config) -> Result<(), (&str, String)> {
    for (name, sink) in &config.sinks {
        if let Kind::Statistics(settings) = &sink.kind {
            condition(settings).map_err(|why| (name.as_str(), why))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Loaded;

    const SMALL: &str = "kafka.brokers = \"b:9092\"\n[sink.Replica]\nkind = \"postgres\"\ntopics = [\"*\"]\nurl = \"u\"\n";

    fn with_rules(rules: &str) -> Result<Vec<Rule>, String> {
        let text = format!("{SMALL}{rules}");
        compile(&Loaded::parse("f.toml", &text, std::iter::empty()).unwrap())
    }

    #[test]
    fn every_mistake_in_a_rule_is_found_at_load() {
        let rule = |name: &str, reject_if: &str, more: &str| {
            format!(
                "[[rule]]\ntopic = \"hr.*\"\nname = \"{name}\"\nreject_if = '{reject_if}'\n{more}\n"
            )
        };
        let good = rule("salary", "after.salary > 10000", "sinks = [\"Replica\"]");
        assert_eq!(with_rules(&good).unwrap()[0].name, "salary");
        for (wrong, told) in [
            (rule("a", "after.salary >", ""), "rule \"a\": reject_if: "),
            (
                rule("a", "aftr.salary > 1", ""),
                "unknown variable \"aftr\", did you mean \"after\"?",
            ),
            (
                rule("a", "after.name.startswith(\"x\")", ""),
                "unknown function \"startswith\"",
            ),
            (
                rule("a", "upper(after.name) == \"X\"", ""),
                "unknown function \"upper\"",
            ),
            (
                rule("a", "true", "sinks = [\"replica\"]"),
                "no sink \"replica\", did you mean \"Replica\"?",
            ),
            (rule("a b", "true", ""), "A-Z a-z 0-9 _ -"),
            (rule(&"a".repeat(65), "true", ""), "1 to 64"),
            (rule("", "true", ""), "a [[rule]] has no name"),
            (rule("a", "", ""), "rule \"a\": reject_if is missing"),
            (
                "[[rule]]\nname = \"a\"\nreject_if = \"true\"\n".into(),
                "rule \"a\": topic is missing",
            ),
            (
                good.clone() + &rule("salary", "true", ""),
                "two rules \"salary\" for topic hr.*",
            ),
        ] {
            let error = with_rules(&wrong).err().unwrap();
            assert!(error.contains(told), "{wrong}: {error}");
        }
        let elsewhere = good.replace("hr.*", "shop.*");
        assert_eq!(with_rules(&(good + &elsewhere)).unwrap().len(), 2);
    }
}
