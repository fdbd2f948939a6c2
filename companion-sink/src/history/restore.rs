//! The SQL that brings a version of a row back. It is printed, never run.

use mongodb::bson::{Bson, Document};

use super::difference::{Difference, Side, difference};
use super::entity::{Entity, Version};
use super::moment::Moment;
use super::state;
use crate::error::Result;
use crate::sink::mongo_history::schemas::ColumnTypes;
use crate::sink::postgres::pg_text::{PgType, to_text};
use crate::sink::postgres::tables::{qualified, quoted};

/// The SQL that makes a row what it was at a moment; none where it had no version yet.
pub async fn restore(entity: &Entity, moment: &Moment) -> Result<Option<String>> {
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
            self.table, self.newest.number, self.wanted.number
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

    /// `"schema"."table"`, the database left out.
    fn relation(&self) -> String {
        let mut parts = self.table.splitn(3, '.').skip(1);
        let mut part = || parts.next().unwrap_or_default();
        let schema = part();
        qualified(schema, part())
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
                    Some(literal) => {
                        values.push((quoted(column), literal));
                        continue;
                    }
                    None => "has a value that cannot be written as text".to_owned(),
                },
            };
            out.push_str(&format!("-- {} {why}: left as it is\n", quoted(column)));
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
                Some(format!("{} = {literal}", quoted(column)))
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
        "time" if !rest.contains("with time zone") => PgType::Time,
        "bit" => PgType::Bit,
        "hstore" => PgType::Hstore,
        "int2vector" | "oidvector" => PgType::Vector,
        _ => PgType::Plain,
    })
}

/// Right whatever `standard_conforming_strings` is.
fn quote_text(text: &str) -> String {
    match text.contains('\\') {
        true => format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''")),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

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
            "blob": "AQ==", "tags": ["a b", Bson::Null], "at": "2026-11-21T10:40:00Z" },
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
