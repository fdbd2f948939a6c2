//! `companion-sink history`: the timeline of one row.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};

use super::{Color, print};
use crate::config::{Config, Kind};
use crate::discovery::matches;
use crate::error::{Error, Result};
use crate::sink::mongo_history::document::{INFERRED_DELETE, entity};
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_history::schemas::{ColumnTypes, stored_types};
use crate::sink::mongo_history::{self};

/// Which timeline to show.
#[derive(Debug, Args)]
pub struct Query {
    /// The table
    table: String,
    /// The row's key
    key: String,
    /// Versions at most, the newest
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// How to print it [default: table on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

/// How to print a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One document per line.
    Json,
    /// For spreadsheets.
    Csv,
}

/// A row's versions, oldest first, and how many came before those.
struct Timeline {
    versions: Vec<Document>,
    earlier: u64,
    types: Option<ColumnTypes>,
}

impl Query {
    /// Prints the timeline; false when there is none.
    pub async fn run(&self, config: &Config, json: bool, color: Color) -> Result<bool> {
        let mut found_sink = false;
        for sink in config.sinks.values() {
            let Kind::MongoHistory(settings) = &sink.kind else {
                continue;
            };
            found_sink = true;
            let database = mongo_history::connect(&sink.url, &settings.database).await?;
            for name in self.collections(&database, &settings.collection).await? {
                let collection = database.collection::<Document>(&name);
                if let Some(timeline) = self.find(&database, &collection).await? {
                    self.show(&timeline, json, color);
                    return Ok(true);
                }
            }
        }
        if !found_sink {
            return Err(Error::configuration(
                "no sink of kind mongo-history is configured",
                "Add one: `companion-sink config --defaults` shows how.",
            ));
        }
        eprintln!("companion-sink: no history of {} {}", self.table, self.key);
        Ok(false)
    }

    /// The collections whose names the table can have.
    async fn collections(&self, database: &Database, template: &str) -> Result<Vec<String>> {
        let mut parts = self.table.rsplit('.');
        let table = parts.next().unwrap_or_default();
        let schema = parts.next().unwrap_or("*");
        let source = parts.next().unwrap_or("*");
        let pattern = template
            .replace("{table}", table)
            .replace("{schema}", schema)
            .replace("{database}", source);
        let names = database
            .list_collection_names()
            .await
            .map_err(|error| classify("looking for the collection", &error))?;
        Ok(names
            .into_iter()
            .filter(|name| matches(&pattern, name))
            .collect())
    }

    async fn find(
        &self,
        database: &Database,
        collection: &Collection<Document>,
    ) -> Result<Option<Timeline>> {
        let failed = |error| classify("reading the history", &error);
        // One document tells the names of the key's columns, and the table's full name.
        let keyed = doc! { "key": { "$ne": Bson::Null } };
        let Some(sample) = collection.find_one(keyed).await.map_err(failed)? else {
            return Ok(None);
        };
        let Some((prefix, columns)) = table_and_key(&sample) else {
            return Ok(None);
        };
        let entities: Vec<_> = identities(&self.key, &columns)?
            .iter()
            .map(|identity| entity(&prefix, Some(identity)))
            .collect();
        let filter = doc! { "entity": { "$in": entities } };
        let total = collection
            .count_documents(filter.clone())
            .await
            .map_err(failed)?;
        let newest = collection
            .find(filter)
            .sort(doc! { "version": -1 })
            .limit(i64::from(self.limit))
            .await
            .map_err(failed)?;
        let mut versions: Vec<Document> = newest.try_collect().await.map_err(failed)?;
        let Some(oldest) = versions
            .last()
            .and_then(|oldest| oldest.get_str("version").ok())
        else {
            return Ok(None);
        };
        let earlier = total.saturating_sub(versions.len() as u64);
        // A truncate belongs to the table, and ended the row as well.
        let truncates = collection
            .find(doc! { "entity": &prefix, "op": "truncate", "version": { "$gt": oldest } })
            .await
            .map_err(failed)?;
        versions.extend(truncates.try_collect::<Vec<_>>().await.map_err(failed)?);
        versions.sort_by(|a, b| a.get_str("version").ok().cmp(&b.get_str("version").ok()));
        let types = match versions
            .last()
            .and_then(|newest| newest.get_str("schema").ok())
        {
            Some(hash) => stored_types(database, &format!("{prefix}:{hash}"))
                .await
                .map_err(failed)?,
            None => None,
        };
        Ok(Some(Timeline {
            versions,
            earlier,
            types,
        }))
    }

    fn show(&self, timeline: &Timeline, json: bool, color: Color) {
        let format = match self.format {
            _ if json => Format::Json,
            Some(format) => format,
            None if std::io::stdout().is_terminal() => Format::Table,
            None => Format::Json,
        };
        let mut out = String::new();
        match format {
            Format::Json => {
                for version in &timeline.versions {
                    let value = Bson::Document(version.clone()).into_relaxed_extjson();
                    out += &format!("{value}\n");
                }
            }
            Format::Csv => {
                out += "#,when,op,actor,role,reason,request,change\n";
                for row in timeline.rows() {
                    let cells = row.map(|cell| csv_cell(&cell));
                    out += &(cells.join(",") + "\n");
                }
            }
            Format::Table => out = self.table_text(timeline, color.is_on()),
        }
        print(&out);
    }

    fn table_text(&self, timeline: &Timeline, colored: bool) -> String {
        let key = timeline
            .versions
            .iter()
            .find_map(|version| version.get_document("key").ok());
        let key = key.map_or_else(
            || self.key.clone(),
            |key| {
                let parts = key
                    .iter()
                    .map(|(name, value)| format!("{name}={}", plain(value)));
                parts.collect::<Vec<_>>().join(" ")
            },
        );
        let count = timeline.versions.len() as u64 + timeline.earlier;
        let plural = if count == 1 { "" } else { "s" };
        let mut out = format!("{} {key}, {count} version{plural}\n", self.table);
        let header = [
            "#",
            "WHEN (UTC)",
            "OP",
            "ACTOR",
            "ROLE",
            "REASON",
            "REQUEST",
            "CHANGE",
        ]
        .map(str::to_owned);
        let rows: Vec<_> = timeline.rows().collect();
        let mut widths = header.clone().map(|cell| cell.chars().count());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &[String; 8]| {
            let mut line = format!("  {:>1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(widths).skip(1) {
                line += &format!("  {cell:<width$}");
            }
            line.trim_end().to_owned()
        };
        let paint = |text: String, code: &str| match colored {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text,
        };
        out += &(paint(line(&header), "2") + "\n");
        for row in &rows {
            let code = match row[2].as_str() {
                "create" => "32",
                "delete" | "truncate" | INFERRED_DELETE => "31",
                _ => "0",
            };
            out += &(if code == "0" {
                line(row)
            } else {
                paint(line(row), code)
            } + "\n");
        }
        out
    }
}

impl Timeline {
    /// Number, when, op, actor, role, reason, request, change.
    fn rows(&self) -> impl Iterator<Item = [String; 8]> + '_ {
        self.versions.iter().enumerate().map(|(place, version)| {
            let part = |object: &str, field: &str| {
                let object = version.get_document(object).ok();
                let text = object.and_then(|object| object.get_str(field).ok());
                text.filter(|text| !text.is_empty()).map(printable)
            };
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
            // Milliseconds are enough for people; the documents hold microseconds.
            let when = part("when", "commit")
                .map(|when| when.replace('T', " ").chars().take(23).collect());
            [
                (self.earlier + place as u64 + 1).to_string(),
                or_dash(when),
                version.get_str("op").unwrap_or("-").to_owned(),
                or_dash(part("who", "actor")),
                or_dash(part("who", "current_user")),
                or_dash(part("why", "reason")),
                or_dash(part("why", "request_id")),
                self.change(version),
            ]
        })
    }

    /// What changed: the columns of a new row, or the differences.
    fn change(&self, version: &Document) -> String {
        let value = |name: &str, value: &Bson| self.value(name, value);
        let key = version.get_document("key").ok();
        let parts: Vec<String> = match version.get_str("op") {
            Ok("create" | "snapshot") => {
                let after = version.get_document("after").into_iter().flatten();
                let shown = after.filter(|(name, value)| {
                    !matches!(value, Bson::Null) && !key.is_some_and(|key| key.contains_key(name))
                });
                let parts: Vec<_> = shown
                    .map(|(name, new)| format!("{name} {}", value(name, new)))
                    .collect();
                return parts.join(", ");
            }
            // Its time is not the row's.
            Ok(INFERRED_DELETE) => return "gone before a snapshot ended".into(),
            _ => {
                let diff = version.get_array("diff").into_iter().flatten();
                diff.filter_map(Bson::as_document)
                    .map(|entry| {
                        let name = entry.get_str("path").unwrap_or("?");
                        match (entry.get("from"), entry.get("to")) {
                            (Some(old), Some(new)) => {
                                format!("{name} {} -> {}", value(name, old), value(name, new))
                            }
                            (None, Some(new)) => format!("{name} added {}", value(name, new)),
                            (Some(old), None) => format!("{name} removed {}", value(name, old)),
                            (None, None) => format!("{name} changed (masked)"),
                        }
                    })
                    .collect()
            }
        };
        match parts.is_empty() {
            true => "-".into(),
            false => parts.join("; "),
        }
    }

    /// A value as SQL would show it: text in quotes, numbers and times not.
    fn value(&self, column: &str, value: &Bson) -> String {
        const BARE: [&str; 6] = ["numeric", "money", "date", "time", "timestamp", "interval"];
        let type_name = self.types.as_ref().and_then(|types| types.get(column));
        let is_bare = type_name.is_some_and(|name| BARE.iter().any(|bare| name.starts_with(bare)));
        match value {
            Bson::String(text) if !is_bare => printable(&format!("{text:?}")),
            other => plain(other),
        }
    }
}

fn plain(value: &Bson) -> String {
    match value {
        Bson::String(text) => printable(text),
        Bson::Null => "null".into(),
        other => printable(&other.clone().into_relaxed_extjson().to_string()),
    }
}

/// Without control characters: what comes from a row must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn csv_cell(cell: &str) -> String {
    match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

/// The table's full name and the names of its key columns.
fn table_and_key(sample: &Document) -> Option<(String, Vec<String>)> {
    let entity = sample.get_str("entity").ok()?;
    let (table, _) = entity.split_once(":{")?;
    let columns = sample.get_document("key").ok()?.keys().cloned().collect();
    Some((table.to_owned(), columns))
}

/// The identities that `key` can mean, as the events write them: `42` may be a number or a text.
fn identities(key: &str, columns: &[String]) -> Result<Vec<String>> {
    if key.starts_with('{') {
        let object: serde_json::Value =
            serde_json::from_str(key).map_err(|_| wrong_key(columns))?;
        let parts: Option<Vec<_>> = columns
            .iter()
            .map(|column| Some((column.as_str(), vec![object.get(column)?.to_string()])))
            .collect();
        return Ok(combine(&parts.ok_or_else(|| wrong_key(columns))?));
    }
    let texts: Vec<(&str, &str)> = match columns {
        [column] if !key.starts_with(&format!("{column}=")) => vec![(column.as_str(), key)],
        _ => {
            let given: Option<Vec<(&str, &str)>> =
                key.split(',').map(|part| part.split_once('=')).collect();
            let given = given.ok_or_else(|| wrong_key(columns))?;
            let all: Option<Vec<_>> = columns
                .iter()
                .map(|column| {
                    let found = given.iter().find(|(name, _)| name.trim() == column);
                    found.map(|(_, value)| (column.as_str(), *value))
                })
                .collect();
            all.ok_or_else(|| wrong_key(columns))?
        }
    };
    let parts: Vec<_> = texts
        .into_iter()
        .map(|(column, text)| {
            let mut forms = vec![serde_json::Value::from(text).to_string()];
            let is_json = matches!(
                serde_json::from_str(text),
                Ok(serde_json::Value::Number(_) | serde_json::Value::Bool(_))
            );
            if is_json {
                forms.push(text.to_owned());
            }
            (column, forms)
        })
        .collect();
    Ok(combine(&parts))
}

/// Every combination of the forms, each as a JSON object.
fn combine(parts: &[(&str, Vec<String>)]) -> Vec<String> {
    let mut bodies = vec![String::new()];
    for (column, forms) in parts {
        bodies = bodies
            .iter()
            .flat_map(|body| {
                let comma = if body.is_empty() { "" } else { "," };
                let name = serde_json::Value::from(*column);
                forms
                    .iter()
                    .map(move |form| format!("{body}{comma}{name}:{form}"))
            })
            .collect();
    }
    bodies
        .into_iter()
        .map(|body| format!("{{{body}}}"))
        .collect()
}

fn wrong_key(columns: &[String]) -> Error {
    let example: Vec<_> = columns
        .iter()
        .map(|column| format!("{column}=..."))
        .collect();
    Error::configuration(
        "KEY does not fit the table's key",
        format!(
            "The key's columns are {}: write {}.",
            columns.join(", "),
            example.join(",")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn keys_are_understood() {
        assert_eq!(
            identities("42", &names(&["id"])).unwrap(),
            [r#"{"id":"42"}"#, r#"{"id":42}"#]
        );
        assert_eq!(
            identities("id=ab", &names(&["id"])).unwrap(),
            [r#"{"id":"ab"}"#]
        );
        assert_eq!(
            identities(r#"{"b": "x", "a": 1}"#, &names(&["a", "b"])).unwrap(),
            [r#"{"a":1,"b":"x"}"#]
        );
        assert!(
            identities("a=1,b=2", &names(&["a", "b"]))
                .unwrap()
                .contains(&r#"{"a":1,"b":2}"#.to_owned())
        );
        assert!(identities("1", &names(&["a", "b"])).is_err());
    }

    #[test]
    fn a_timeline_reads_as_a_table() {
        let versions = vec![
            doc! { "op": "create", "key": { "id": 42 }, "after": { "id": 42, "name": "Eva", "balance": "10.50", "note": Bson::Null },
            "who": { "actor": "ann", "current_user": "app_rw" }, "why": { "reason": "new customer", "request_id": "r-16" },
            "when": { "commit": "2026-11-21T10:39:58.120000Z" }, "diff": [] },
            doc! { "op": "update", "key": { "id": 42 }, "who": { "actor": "bob", "current_user": "postgres" },
            "why": { "reason": "goodwill", "request_id": Bson::Null }, "when": { "commit": "2026-11-21T10:40:06.845000Z" },
            "diff": [
                { "path": "balance", "from": "10.50", "to": "25.00", "kind": "changed" },
                { "path": "note", "from": Bson::Null, "to": "VIP", "kind": "changed" },
            ] },
            doc! { "op": "inferred delete", "key": { "id": 42 }, "before": { "id": 42, "name": "Eva", "balance": "25.00" },
            "who": { "actor": Bson::Null, "current_user": "owner" }, "why": { "reason": Bson::Null },
            "when": { "commit": "2026-11-22T03:00:00.000001Z" }, "diff": [] },
        ];
        let types = [("balance".to_owned(), "numeric".to_owned())]
            .into_iter()
            .collect();
        let timeline = Timeline {
            versions,
            earlier: 0,
            types: Some(types),
        };
        let query = Query {
            table: "customer".into(),
            key: "42".into(),
            limit: 100,
            format: None,
        };
        assert_eq!(
            query.table_text(&timeline, false),
            "customer id=42, 3 versions\n\
            \x20 #  WHEN (UTC)               OP               ACTOR  ROLE      REASON        REQUEST  CHANGE\n\
            \x20 1  2026-11-21 10:39:58.120  create           ann    app_rw    new customer  r-16     name \"Eva\", balance 10.50\n\
            \x20 2  2026-11-21 10:40:06.845  update           bob    postgres  goodwill      -        balance 10.50 -> 25.00; note null -> \"VIP\"\n\
            \x20 3  2026-11-22 03:00:00.000  inferred delete  -      owner     -             -        gone before a snapshot ended\n"
        );
    }
}
