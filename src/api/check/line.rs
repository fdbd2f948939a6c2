//! A line of `cdc_check`.

use crate::report::Report;

/// Level, code, item, message and hint.
pub(super) type Line = (String, Option<String>, String, String, Option<String>);

/// What is wrong, or may become so.
pub(super) fn line(level: &str, code: &str, item: &str, message: &str, hint: &str) -> Line {
    (
        level.to_owned(),
        Some(code.to_owned()),
        item.to_owned(),
        message.to_owned(),
        Some(hint.to_owned()),
    )
}

/// What is as it must be.
pub(super) fn ok(item: &str, message: String) -> Line {
    ("ok".to_owned(), None, item.to_owned(), message, None)
}

/// What a report says.
pub(super) fn problem(level: &str, item: &str, report: &Report) -> Line {
    line(level, report.code, item, &report.message, &report.hint)
}
