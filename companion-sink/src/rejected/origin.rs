//! Whether an event can come from where it says: its header, its body and its topic must name one table.

use change::topic_name;

use crate::event::TableName;
use crate::rejected::failure::Failure;

/// The header `cdc.table` that the sender gives the events of a table.
pub(crate) fn header_of(source: &TableName<'_>) -> String {
    topic_name::join(&[&source.db, &source.schema, &source.table])
}

/// Refuses an event whose header names another table than its body (CDC1012).
pub(crate) fn check(header: &str, source: &TableName<'_>) -> Result<(), Failure> {
    match header_of(source) == header {
        true => Ok(()),
        false => Err(Failure::foreign(
            "header cdc.table and the body name different tables".into(),
        )),
    }
}

/// An event in a topic that belongs to another table (CDC1012).
pub(crate) fn foreign(topic: &str, owner: &str, header: &str) -> Failure {
    Failure::foreign(format!(
        "topic {topic} belongs to table {}, and the event is of table {}",
        shown(owner),
        shown(header)
    ))
}

/// An event of a table that comes in another topic (CDC1012).
pub(crate) fn taken(header: &str, owner: &str) -> Failure {
    Failure::foreign(format!(
        "table {} comes in topic {}, which is another one",
        shown(header),
        shown(owner)
    ))
}

/// A name that somebody may have made up, for a message: of bearable length, on one line.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST_CHARS: usize = 260;
    let chars = name.chars().take(LONGEST_CHARS);
    chars
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_body_must_agree() {
        let source = |table: &'static str| TableName {
            db: "shop".into(),
            schema: "public".into(),
            table: table.into(),
        };
        assert!(check("shop.public.customer", &source("customer")).is_ok());
        assert!(check("shop.public.Kunde-x20-xc3-xa4", &source("Kunde ä")).is_ok());
        for header in ["", "shop.public.other", "other.public.customer", "customer"] {
            let refused = check(header, &source("customer")).unwrap_err();
            assert!(refused.is_forged(), "{header}");
        }
    }
}
