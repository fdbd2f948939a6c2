//! A line of `cdc_check`.

use change::code::Code;

/// Level, code, item, message and remedy.
pub(super) type Line = (String, Option<String>, String, String, Option<String>);

pub(super) fn line(level: &str, code: Code, item: &str, message: &str, remedy: &str) -> Line {
    (
        level.to_owned(),
        Some(code.to_string()),
        item.to_owned(),
        message.to_owned(),
        Some(remedy.to_owned()),
    )
}
