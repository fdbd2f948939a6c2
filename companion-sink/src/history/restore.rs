//! The SQL that brings a version of a row back. It is printed, never run.

use change::topic_name;
use mongodb::bson::{Bson, Document};

use crate::error::Result;
use crate::event::pg_type::PgType;
use crate::history::difference::{Difference, Side, difference};
use crate::history::entity::{Entity, Version};
use crate::history::moment::Moment;
use crate::history::state;
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::postgres::schema::target::quoted;
use crate::sink::postgres::write::pg_text::to_text;

/// The SQL that makes a row what it was at a moment; none where it had no version yet.
pub(crate) async fn restore(entity: &Entity, moment: &Moment) -> Result<Option<String>> {
    let (wanted, newest) = (entity.at(moment).await?, entity.newest().await?);
    let (Some(wanted), Some(newest)) = (wanted, newest) else {
        return Ok(None);
    };
    let table = entity.table();
    let types = match state(&wanted.document) {
        Some(_) => table.types(&wanted.document).await?,
        None => table.types(&newest.document).await?,
    };
    let restore = Restore {
        table: &table.name,
        key_columns: &table.key_columns,
        types: types.as_ref(),
        wanted: &wanted,
        newest: &newest,
    };
    Ok(Some(restore.sql()))
}

/// What SQL can be made for.
struct Restore<'a> {
    /// `database.schema.table`.
    table: &'a str,
    key_columns: &'a [String],
    /// Of the columns, at the wanted version.
    types: Option<&'a ColumnTypes>,
    wanted: &'a Version,
    newest: &'a Version,
}

impl Restore<'_> {
    /// One statement, ended by a semicolon, behind comments that say what it is and what it leaves out.
    fn sql(&self) -> String {
        let (wanted, newest) = (&self.wanted.document, &self.newest.document);
        let mut out = format!(
            "-- {}: from version {} back to version {}\n",
            in_comment(self.table),
            self.newest.number,
            self.wanted.number
        );
        let differences = difference(newest, wanted);
        let statement = match (state(wanted), state(newest)) {
            (None, None) => None,
            (None, Some(now)) => self
                .condition(now, &mut out)
                .map(|condition| format!("DELETE FROM {} WHERE {condition};\n", self.relation())),
            (Some(_), None) => self.insert(&differences, &mut out),
            (Some(_), Some(now)) => self.update(&differences, now, &mut out),
        };
        out + &statement.unwrap_or_else(|| "-- nothing to do\n".to_owned())
    }

    /// `"schema"."table"`, the database left out: the real names, which are escaped in topics and headers.
    fn relation(&self) -> String {
        let mut parts = self.table.splitn(3, '.').skip(1);
        let mut part = || topic_name::unescape(parts.next().unwrap_or_default());
        let schema = part();
        format!("{}.{}", identifier(&schema), identifier(&part()))
    }

    fn insert(&self, differences: &[Difference], out: &mut String) -> Option<String> {
        let values = self.values(differences, out);
        let (names, values): (Vec<String>, Vec<String>) = values.into_iter().unzip();
        (!names.is_empty()).then(|| {
            format!(
                "INSERT INTO {} ({}) VALUES ({});\n",
                self.relation(),
                names.join(", "),
                values.join(", ")
            )
        })
    }

    fn update(
        &self,
        differences: &[Difference],
        now: &Document,
        out: &mut String,
    ) -> Option<String> {
        let values = self.values(differences, out);
        if values.is_empty() {
            return None;
        }
        let assignments: Vec<String> = values
            .into_iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        let condition = self.condition(now, out)?;
        Some(format!(
            "UPDATE {} SET {} WHERE {condition};\n",
            self.relation(),
            assignments.join(", ")
        ))
    }

    /// Names and literals of the columns that can be brought back; the others get a comment.
    fn values(&self, differences: &[Difference], out: &mut String) -> Vec<(String, String)> {
        let mut values = Vec::new();
        for difference in differences {
            let column = &difference.column;
            let why = match &difference.to {
                Side::Absent => "was not there yet".to_owned(),
                Side::Marked { mark, .. } => format!("was {mark} when it was captured"),
                Side::Value(value) => match self.literal(column, value) {
                    Some(_) if column.contains('\0') => {
                        "has a name that PostgreSQL does not allow".to_owned()
                    }
                    Some(literal) => {
                        values.push((identifier(column), literal));
                        continue;
                    }
                    None => "has a value that cannot be written as text".to_owned(),
                },
            };
            let column = in_comment(&quoted(column));
            out.push_str(&format!(
                "-- {column} {}: left as it is\n",
                in_comment(&why)
            ));
        }
        values
    }

    /// What finds the row as it is now.
    fn condition(&self, now: &Document, out: &mut String) -> Option<String> {
        let parts: Option<Vec<String>> = self
            .key_columns
            .iter()
            .map(|column| {
                let literal = self.literal(column, now.get(column)?)?;
                Some(format!("{} = {literal}", identifier(column)))
            })
            .collect();
        let parts = parts.filter(|parts| !parts.is_empty());
        if parts.is_none() {
            out.push_str("-- the row cannot be found by its key\n");
        }
        parts.map(|parts| parts.join(" AND "))
    }

    /// A value as a literal of its column's type; none where its form is not known.
    fn literal(&self, column: &str, value: &Bson) -> Option<String> {
        if matches!(value, Bson::Null) {
            return Some("NULL".to_owned());
        }
        let type_name = self.types.and_then(|types| types.get(column));
        let type_name = type_name.filter(|name| is_type_name(name));
        let json = value.clone().into_relaxed_extjson().to_string();
        let json = serde_json::value::RawValue::from_string(json).ok()?;
        let text = to_text(&json, &pg_type(type_name.map_or("", String::as_str))?).ok()??;
        let literal = quote_text(&text);
        Some(match type_name {
            Some(type_name) => format!("{literal}::{type_name}"),
            None => literal,
        })
    }
}

/// How values of a type are in documents; none for types whose parts nobody knows here (composite types).
fn pg_type(name: &str) -> Option<PgType> {
    if let Some(element) = name.strip_suffix("[]") {
        return Some(PgType::Array {
            delimiter: if element == "box" { ';' } else { ',' },
            element: Box::new(pg_type(element)?),
        });
    }
    let (base, rest) = name.split_at(name.find(['(', ' ']).unwrap_or(name.len()));
    Some(match base {
        "bytea" => PgType::Bytea,
        "date" => PgType::Date,
        "timestamp" if rest.contains("with time zone") => PgType::TimestampTz,
        "timestamptz" => PgType::TimestampTz,
        "timestamp" => PgType::Timestamp,
        "bit" => PgType::Bit,
        "hstore" => PgType::Hstore,
        "int2vector" | "oidvector" => PgType::Vector,
        _ => PgType::Plain,
    })
}

/// A name or a reason for a comment: nothing in it may end the comment, or steer a terminal.
fn in_comment(text: &str) -> String {
    text.chars()
        .map(|c| if is_odd(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Whether a text reads as the name of a type and as nothing else. It comes with the events, and would be SQL.
fn is_type_name(text: &str) -> bool {
    let mut rest = text;
    loop {
        rest = match rest.strip_prefix('"') {
            // A name in quotes, in which quotes are doubled.
            Some(quoted) => {
                let Some(end) = end_of_quoted(quoted) else {
                    return false;
                };
                &quoted[end..]
            }
            None => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$')));
                let end = end.unwrap_or(rest.len());
                if end == 0 || rest.starts_with(|c: char| c.is_ascii_digit() || c == '$') {
                    return false;
                }
                &rest[end..]
            }
        };
        // Modifiers: (10,2), (-1), and the dimensions of an array.
        if let Some(modifier) = rest.strip_prefix('(') {
            let Some(end) = modifier.find(')') else {
                return false;
            };
            let is_number = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-' | ' ');
            let is_kind = |c: char| c.is_ascii_alphanumeric() || matches!(c, ',' | ' ' | '_');
            let inner = &modifier[..end];
            if !(inner.chars().all(is_number) || inner.chars().all(is_kind)) {
                return false;
            }
            rest = &modifier[end + 1..];
        }
        while let Some(after) = rest.strip_prefix("[]") {
            rest = after;
        }
        if rest.is_empty() {
            return true;
        }
        // Another part of the name, or another word of it.
        rest = match rest.strip_prefix(['.', ' ']) {
            Some(next) if !next.is_empty() => next,
            _ => return false,
        };
    }
}

/// Where a quoted name ends, behind its quote; none where it does not, or holds what no name should.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_none() => return Some(at + 1),
            c if c.is_control() => return None,
            _ => {}
        }
    }
    None
}

/// What must not stand in a line of SQL as it is.
fn is_odd(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// A name in quotes, on one line.
fn identifier(name: &str) -> String {
    if !name.contains(is_odd) {
        return quoted(name);
    }
    let mut out = String::from("U&\"");
    for c in name.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\"\""),
            c if is_odd(c) => out.push_str(&format!("\\{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Right whatever `standard_conforming_strings` is. Control characters are written as escapes: what is shown on a terminal, or
/// copied from there, is what is meant.
fn quote_text(text: &str) -> String {
    if text.contains(is_odd) {
        let mut out = String::from("E'");
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\'' => out.push_str("''"),
                c if is_odd(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                c => out.push(c),
            }
        }
        out.push('\'');
        return out;
    }
    match text.contains('\\') {
        true => format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn names_cannot_leave_their_comment_or_their_quotes() {
        let evil = "a\n\\! id > FILE\n--";
        let first = version(1, doc! { "op": "create", "after": { "id": 1, "q": 1 } });
        let second = version(
            2,
            doc! { "op": "update", "after": { "id": 1, "q": 2, evil: 1 } },
        );
        let types = [("id", "integer); DROP TABLE t; --"), ("q", "numeric(10,2)")];
        let types = types.map(|(name, type_name)| (name.to_owned(), type_name.to_owned()));
        let types = types.into_iter().collect();
        let restore = |table: &str, wanted: &Version, newest: &Version| {
            Restore {
                table,
                key_columns: &["id".to_owned()],
                types: Some(&types),
                wanted,
                newest,
            }
            .sql()
        };
        let printed = restore("shop.b29.Order-x20Items", &first, &second);
        assert!(
            printed.ends_with("UPDATE \"b29\".\"Order Items\" SET \"q\" = '1'::numeric(10,2) WHERE \"id\" = '1';\n"),
            "{printed}"
        );
        let printed = restore(&format!("shop.s.t\n\\! {evil}"), &first, &second);
        for line in printed.lines() {
            assert!(!line.trim_start().starts_with('\\'), "{printed}");
        }
        // Back to the version that has the column.
        let third = version(
            3,
            doc! { "op": "update", "after": { "id": 1, "q": 3, evil: 2 } },
        );
        let printed = restore("shop.s.t", &second, &third);
        assert!(
            printed.contains("U&\"a\\000a\\\\! id > FILE\\000a--\" = '1'"),
            "{printed}"
        );
    }

    #[test]
    fn only_names_of_types_pass() {
        for name in [
            "integer",
            "numeric(10,2)",
            "text[]",
            "timestamp(3) with time zone",
            "character varying(5)[]",
            "public.mood",
            "\"Mood x\".\"a\"\"b\"",
            "geometry(Point,4326)",
            "interval day to second(3)",
            "bit varying(3)",
        ] {
            assert!(is_type_name(name), "{name}");
        }
        for name in [
            "",
            "integer)",
            "integer; DROP TABLE t",
            "integer -- x",
            "integer\n\\! id",
            "\"a\n\"",
            "a('x')",
            "1a",
            "a..b",
            "a.",
            "text[1]",
        ] {
            assert!(!is_type_name(name), "{name}");
        }
    }

    #[test]
    fn control_characters_of_values_are_escapes() {
        assert_eq!(quote_text("a\x1b[31m\\b"), "E'a\\u001b[31m\\\\b'");
        assert_eq!(quote_text("a\nb\t"), "E'a\\u000ab\\u0009'");
        assert_eq!(identifier("a\n\"\\"), "U&\"a\\000a\"\"\\\\\"");
    }

    fn version(number: u64, document: Document) -> Version {
        Version { number, document }
    }

    fn sql(wanted: &Version, newest: &Version) -> String {
        let types = [
            ("id", "integer"),
            ("city", "text"),
            ("balance", "numeric(10,2)"),
            ("blob", "bytea"),
            ("tags", "text[]"),
            ("at", "timestamp without time zone"),
        ];
        let types = types.map(|(name, type_name)| (name.to_owned(), type_name.to_owned()));
        let restore = Restore {
            table: "shop.public.customer",
            key_columns: &["id".to_owned()],
            types: Some(&types.into_iter().collect()),
            wanted,
            newest,
        };
        restore.sql()
    }

    #[test]
    fn each_way_back_has_its_statement() {
        let first = version(
            1,
            doc! { "op": "create", "after": { "id": 42, "city": "O'Basel\\", "balance": "10.50", "iban": Bson::Null,
            "blob": "AQ==", "tags": ["a b", Bson::Null], "at": "2026-11-21T10:40:00" },
            "marks": { "after": { "iban": "redacted" } } },
        );
        let second = version(
            2,
            doc! { "op": "update", "after": { "id": 42, "city": "Bern", "balance": "10.50", "iban": "x", "blob": Bson::Null,
            "tags": Bson::Null, "at": Bson::Null, "new": 1 } },
        );
        let gone = version(3, doc! { "op": "delete", "after": Bson::Null });
        assert_eq!(
            sql(&first, &second),
            "-- shop.public.customer: from version 2 back to version 1\n\
             -- \"iban\" was redacted when it was captured: left as it is\n\
             -- \"new\" was not there yet: left as it is\n\
             UPDATE \"public\".\"customer\" SET \"city\" = E'O''Basel\\\\'::text, \"blob\" = E'\\\\x01'::bytea, \
             \"tags\" = '{\"a b\",NULL}'::text[], \"at\" = '2026-11-21 10:40:00'::timestamp without time zone \
             WHERE \"id\" = '42'::integer;\n"
        );
        let back = sql(&second, &gone);
        assert!(
            back.ends_with(
                "INSERT INTO \"public\".\"customer\" (\"id\", \"city\", \"balance\", \"iban\", \"blob\", \"tags\", \"at\", \"new\") \
                 VALUES ('42'::integer, 'Bern'::text, '10.50'::numeric(10,2), 'x', NULL, NULL, NULL, '1');\n"
            ),
            "{back}"
        );
        assert!(
            sql(&gone, &second)
                .ends_with("DELETE FROM \"public\".\"customer\" WHERE \"id\" = '42'::integer;\n")
        );
        assert!(sql(&gone, &gone).ends_with("-- nothing to do\n"));
        assert!(sql(&second, &second).ends_with("-- nothing to do\n"));
    }
}
