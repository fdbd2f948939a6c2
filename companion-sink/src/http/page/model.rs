//! Read models: the documents of views.

use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use mongodb::bson::{Bson, Document};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::page::layout::{PageAnswer, PageHead, Section, columns_of};
use crate::http::page::login::visitor::Visitor;
use crate::http::page::pages::Pages;
use crate::http::page::urls::{path_part, with_parameters};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::sink::mongo_view::plan::VERSION;
use crate::sink::mongo_view::reading::{AskedView, DocumentOrder};

const DOCUMENTS: usize = 50;
/// Fields beside `_id` that a list shows.
const COLUMNS_MAX: usize = 8;
const SHOWN_CHARS: usize = 80;

type AskedPages = Extract<Arc<Pages>>;

/// All views.
pub(crate) async fn list(Extract(pages): AskedPages, visitor: Visitor) -> PageAnswer {
    let mut shown = Vec::new();
    for name in pages.views.names() {
        let view = view(&pages, name).await?;
        shown.push(json!({
            "sink": name, "address": address(name), "collection": view.name(), "root": view.root,
            "count": view.count().await.ok(),
        }));
    }
    let head = PageHead::new(Section::Models, "Read models");
    let content = json!({ "views": shown });
    pages.page(visitor.logged_in.as_ref(), &head, "models.html", &content)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DocumentsParameters {
    /// `newest`, or `id`.
    order: String,
    after: Option<String>,
    /// Of one document, which is shown instead.
    id: String,
}

/// The documents of a view.
pub(crate) async fn documents(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Path(sink): Path<String>,
    Parameters(wanted): Parameters<DocumentsParameters>,
) -> PageAnswer {
    let view = view(&pages, &sink).await?;
    if !wanted.id.is_empty() {
        return one(&pages, &visitor, &sink, &view, wanted.id.trim()).await;
    }
    let order = match wanted.order.as_str() {
        "id" => DocumentOrder::Id,
        _ => DocumentOrder::Newest,
    };
    let page = view.page(order, wanted.after.as_deref(), DOCUMENTS).await?;
    let mut columns: Vec<&String> = Vec::new();
    for name in page.documents.iter().flat_map(Document::keys) {
        if !name.starts_with('_') && !columns.contains(&name) {
            columns.push(name);
        }
    }
    let left_out = columns.len().saturating_sub(COLUMNS_MAX);
    columns.truncate(COLUMNS_MAX);
    let cells: Vec<Vec<Value>> = page
        .documents
        .iter()
        .map(|document| {
            columns
                .iter()
                .map(|column| cell(document.get(*column)))
                .collect()
        })
        .collect();
    let rows = page.documents.iter().zip(&cells).map(|(document, cells)| {
        let id = id_text(document);
        json!({
            "id": id, "address": format!("{}/{}", address(&sink), path_part(&id)), "cells": cells,
            "refused": document.contains_key("_refused"),
        })
    });
    let rows: Vec<Value> = rows.collect();
    let next = page.next.as_ref().map(|next| {
        let parameters = [("order", wanted.order.as_str()), ("after", next)];
        with_parameters(&address(&sink), parameters)
    });
    let head = PageHead::new(Section::Models, sink.clone());
    let content = json!({
        "sink": sink, "address": address(&sink), "collection": view.name(), "root": view.root,
        "order": match order { DocumentOrder::Id => "id", DocumentOrder::Newest => "newest" },
        "count": view.count().await.ok(), "columns": columns_of(&columns, &cells), "left_out": left_out, "rows": rows, "next": next,
        "is_first": wanted.after.is_none(),
    });
    pages.page(visitor.logged_in.as_ref(), &head, "model.html", &content)
}

/// One document.
pub(crate) async fn document(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Path((sink, id)): Path<(String, String)>,
) -> PageAnswer {
    let view = view(&pages, &sink).await?;
    one(&pages, &visitor, &sink, &view, &id).await
}

async fn one(
    pages: &Pages,
    visitor: &Visitor,
    sink: &str,
    view: &AskedView,
    id: &str,
) -> PageAnswer {
    let document = view.find(id).await?;
    let document = document.ok_or_else(|| Problem::no_document(sink, id))?;
    let fields = document.iter().filter(|(name, _)| !name.starts_with('_'));
    let fields: Vec<Value> = fields
        .map(|(name, value)| {
            let json = value.clone().into_relaxed_extjson();
            let is_simple = !matches!(value, Bson::Document(_) | Bson::Array(_));
            let text = match is_simple {
                true => cell(Some(value))["text"].clone(),
                false => pretty(&json).into(),
            };
            json!({ "name": name, "text": text, "simple": is_simple, "null": json.is_null() })
        })
        .collect();
    let head = PageHead::new(Section::Models, id).below(sink, address(sink));
    let content = json!({
        "sink": sink, "id": id_text(&document), "fields": fields, "collection": view.name(),
        "version": document.get_str(VERSION).ok(),
        "refused": document.get("_refused").map(|refused| pretty(&refused.clone().into_relaxed_extjson())),
        "json": pretty(&crate::history::json(&document)),
    });
    pages.page(visitor.logged_in.as_ref(), &head, "document.html", &content)
}

async fn view(pages: &Pages, sink: &str) -> Result<AskedView, Problem> {
    let view = pages.views.open(sink).await?;
    view.ok_or_else(|| Problem::no_view(sink))
}

fn address(sink: &str) -> String {
    format!("/models/{}", path_part(sink))
}

fn id_text(document: &Document) -> String {
    match document.get("_id") {
        Some(Bson::String(text)) => text.clone(),
        Some(id) => id.clone().into_relaxed_extjson().to_string(),
        None => String::new(),
    }
}

/// JSON over several lines.
pub(crate) fn pretty(json: &Value) -> String {
    serde_json::to_string_pretty(json).unwrap_or_default()
}

/// A value in a few characters.
fn cell(value: Option<&Bson>) -> Value {
    let text = match value {
        None | Some(Bson::Null) => return json!({ "null": value.is_some() }),
        Some(Bson::String(text)) => text.clone(),
        Some(Bson::Array(items)) if items.len() == 1 => "1 item".to_owned(),
        Some(Bson::Array(items)) => format!("{} items", items.len()),
        Some(other) => other.clone().into_relaxed_extjson().to_string(),
    };
    let shortened = match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    json!({ "text": shortened })
}
