//! TABLE of a command or a request: which table is meant.

use crate::sink::mongo_history::lineage::{Lineage, Name};

/// A table's name as somebody wrote it: `customer`, `crm.customer`, `shop.crm.customer`, a part in double quotes as in SQL, or as
/// topics have it.
pub struct Wanted<'w> {
    text: &'w str,
    /// From the table on.
    parts: Vec<String>,
}

impl Wanted<'_> {
    /// What a text means.
    pub fn parse(text: &str) -> Wanted<'_> {
        let mut parts = vec![String::new()];
        let mut is_quoted = false;
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let part = parts.last_mut();
            match (c, part) {
                ('"', Some(part)) if is_quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    part.push('"');
                }
                ('"', _) => is_quoted = !is_quoted,
                ('.', _) if !is_quoted => parts.push(String::new()),
                (c, Some(part)) => part.push(c),
                (_, None) => {}
            }
        }
        parts.reverse();
        Wanted { text, parts }
    }

    /// Whether a table is called so now.
    pub fn is_name_of(&self, lineage: &Lineage) -> bool {
        lineage.name().is_some_and(|name| self.is(name))
    }

    /// Whether a table was ever called so.
    pub fn was_name_of(&self, lineage: &Lineage) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(Wanted::parse(text).is(&name), "{text}");
        }
        for text in [
            "order items",
            "Items",
            "x20Items",
            "public.Order Items",
            "hr.crm.Order Items",
        ] {
            assert!(!Wanted::parse(text).is(&name), "{text}");
        }
    }
}
