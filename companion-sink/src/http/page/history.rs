//! The tables that have a history, and the rows of one of them.

use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::response::{IntoResponse, Redirect, Response};
use mongodb::bson::Document;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::delivery::watermark::Complete;
use crate::error::misconfigured;
use crate::history::change_text::{change_text, key_text, marked, op_text, plain};
use crate::history::changes::ChangeSearch;
use crate::history::cursor::Cursor;
use crate::history::entity::Range;
use crate::history::moment::{Moment, time};
use crate::history::rows::Rows;
use crate::history::table::{HistoryTable, several};
use crate::history::{mark, state, text_at};
use crate::http::page::layout::{PageAnswer, PageHead, Section, columns_of};
use crate::http::page::login::visitor::Visitor;
use crate::http::page::pages::Pages;
use crate::http::page::urls::{path_part, with_parameters};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::timestamp::{now_us, rfc3339};

const ROWS: usize = 50;
/// Rows that are looked at for those that a condition lets through.
const LOOKED_AT_MAX: usize = 20_000;

type AskedPages = Extract<Arc<Pages>>;

/// All tables.
pub(crate) async fn tables(Extract(pages): AskedPages, visitor: Visitor) -> PageAnswer {
    let tables = pages.histories.tables(None).await?;
    let mut shown = Vec::with_capacity(tables.len());
    for table in &tables {
        // Only about: counting them all takes as long as there are documents.
        let count = table.collection.estimated_document_count().await;
        shown.push(json!({
            "name": table.name,
            "address": address(table),
            "key": table.key_columns.join(", "),
            "changes": count.ok(),
            "complete_up_to": table.complete.as_ref().map(Complete::json),
        }));
    }
    let head = PageHead::new(Section::History, "History");
    let content = json!({ "tables": shown });
    pages.page(visitor.logged_in.as_ref(), &head, "tables.html", &content)
}

/// Which rows or changes are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RowsParameters {
    /// `rows`, or `changes`.
    show: String,
    /// `column=value`
    r#where: String,
    actor: String,
    /// Of rows: as they were then.
    at: String,
    since: String,
    until: String,
    after: String,
    /// Of one row, whose page is shown instead.
    key: String,
}

impl RowsParameters {
    fn address(&self, table: &HistoryTable, after: &str) -> String {
        with_parameters(
            &address(table),
            [
                ("show", self.show.as_str()),
                ("where", &self.r#where),
                ("actor", &self.actor),
                ("at", &self.at),
                ("since", &self.since),
                ("until", &self.until),
                ("after", after),
            ],
        )
    }
}

/// The rows of a table, or its changes.
pub(crate) async fn rows(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Path(name): Path<String>,
    Parameters(wanted): Parameters<RowsParameters>,
) -> Result<Response, Problem> {
    let table = one_table(&pages, &name).await?;
    let key = wanted.key.trim();
    if !key.is_empty() {
        let row = format!("{}/{}", address(&table), path_part(key));
        return Ok(Redirect::to(&row).into_response());
    }
    // Rows without a key have no history of their own.
    let shows_changes = wanted.show == "changes" || table.key_columns.is_empty();
    let mut content = match shows_changes {
        true => found_changes(&table, &wanted).await?,
        false => found_rows(&table, &wanted).await?,
    };
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    content["table"] = table.name.as_str().into();
    content["has_key"] = (!table.key_columns.is_empty()).into();
    content["address"] = address(&table).into();
    content["where"] = given(&wanted.r#where).into();
    content["actor"] = given(&wanted.actor).into();
    content["at"] = given(&wanted.at).into();
    content["since"] = given(&wanted.since).into();
    content["until"] = given(&wanted.until).into();
    content["after"] = given(&wanted.after).into();
    content["complete_up_to"] = table.complete.as_ref().map(Complete::json).into();
    let head = PageHead::new(Section::History, table.name.clone());
    let page = pages.page(visitor.logged_in.as_ref(), &head, "table.html", &content);
    Ok(page?.into_response())
}

/// The table of a name that only one has.
pub(crate) async fn one_table(pages: &Pages, name: &str) -> Result<HistoryTable, Problem> {
    let mut tables = pages.histories.tables(Some(name)).await?;
    match (tables.pop(), tables.is_empty()) {
        (None, _) => Err(Problem::not_found(name)),
        (Some(table), true) => Ok(table),
        (Some(table), false) => {
            tables.push(table);
            Err(several(&tables, name).into())
        }
    }
}

/// Where the page of a table is.
pub(crate) fn address(table: &HistoryTable) -> String {
    format!("/history/{}", path_part(&table.name))
}

/// Where the page of a row is; none where its table has no key.
pub(crate) fn entity_address(table: &HistoryTable, version: &Document) -> Option<String> {
    let key = version
        .get_document("key")
        .ok()
        .filter(|key| !key.is_empty())?;
    let mut values = key.iter().map(|(_, value)| value);
    let key_text = match (values.next(), values.next()) {
        // A whole number is never taken for anything else.
        (Some(number @ (mongodb::bson::Bson::Int32(_) | mongodb::bson::Bson::Int64(_))), None) => {
            plain(number)
        }
        _ => crate::history::json(key).to_string(),
    };
    Some(format!("{}/{}", address(table), path_part(&key_text)))
}

async fn found_rows(table: &HistoryTable, wanted: &RowsParameters) -> Result<Value, Problem> {
    let moment = match wanted.at.as_str() {
        "" => rfc3339(now_us()),
        at => time(at)?,
    };
    let condition = condition(&wanted.r#where)?;
    let after = Some(wanted.after.as_str()).filter(|after| !after.is_empty());
    let mut rows = Rows::at(table, &Moment::Time(moment), after).await?;
    let (mut found, mut next, mut looked_at) = (Vec::new(), None, 0);
    while let Some(row) = rows.next().await? {
        looked_at += 1;
        let place = row.get_str("entity").unwrap_or_default().to_owned();
        if condition.is_none_or(|(column, value)| has_value(&row, column, value)) {
            found.push(row);
        }
        if found.len() == ROWS || looked_at == LOOKED_AT_MAX {
            next = Some(wanted.address(table, &place));
            break;
        }
    }
    let mut columns: Vec<&String> = Vec::new();
    for name in found.iter().filter_map(state).flat_map(Document::keys) {
        if !columns.contains(&name) && !table.key_columns.contains(name) {
            columns.push(name);
        }
    }
    let cells: Vec<Vec<Value>> = found
        .iter()
        .map(|row| columns.iter().map(|column| cell(row, column)).collect())
        .collect();
    let shown = found.iter().zip(&cells).map(|(row, cells)| {
        json!({
            "key": key_text(row), "address": entity_address(table, row), "cells": cells,
            "time": text_at(row, "when", "effective"),
        })
    });
    let shown: Vec<Value> = shown.collect();
    Ok(json!({
        "show": "rows", "columns": columns_of(&columns, &cells), "rows": shown, "next": next,
        "looked_at": (looked_at == LOOKED_AT_MAX).then_some(looked_at),
    }))
}

/// `column=value`
fn condition(text: &str) -> Result<Option<(&str, &str)>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts = text
        .split_once('=')
        .map(|(column, value)| (column.trim(), value.trim()));
    let parts = parts.ok_or_else(|| {
        misconfigured(
            format!("\"{text}\" is no condition"),
            "Write column=value, such as city=Bern.",
        )
    })?;
    Ok(Some(parts))
}

fn has_value(row: &Document, column: &str, value: &str) -> bool {
    let found = state(row).and_then(|state| state.get(column));
    found.is_some_and(|found| plain(found) == value)
}

/// A column of a version, for people.
pub(crate) fn cell(version: &Document, column: &str) -> Value {
    let value = state(version).and_then(|state| state.get(column));
    let Some(value) = value else {
        return Value::Null;
    };
    let mark = mark(version, column);
    let text = marked(plain(value), mark);
    let is_null = mark.is_none() && matches!(value, mongodb::bson::Bson::Null);
    json!({ "text": text, "null": is_null, "mark": mark })
}

async fn found_changes(table: &HistoryTable, wanted: &RowsParameters) -> Result<Value, Problem> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let range = Range::of_times(
        given(&wanted.since).as_deref(),
        given(&wanted.until).as_deref(),
    )?;
    let is_newest = wanted.after.is_empty();
    let search = ChangeSearch {
        actor: given(&wanted.actor),
        values: given(&wanted.r#where).into_iter().collect(),
        range: Range {
            after: match wanted.after.as_str() {
                "" => None,
                // Of no document: everything is behind it.
                "beginning" => Some(Cursor::default()),
                after => Some(Cursor::parse(after)),
            },
            limit: u32::try_from(ROWS).ok(),
            ..range
        },
        ..ChangeSearch::default()
    };
    let tables = std::slice::from_ref(table);
    let mut found = search.run(tables).await?;
    let last = found.last().filter(|_| found.len() == ROWS && !is_newest);
    let last = last.map(|last| {
        let text = |field| last.document.get_str(field).unwrap_or_default();
        wanted.address(table, &Cursor::text(text("version"), text("_id")))
    });
    if is_newest {
        found.reverse();
    }
    let mut shown = Vec::with_capacity(found.len());
    for change in &found {
        let version = &change.document;
        let types = table.types(version).await?;
        let mut row = change_json(version, &change_text(version, types.as_ref()));
        row["key"] = key_text(version).into();
        row["address"] = entity_address(table, version).into();
        shown.push(row);
    }
    let beginning = is_newest.then(|| wanted.address(table, "beginning"));
    Ok(json!({ "show": "changes", "changes": shown, "next": last, "beginning": beginning }))
}

/// Who, what, when, why.
pub(crate) fn change_json(version: &Document, what: &str) -> Value {
    let op = op_text(version);
    let look = match version.get_str("op") {
        Ok("create" | "read") => "new",
        Ok("update") => "change",
        _ => "gone",
    };
    json!({
        "op": op, "look": look, "what": what,
        "time": text_at(version, "when", "effective"),
        "actor": text_at(version, "who", "actor"),
        "role": text_at(version, "who", "current_user"),
        "reason": text_at(version, "why", "reason"),
        "request_id": text_at(version, "why", "request_id"),
        "transaction": text_at(version, "transaction", "id"),
    })
}
