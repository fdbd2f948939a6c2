//! Errors about events of whole tables.

use change::event::headers::HeaderName;
use change::trouble::Trouble;

use crate::kafka::record::Record;

/// An error about an event of a whole table, with the event.
pub(crate) fn of_whole_table(record: &Record, error: Trouble) -> Trouble {
    Trouble::new(
        error.code,
        format!(
            "event {} ({} of table {}): {}",
            record.event_id(),
            record.op_text().unwrap_or_default(),
            record
                .header(HeaderName::TABLE.as_str())
                .unwrap_or_default(),
            error.message
        ),
        error.remedy,
    )
}
