//! Why an event is refused.

use change::trouble::Trouble;

use crate::error::Code;
use crate::event::json::Malformed;
use std::borrow::Cow;

/// In which step the event failed, as Kafka Connect names the steps.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    /// It could not be decoded or converted.
    ValueConverter,
    /// A rule rejects it.
    Transformation,
    /// The target refused it.
    TaskPut,
}

/// The reason of [`Failure::unique`].
pub(crate) const UNIQUE: &str = "unique";

/// Why an event is refused.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// CDC1004 to CDC1007, CDC1011 to CDC1015, CDC1018.
    pub(crate) code: Code,
    /// The reason in one word, or the rule's name.
    pub(crate) reason: Cow<'static, str>,
    /// The step that failed.
    pub(crate) stage: Stage,
    /// What happened, without any value of the row.
    pub(crate) message: String,
    /// The server's SQLSTATE, where it did not say which column it is about.
    pub(crate) state: Option<Box<str>>,
}

impl Failure {
    /// The event cannot be decoded.
    pub(crate) fn undecodable(message: String) -> Self {
        Failure {
            code: Code::Undecodable,
            reason: "undecodable".into(),
            stage: Stage::ValueConverter,
            message,
            state: None,
        }
    }

    /// A value cannot be turned into the column's type.
    pub(crate) fn conversion(message: String) -> Self {
        Failure {
            code: Code::ValueRefused,
            reason: "conversion".into(),
            stage: Stage::ValueConverter,
            message,
            state: None,
        }
    }

    /// The rule `name` rejects the event.
    pub(crate) fn rejected(name: &str) -> Self {
        Failure {
            code: Code::Rejected,
            reason: Cow::Owned(name.to_owned()),
            stage: Stage::Transformation,
            message: format!("the rule \"{name}\" rejects it"),
            state: None,
        }
    }

    /// Another row of the target has a value that only one may have.
    pub(crate) fn unique(message: String) -> Self {
        Failure {
            reason: UNIQUE.into(),
            ..Failure::refused(message)
        }
    }

    /// The receiver of an effect refuses it for good.
    pub(crate) fn effect_refused(message: String) -> Self {
        Failure {
            code: Code::EffectRefused,
            reason: "refused".into(),
            stage: Stage::TaskPut,
            message,
            state: None,
        }
    }

    /// A person has left the effect out; `told` says who, and why.
    pub(crate) fn effect_skipped(told: &str) -> Self {
        Failure {
            reason: "skipped".into(),
            ..Failure::effect_refused(format!("skipped {told}"))
        }
    }

    /// Whether another row may give up what keeps the event back. A rule may have the name of the reason.
    pub(crate) fn is_unique(&self) -> bool {
        self.code == Code::ValueRefused && self.reason == UNIQUE
    }

    /// The event is of a table that its topic does not belong to.
    pub(crate) fn foreign(message: String) -> Self {
        Failure {
            code: Code::Foreign,
            reason: "foreign".into(),
            stage: Stage::ValueConverter,
            message,
            state: None,
        }
    }

    /// The event is for a table that the sink may not write.
    pub(crate) fn not_allowed(message: String) -> Self {
        Failure {
            code: Code::NotAllowed,
            reason: "not_allowed".into(),
            stage: Stage::ValueConverter,
            message,
            state: None,
        }
    }

    /// The event claims a place which its source has not come to.
    pub(crate) fn unbelievable() -> Self {
        Failure {
            code: Code::Unbelievable,
            reason: "unbelievable".into(),
            stage: Stage::ValueConverter,
            message: "header cdc.version names a commit that the source has not come to".into(),
            state: None,
        }
    }

    /// Whether the event cannot come from the table that it stands with. Nothing waits for such a one, and it halts nobody: else
    /// whoever may write somewhere could stop what others write.
    pub(crate) fn is_forged(&self) -> bool {
        matches!(
            self.code,
            Code::Foreign | Code::NotAllowed | Code::Unbelievable
        )
    }

    /// The target refused the event.
    pub(crate) fn refused(message: String) -> Self {
        Failure {
            code: Code::ValueRefused,
            reason: "refused".into(),
            stage: Stage::TaskPut,
            message,
            state: None,
        }
    }
}

impl Failure {
    /// The target's table is not as the event needs it (CDC1004, CDC1011).
    pub(crate) fn lack(code: Code, message: String) -> Self {
        Failure {
            code,
            reason: "table".into(),
            ..Failure::refused(message)
        }
    }

    /// Whether the target's table keeps it back.
    pub(crate) fn is_lack(&self) -> bool {
        matches!(self.code, Code::TargetRefuses | Code::SchemaChange)
    }

    /// The target takes nothing of the event's table.
    pub(crate) fn collection_refused(message: String) -> Self {
        Failure {
            code: Code::CollectionRefused,
            reason: "collection".into(),
            ..Failure::refused(message)
        }
    }
}

impl From<Malformed> for Failure {
    fn from(Malformed(why): Malformed) -> Self {
        Failure::undecodable(why)
    }
}

/// Why an event is not applied.
#[derive(Debug)]
pub(crate) enum NotApplied {
    /// It is refused: it goes aside, and the others go on.
    Refused(Failure),
    /// Something failed that the event is not to blame for.
    Failed(Trouble),
}

impl From<Failure> for NotApplied {
    fn from(failure: Failure) -> Self {
        NotApplied::Refused(failure)
    }
}

impl From<Malformed> for NotApplied {
    fn from(malformed: Malformed) -> Self {
        NotApplied::Refused(malformed.into())
    }
}

impl From<Trouble> for NotApplied {
    fn from(error: Trouble) -> Self {
        NotApplied::Failed(error)
    }
}
