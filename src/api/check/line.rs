//! A line of `cdc_check`.

use change::code::Code;
use change::trouble::Trouble;

/// Level, code, item, message and hint.
pub(super) type Line = (String, Option<String>, String, String, Option<String>);

/// What is wrong, or may become so.
pub(super) fn line(level: &str, code: Code, item: &str, message: &str, hint: &str) -> Line {
    (
        level.to_owned(),
        Some(code.to_string()),
        item.to_owned(),
        message.to_owned(),
        Some(hint.to_owned()),
    )
}

/// What is as it must be.
pub(super) fn ok(item: &str, message: String) -> Line {
    ("ok".to_owned(), None, item.to_owned(), message, None)
}

/// What a trouble says.
pub(super) fn problem(level: &str, item: &str, trouble: &Trouble) -> Line {
    line(level, trouble.code, item, &trouble.message, &trouble.remedy)
}
