//! `companion-sink history`: what rows were, who changed them, when and why.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Args;
use mongodb::bson::{Bson, Document};
use serde_json::{Value, json};

use crate::cli::answer::{Answer, Format, Look};
use crate::config::Loaded;
use crate::error::{Result, misconfigured};
use crate::history::blame::blame;
use crate::history::change_text::{
    change_text, key_text, marked, op_text, plain, side_text, value_text,
};
use crate::history::changes::ChangeSearch;
use crate::history::difference::{Side, difference};
use crate::history::entity::find;
use crate::history::entity::{Entity, Range, Version};
use crate::history::moment::Moment;
use crate::history::restore::restore;
use crate::history::rows::{Rows, row_json};
use crate::history::table::Histories;
use crate::history::table::HistoryTable;
use crate::history::table::Missing;
use crate::history::table::several;
use crate::history::{edited, json, mark, marks, state, text_at};
use crate::sink::mongo_history::documents::column_types::ColumnTypes;
use crate::sink::mongo_history::documents::document::INFERRED_DELETE;
use crate::terminal::Color;

const TIMELINE: &[&str] = &[
    "#",
    "WHEN (UTC)",
    "OP",
    "ACTOR",
    "ROLE",
    "REASON",
    "REQUEST",
    "CHANGE",
];
const CHANGES: &[&str] = &[
    "WHEN (UTC)",
    "TABLE",
    "KEY",
    "OP",
    "ACTOR",
    "ROLE",
    "REASON",
    "REQUEST",
    "CHANGE",
];
const STATE: &[&str] = &["COLUMN", "VALUE"];
const DIFFERENCE: &[&str] = &["COLUMN", "FROM", "TO"];
const BLAME: &[&str] = &[
    "#",
    "COLUMN",
    "VALUE",
    "WHEN (UTC)",
    "ACTOR",
    "ROLE",
    "REASON",
    "REQUEST",
];

/// Which question.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The table, with or without schema and database
    table: Option<String>,
    /// The row's key: 42, or a=1,b=2 for several columns, or JSON
    #[arg(requires = "table")]
    key: Option<String>,
    /// The row as it was; without KEY all rows of the table
    #[arg(long, value_name = "TIME|VERSION", requires = "table", conflicts_with_all = ["diff", "blame", "restore"])]
    at: Option<String>,
    /// What two versions differ in
    #[arg(long, value_name = "FROM..TO", requires = "key", conflicts_with_all = ["blame", "restore"])]
    diff: Option<String>,
    /// Who gave each column, or this one, the value that it has
    #[arg(long, value_name = "COLUMN", num_args = 0..=1, default_missing_value = "", requires = "key", conflicts_with = "restore")]
    blame: Option<String>,
    /// Print the SQL that brings a version back; it is never run
    #[arg(long, value_name = "TIME|VERSION", requires = "key")]
    restore: Option<String>,
    /// Changes of rows that had or got this value; may be given more than once
    #[arg(
        long = "where",
        value_name = "COLUMN=VALUE",
        requires = "table",
        conflicts_with = "key"
    )]
    values: Vec<String>,
    /// Changes that this person made
    #[arg(long, value_name = "NAME", conflicts_with = "key")]
    actor: Option<String>,
    /// Changes of this request
    #[arg(long, value_name = "ID", conflicts_with = "key")]
    request_id: Option<String>,
    /// Changes of this transaction: its id with or without the commit LSN
    #[arg(long, value_name = "ID", conflicts_with = "key")]
    transaction: Option<String>,
    /// Changes that were committed at this time or later
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Changes that were committed at this time or earlier
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The newest so many; 0 for all
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: u32,
    /// How to print it [default: table on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Query {
    /// Prints the answer; false when there is none.
    pub(crate) async fn run(&self, config: &Loaded, json: bool, color: Color) -> Result<bool> {
        let histories = Histories::new(config);
        let tables = histories.tables(self.table.as_deref()).await?;
        let format = if json {
            Some(Format::Json)
        } else {
            self.format
        };
        let answer = |header| Answer::new(format, self.output.as_deref(), color, header);
        let found = match (&self.key, &self.at) {
            (Some(key), at) => match find(&tables, key).await? {
                None => {
                    for table in &tables {
                        say_what_is_missing(table.missing(key).await?);
                    }
                    false
                }
                Some(entity) => match (at, &self.diff, &self.blame, &self.restore) {
                    (Some(at), ..) => self.at(&entity, at, answer(STATE)?).await?,
                    (_, Some(diff), ..) => self.diff(&entity, diff, answer(DIFFERENCE)?).await?,
                    (.., Some(column), _) => self.blame(&entity, column, answer(BLAME)?).await?,
                    (.., Some(version)) => {
                        // What is piped into psql must be SQL.
                        let format = format.unwrap_or(Format::Table);
                        let answer =
                            Answer::new(Some(format), self.output.as_deref(), color, &["SQL"])?;
                        self.restore(&entity, version, answer).await?
                    }
                    _ => self.timeline(&entity, answer(TIMELINE)?).await?,
                },
            },
            (None, Some(at)) => self.table_at(&tables, at, answer(&[])?).await?,
            (None, None) => self.changes(&tables, answer(CHANGES)?).await?,
        };
        if !found {
            let what = [self.table.as_deref(), self.key.as_deref()];
            let what: Vec<&str> = what.into_iter().flatten().collect();
            eprintln!(
                "companion-sink: no history of {}",
                match what.is_empty() {
                    true => "that".to_owned(),
                    false => what.join(" "),
                }
            );
        }
        Ok(found)
    }

    fn range(&self) -> Result<Range> {
        Ok(Range {
            limit: (self.limit > 0).then_some(self.limit),
            ..Range::of_times(self.since.as_deref(), self.until.as_deref())?
        })
    }

    async fn timeline(&self, entity: &Entity, mut answer: Answer) -> Result<bool> {
        let versions = entity.versions(&self.range()?).await?;
        let mut types = KnownTypes::default();
        for version in &versions {
            let types = types.of(entity.table(), &version.document).await?;
            let mut cells = vec![version.number.to_string()];
            cells.extend(circumstances(&version.document));
            cells.insert(2, op_text(&version.document));
            cells.push(change_text(&version.document, types));
            answer.row(|| version.json(), cells, look(&version.document))?;
        }
        let count = entity.version_count().await?;
        let plural = if count == 1 { "" } else { "s" };
        let name = self.name_of(entity, &versions);
        let found = answer.count() > 0;
        answer.finish(&format!("{name}, {count} version{plural}"))?;
        say_what_is_missing(entity.missing().await?);
        Ok(found)
    }

    async fn at(&self, entity: &Entity, at: &str, mut answer: Answer) -> Result<bool> {
        let moment = Moment::parse(at)?;
        say_if_incomplete(entity.table(), &moment);
        let Some(version) = entity.at(&moment).await? else {
            return Ok(false);
        };
        let types = entity.table().types(&version.document).await?;
        let state = state(&version.document);
        if answer.is_json() {
            let state = state.map(json);
            answer.row(
                || {
                    let mut object = json!({ "version": version.number, "state": state });
                    for (name, part) in [
                        ("marks", marks(&version.document)),
                        ("edited", edited(&version.document)),
                    ] {
                        if let Some(part) = part {
                            object[name] = json(part);
                        }
                    }
                    object
                },
                Vec::new(),
                Look::Plain,
            )?;
        } else {
            for (column, value) in state.into_iter().flatten() {
                let value = value_text(column, value, types.as_ref());
                let cells = vec![
                    column.clone(),
                    marked(value, mark(&version.document, column)),
                ];
                answer.row(|| Value::Null, cells, Look::Plain)?;
            }
        }
        let name = self.name_of(entity, std::slice::from_ref(&version));
        let when = text_at(&version.document, "when", "commit").map_or("-".into(), short);
        let what = if state.is_some() { "" } else { ", gone" };
        answer.finish(&format!(
            "{name}, version {} of {when}{what}",
            version.number
        ))?;
        Ok(true)
    }

    /// Every row of a table as it was: streamed, for there may be many.
    async fn table_at(
        &self,
        tables: &[HistoryTable],
        at: &str,
        mut answer: Answer,
    ) -> Result<bool> {
        let moment = Moment::parse(at)?;
        let name = self.table.as_deref().unwrap_or_default();
        let table = match tables {
            [] => return Ok(false),
            [table] => table,
            _ => return Err(several(tables, name)),
        };
        say_if_incomplete(table, &moment);
        let mut columns: Vec<String> = Vec::new();
        if !answer.is_json() {
            // Rows of several definitions of the table have not the same columns.
            let mut rows = Rows::at(table, &moment, None).await?;
            while let Some(row) = rows.next().await? {
                let names = state(&row).into_iter().flat_map(Document::keys);
                for name in names {
                    if !columns.contains(name) {
                        columns.push(name.clone());
                    }
                }
            }
            answer.set_header(columns.clone());
        }
        let mut rows = Rows::at(table, &moment, None).await?;
        while let Some(row) = rows.next().await? {
            let value = |column: &String| match (state(&row)?.get(column)?, mark(&row, column)) {
                (Bson::Null, None) => None,
                (value, mark) => Some(marked(plain(value), mark)),
            };
            let cells = columns
                .iter()
                .map(|column| value(column).unwrap_or_default());
            let cells = cells.collect();
            let object = || {
                let mut object = row_json(&row);
                object["table"] = table.name.as_str().into();
                object
            };
            answer.row(object, cells, Look::Plain)?;
        }
        let count = answer.count();
        let plural = if count == 1 { "" } else { "s" };
        answer.finish(&format!("{name} at {at}, {count} row{plural}"))?;
        Ok(true)
    }

    async fn diff(&self, entity: &Entity, diff: &str, mut answer: Answer) -> Result<bool> {
        let (from, to) = diff.split_once("..").ok_or_else(|| {
            misconfigured(
                format!("\"{diff}\" names no two versions"),
                "Write FROM..TO, such as 2..3.",
            )
        })?;
        let (from, to) = (
            entity.at(&Moment::parse(from)?).await?,
            entity.at(&Moment::parse(to)?).await?,
        );
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(false);
        };
        let types = entity.table().types(&to.document).await?;
        let text = |column: &str, side: &Side| side_text(column, side, types.as_ref());
        for difference in difference(&from.document, &to.document) {
            let column = &difference.column;
            let cells = vec![
                column.clone(),
                text(column, &difference.from),
                text(column, &difference.to),
            ];
            let look = match (&difference.from, &difference.to) {
                (Side::Absent, _) => Look::New,
                (_, Side::Absent) => Look::Gone,
                _ => Look::Plain,
            };
            answer.row(|| difference.json(), cells, look)?;
        }
        let name = self.name_of(entity, std::slice::from_ref(&to));
        answer.finish(&format!("{name}, version {} to {}", from.number, to.number))?;
        Ok(true)
    }

    async fn blame(&self, entity: &Entity, wanted: &str, mut answer: Answer) -> Result<bool> {
        let versions = entity.versions(&Range::default()).await?;
        let types = match versions.last() {
            Some(newest) => entity.table().types(&newest.document).await?,
            None => None,
        };
        for blamed in blame(&versions) {
            if !wanted.is_empty() && wanted != blamed.column {
                continue;
            }
            let version = &blamed.version.document;
            let mut cells = vec![
                blamed.version.number.to_string(),
                blamed.column.to_owned(),
                marked(
                    value_text(blamed.column, blamed.value(), types.as_ref()),
                    mark(version, blamed.column),
                ),
            ];
            cells.extend(circumstances(version));
            answer.row(|| blamed.json(), cells, Look::Plain)?;
        }
        let found = answer.count() > 0;
        answer.finish(&self.name_of(entity, &versions))?;
        Ok(found)
    }

    async fn restore(&self, entity: &Entity, version: &str, mut answer: Answer) -> Result<bool> {
        let Some(sql) = restore(entity, &Moment::parse(version)?).await? else {
            return Ok(false);
        };
        match answer.is_json() {
            true => answer.row(|| json!({ "sql": sql }), Vec::new(), Look::Plain)?,
            false => answer.text(&sql)?,
        }
        answer.finish("")?;
        Ok(true)
    }

    async fn changes(&self, tables: &[HistoryTable], mut answer: Answer) -> Result<bool> {
        let search = ChangeSearch {
            actor: self.actor.clone(),
            request_id: self.request_id.clone(),
            transaction: self.transaction.clone(),
            values: self.values.clone(),
            range: self.range()?,
        };
        let mut types = KnownTypes::default();
        for change in search.run(tables).await? {
            let types = types.of(change.table, &change.document).await?;
            let mut cells = circumstances(&change.document);
            let own = [
                change.table.name.clone(),
                key_text(&change.document).unwrap_or_else(|| "-".into()),
                op_text(&change.document),
            ];
            cells.splice(1..1, own);
            cells.push(change_text(&change.document, types));
            answer.row(|| json(&change.document), cells, look(&change.document))?;
        }
        let count = answer.count();
        let plural = if count == 1 { "" } else { "s" };
        answer.finish(&format!("{count} change{plural}"))?;
        Ok(count > 0)
    }

    /// `customer id=42`.
    fn name_of(&self, entity: &Entity, versions: &[Version]) -> String {
        let table = self.table.as_deref().unwrap_or(&entity.table().name);
        let keys = versions
            .iter()
            .find_map(|version| key_text(&version.document));
        let key = keys.or_else(|| self.key.clone()).unwrap_or_default();
        format!("{table} {key}")
    }
}

/// The types of columns, by table and hash of the definition.
#[derive(Default)]
struct KnownTypes(HashMap<(String, String), Option<ColumnTypes>>);

impl KnownTypes {
    async fn of(
        &mut self,
        table: &HistoryTable,
        version: &Document,
    ) -> Result<Option<&ColumnTypes>> {
        let Ok(hash) = version.get_str("schema") else {
            return Ok(None);
        };
        let place = (table.name.clone(), hash.to_owned());
        if !self.0.contains_key(&place) {
            let types = table.types(version).await?;
            self.0.insert(place.clone(), types);
        }
        Ok(self.0.get(&place).and_then(Option::as_ref))
    }
}

/// When, actor, role, reason, request.
fn circumstances(version: &Document) -> Vec<String> {
    let part = |object: &str, field: &str| {
        text_at(version, object, field).map_or_else(|| "-".to_owned(), str::to_owned)
    };
    vec![
        text_at(version, "when", "commit").map_or("-".into(), short),
        part("who", "actor"),
        part("who", "current_user"),
        part("why", "reason"),
        part("why", "request_id"),
    ]
}

/// Milliseconds are enough for people; the documents hold microseconds.
fn short(when: &str) -> String {
    when.replace('T', " ").chars().take(23).collect()
}

fn op(version: &Document) -> &str {
    version.get_str("op").unwrap_or("-")
}

fn look(version: &Document) -> Look {
    match op(version) {
        "create" => Look::New,
        "delete" | "truncate" | INFERRED_DELETE => Look::Gone,
        _ => Look::Plain,
    }
}

/// A timeline that looks whole may lack something.
fn say_what_is_missing(missing: Missing) {
    for text in missing.texts() {
        eprintln!("companion-sink: {text}");
    }
}

/// A later moment than the history has everything of is answered as of that one.
fn say_if_incomplete(table: &HistoryTable, moment: &Moment) {
    let complete = table.complete.as_ref();
    if let Some(complete) = complete.filter(|complete| moment.is_behind(complete)) {
        eprintln!(
            "companion-sink: the history is complete up to {}: the answer is as of then",
            complete.commit_time
        );
    }
}
