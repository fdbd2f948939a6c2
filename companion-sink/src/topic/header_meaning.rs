//! What the headers of a record mean.

use change::event::headers::HeaderName;
use change::position::lsn_text;
use change::version::Version;

/// What a header says, for people; none for one that pg_cdc does not write.
pub(crate) fn meaning(name: &str, value: &str) -> Option<String> {
    if name == HeaderName::VERSION.as_str() {
        return Some(match Version::parse(value) {
            Some(version) => format!("the order of all events: {}", place(&version)),
            None => "not a version".to_owned(),
        });
    }
    fixed(name).map(str::to_owned)
}

fn place(version: &Version) -> String {
    format!(
        "generation {}, timeline {}, commit {}, event {}",
        version.generation,
        version.timeline,
        lsn_text(version.commit_lsn),
        version.sequence
    )
}

fn fixed(name: &str) -> Option<&'static str> {
    const OURS: [(HeaderName, &str); 14] = [
        (HeaderName::ID, "the event, the same for every copy of it"),
        (HeaderName::OP, "what happened"),
        (HeaderName::TABLE, "the table, escaped as topics are"),
        (
            HeaderName::CONTROL,
            "the newest control event about the topic before this row",
        ),
        (
            HeaderName::TOPIC,
            "the table's topic that this control event is about",
        ),
        (
            HeaderName::IDENTITY,
            "the row, where the record's key is not its identity",
        ),
        (
            HeaderName::TRANSACTION,
            "which event of its transaction, of how many",
        ),
        (HeaderName::SINKS, "only these sinks act on it"),
        (HeaderName::ACTOR, "who"),
        (HeaderName::REASON, "why"),
        (HeaderName::REQUEST_ID, "in which request"),
        (HeaderName::NEW_KEY, "the key after the change"),
        (HeaderName::OLD_KEY, "the key before the change"),
        (HeaderName::TRACEPARENT, "W3C trace context"),
    ];
    const DEAD_LETTERS: [(&str, &str); 12] = [
        ("cdc.dlq.code", "why it was refused, see docs/errors"),
        ("cdc.dlq.reason", "the kind of refusal"),
        ("cdc.dlq.sink", "the sink that refused it"),
        ("cdc.dlq.attempts", "how often it was tried"),
        ("cdc.dlq.first_failed", "when it was refused first"),
        ("cdc.dlq.last_failed", "when it was refused last"),
        (
            "cdc.dlq.stored",
            "the value is too large for this topic, the sink has it",
        ),
        ("__connect.errors.topic", "where it came from"),
        ("__connect.errors.partition", "likewise"),
        ("__connect.errors.offset", "likewise"),
        ("__connect.errors.stage", "what was done with it"),
        (
            "__connect.errors.exception.message",
            "what was wrong with it",
        ),
    ];
    let ours = OURS.iter().find(|(known, _)| known.as_str() == name);
    let letter = DEAD_LETTERS.iter().find(|(known, _)| *known == name);
    ours.map(|(_, text)| *text)
        .or(letter.map(|(_, text)| *text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_told_to_people() {
        let version = "0001-0000000a-00000000015a3098-0000000003-00";
        assert_eq!(
            meaning("cdc.version", version).unwrap(),
            "the order of all events: generation 1, timeline 10, commit 0/15A3098, event 3"
        );
        assert_eq!(meaning("cdc.version", "x").unwrap(), "not a version");
        assert!(meaning("cdc.id", "").unwrap().contains("copy"));
        assert!(meaning("__connect.errors.stage", "").is_some());
        assert_eq!(meaning("kind", "welcome"), None);
    }
}
