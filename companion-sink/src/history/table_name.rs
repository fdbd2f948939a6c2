//! TABLE of a command or a request: which table is meant.

use crate::sink::mongo_history::identity::lineage::Lineage;
use crate::sink::mongo_history::identity::told::Name;

/// A table's name as somebody wrote it: `customer`, `crm.customer`, `shop.crm.customer`, a part in double quotes as in SQL, or as
/// topics have it.
pub(crate) struct WantedTable<'w> {
    text: &'w str,
    /// From the table on.
    parts: Vec<String>,
}

impl WantedTable<'_> {
    /// What a text means.
    pub(crate) fn parse(text: &str) -> WantedTable<'_> {
        let mut parts = parts_of(text);
        parts.reverse();
        WantedTable { text, parts }
    }

    /// Whether a table is called so now.
    pub(crate) fn is_name_of(&self, lineage: &Lineage) -> bool {
        lineage.name().is_some_and(|name| self.is(name))
    }

    /// Whether a table was ever called so.
    pub(crate) fn was_name_of(&self, lineage: &Lineage) -> bool {
        lineage.names.iter().any(|name| self.is(name))
    }

    fn is(&self, name: &Name) -> bool {
        let of_table = [&name.table, &name.schema, &name.database];
        let is_named = self.parts.len() <= of_table.len()
            && self
                .parts
                .iter()
                .zip(of_table)
                .all(|(wanted, part)| wanted == part);
        let is_header = name.header == self.text
            || name.header.ends_with(self.text)
                && name.header[..name.header.len() - self.text.len()].ends_with('.');
        // One that has a dot in it, without quotes.
        is_named || is_header || name.table == self.text
    }
}

/// The parts of a name as SQL has them: what is in quotes may hold dots, and a quote in the middle is a character
/// like any other.
pub(crate) fn parts_of(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = name.chars().peekable();
    let mut in_quotes = false;
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            ('"', Some(part)) if in_quotes && chars.next_if_eq(&'"').is_some() => part.push('"'),
            ('"', Some(part)) if in_quotes || part.is_empty() => in_quotes = !in_quotes,
            ('.', _) if !in_quotes => parts.push(String::new()),
            (c, Some(part)) => part.push(c),
            (_, None) => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_parts_as_in_sql() {
        for (text, parts) in [
            ("a.\"b.\"\"c\".d", &["a", "b.\"c", "d"][..]),
            ("in\"ch.t", &["in\"ch", "t"]),
            ("a..b", &["a", "", "b"]),
            ("\"\"", &[""]),
        ] {
            assert_eq!(parts_of(text), parts, "{text}");
        }
    }

    #[test]
    fn tables_are_found_by_any_part_of_their_names() {
        let name = Name {
            from: String::new(),
            header: "shop.crm.Order-x20Items".into(),
            database: "shop".into(),
            schema: "crm".into(),
            table: "Order Items".into(),
        };
        for text in [
            "Order Items",
            "\"Order Items\"",
            "crm.Order Items",
            "crm.\"Order Items\"",
            "shop.crm.Order Items",
            "Order-x20Items",
            "crm.Order-x20Items",
        ] {
            assert!(WantedTable::parse(text).is(&name), "{text}");
        }
        for text in [
            "order items",
            "Items",
            "x20Items",
            "public.Order Items",
            "hr.crm.Order Items",
        ] {
            assert!(!WantedTable::parse(text).is(&name), "{text}");
        }
    }
}
