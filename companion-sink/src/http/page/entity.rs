//! One row: its timeline, what it was at any of its versions, what differs between two, and who gave each column its value.

use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::response::Html;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::history::blame::blame;
use crate::history::change_text::marked;
use crate::history::change_text::{change_text, key_text, side_text, value_text};
use crate::history::cursor::Cursor;
use crate::history::difference::difference;
use crate::history::entity::{Entity, Range, Version};
use crate::history::moment::Moment;
use crate::history::table::HistoryTable;
use crate::history::{edited, mark, state, text_at};
use crate::http::page::history::{address, change_json, one_table};
use crate::http::page::layout::{PageAnswer, PageHead, Section, fragment};
use crate::http::page::login::visitor::Visitor;
use crate::http::page::pages::Pages;
use crate::http::page::urls::{path_part, with_parameters};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;

const VERSIONS: u32 = 50;
/// All of them are in memory at once.
const BLAMED_MAX: u64 = 2000;

/// What of a row is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EntityParameters {
    /// As it was at this one; without it at the newest.
    version: Option<u64>,
    /// Compared with this one; without it with the one before.
    from: Option<u64>,
    /// Of the timeline: behind this place; without it the newest.
    after: String,
    /// `as-of`: only what the slider changes.
    part: String,
}

/// The page of a row.
pub(crate) async fn page(
    Extract(pages): Extract<Arc<Pages>>,
    visitor: Visitor,
    Path((name, key)): Path<(String, String)>,
    Parameters(wanted): Parameters<EntityParameters>,
) -> PageAnswer {
    let table = one_table(&pages, &name).await?;
    let entity = Entity::of_key(&table, &key).await?;
    let entity = entity.ok_or_else(|| Problem::not_found(&format!("{name} {key}")))?;
    let count = entity.version_count().await?;
    let path = format!("{}/{}", address(&table), path_part(&key));
    let mut content = as_of(&entity, &wanted, count).await?;
    content["address"] = path.as_str().into();
    if wanted.part == "as-of" {
        return fragment("as_of.html", &content).map(Html);
    }
    let newest = entity.newest().await?;
    let key_told = newest
        .as_ref()
        .and_then(|newest| key_text(&newest.document));
    let key_told = key_told.unwrap_or_else(|| key.clone());
    content["timeline"] = timeline(&entity, &wanted, &path).await?;
    content["blame"] = blamed(&entity, count).await?;
    content["missing"] = entity.missing().await?.texts().into();
    content["key"] = key_told.as_str().into();
    content["table"] = table.name.as_str().into();
    content["gone"] = newest
        .is_some_and(|newest| state(&newest.document).is_none())
        .into();
    let head = PageHead::new(Section::History, key_told).below(table.name.clone(), address(&table));
    pages.page(visitor.logged_in.as_ref(), &head, "entity.html", &content)
}

/// The row at a version, and what differs from another one.
async fn as_of(entity: &Entity, wanted: &EntityParameters, count: u64) -> Result<Value, Problem> {
    let number = wanted.version.unwrap_or(count).clamp(1, count.max(1));
    let from = wanted.from.unwrap_or(number.saturating_sub(1)).min(count);
    let version = entity.at(&Moment::Number(number)).await?;
    let version = version.ok_or_else(|| Problem::not_found(&format!("version {number}")))?;
    let document = &version.document;
    let types = entity.table().types(document).await?;
    let before = entity.at(&Moment::Number(from)).await?;
    let nothing = mongodb::bson::Document::new();
    let before_document = before.as_ref().map_or(&nothing, |before| &before.document);
    let differences = difference(before_document, document);
    let differences: Vec<Value> = differences
        .iter()
        .map(|one| {
            let text = |side| side_text(&one.column, side, types.as_ref());
            json!({ "column": one.column, "from": text(&one.from), "to": text(&one.to) })
        })
        .collect();
    let columns = state(document).into_iter().flatten();
    let columns: Vec<Value> = columns
        .map(|(column, value)| {
            let text = marked(
                value_text(column, value, types.as_ref()),
                mark(document, column),
            );
            let is_changed = differences
                .iter()
                .any(|one| one["column"] == column.as_str());
            json!({ "column": column, "text": text, "changed": is_changed })
        })
        .collect();
    let mut change = change_json(document, "");
    change["edited_by"] = edited(document)
        .and_then(|edited| edited.get_str("by").ok())
        .into();
    Ok(json!({
        "number": number, "count": count, "from": from, "chosen_from": wanted.from,
        "change": change, "columns": columns, "differences": differences,
        "gone": state(document).is_none(),
    }))
}

async fn timeline(
    entity: &Entity,
    wanted: &EntityParameters,
    path: &str,
) -> Result<Value, Problem> {
    let is_newest = wanted.after.is_empty();
    let range = Range {
        after: match wanted.after.as_str() {
            "" => None,
            // Of no document: everything is behind it.
            "beginning" => Some(Cursor::default()),
            after => Some(Cursor::parse(after)),
        },
        limit: Some(VERSIONS),
        ..Range::default()
    };
    let mut versions = entity.versions(&range).await?;
    let is_full = versions.len() == VERSIONS as usize;
    let last = versions.last().filter(|_| is_full && !is_newest);
    let next = last.map(|last| {
        let text = |field| last.document.get_str(field).unwrap_or_default();
        let cursor = Cursor::text(text("version"), text("_id"));
        with_parameters(path, [("after", cursor.as_str())])
    });
    let has_older = is_newest && versions.first().is_some_and(|first| first.number > 1);
    if is_newest {
        versions.reverse();
    }
    let mut shown = Vec::with_capacity(versions.len());
    for version in &versions {
        shown.push(told(entity.table(), version, path).await?);
    }
    let beginning = has_older.then(|| with_parameters(path, [("after", "beginning")]));
    Ok(json!({ "versions": shown, "next": next, "beginning": beginning }))
}

async fn told(table: &HistoryTable, version: &Version, path: &str) -> Result<Value, Problem> {
    let types = table.types(&version.document).await?;
    let what = change_text(&version.document, types.as_ref());
    let mut told = change_json(&version.document, &what);
    let number = version.number.to_string();
    told["number"] = version.number.into();
    told["address"] = with_parameters(path, [("version", number.as_str())]).into();
    Ok(told)
}

/// Who gave each column its value; nothing of a row that has too many versions.
async fn blamed(entity: &Entity, count: u64) -> Result<Value, Problem> {
    if count > BLAMED_MAX {
        return Ok(json!({ "too_many": count }));
    }
    let versions = entity.versions(&Range::default()).await?;
    let types = match versions.last() {
        Some(newest) => entity.table().types(&newest.document).await?,
        None => None,
    };
    let columns = blame(&versions).into_iter().map(|one| {
        let document = &one.version.document;
        let text = value_text(one.column, one.value(), types.as_ref());
        json!({
            "column": one.column, "text": marked(text, mark(document, one.column)), "number": one.version.number,
            "actor": text_at(document, "who", "actor"), "role": text_at(document, "who", "current_user"),
            "reason": text_at(document, "why", "reason"), "time": text_at(document, "when", "effective"),
        })
    });
    Ok(json!({ "columns": columns.collect::<Vec<_>>() }))
}
