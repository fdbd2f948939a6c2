//! Names and patterns of topics and tables, in which `*` stands for any text.

/// Whether a sink with these patterns follows `topic`: `*` stands for any text; dead letters, positions, control events and effects
/// never.
pub(crate) fn follows(patterns: &[String], topic: &str) -> bool {
    !topic.ends_with(".dlq")
        && !topic.ends_with(".cdc_positions")
        && !change::topic_name::is_control(topic)
        && !change::topic_name::is_of_effects(topic)
        && !topic.starts_with("__")
        && patterns.iter().any(|pattern| matches(pattern, topic))
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        let yes = [
            ("a.b", "a.b"),
            ("a.*", "a.b.c"),
            ("*", "x"),
            ("*.c", "a.b.c"),
            ("a*b*c", "aXbYbc"),
            ("a*", "a"),
        ];
        let no = [
            ("a.b", "a.bc"),
            ("a.*", "b.a.c"),
            ("*.c", "a.cd"),
            ("a*b*c", "acb"),
            ("ab*ba", "aba"),
        ];
        for (pattern, topic) in yes {
            assert!(matches(pattern, topic), "{pattern} {topic}");
        }
        for (pattern, topic) in no {
            assert!(!matches(pattern, topic), "{pattern} {topic}");
        }
    }

    #[test]
    fn our_own_topics_are_left_alone() {
        let all = ["*".to_owned()];
        assert!(follows(&all, "shop.public.t"));
        for topic in [
            "shop.public.t.dlq",
            "pg.cdc_positions",
            "companion.billing.cdc-effects",
            "companion.billing.cdc-effect-orders",
            "__consumer_offsets",
        ] {
            assert!(!follows(&all, topic), "{topic}");
        }
    }
}
