//! Documents of the read models, as answers have them.

use axum::http::StatusCode;
use futures_util::TryStreamExt;
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use serde_json::{Value, json};
use service::problem::Problem;

const LIMIT: i64 = 100;
const LIMIT_MAX: i64 = 1000;

/// Which page of a list: `?after=…&limit=…`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// The `next` of the page before.
    after: Option<String>,
    limit: Option<i64>,
}

/// The document of a collection that has this `_id`.
pub(crate) async fn one(
    database: &Database,
    collection: &str,
    what: &str,
    id: i64,
) -> Result<Value, Problem> {
    let documents = database.collection::<Document>(collection);
    let found = documents.find_one(doc! { "_id": id }).await;
    let found = found.map_err(|error| unavailable(&error))?;
    let missing = || Problem::not_found(format!("there is no {what} {id}, or it is not here yet"));
    found.map(shown).ok_or_else(missing)
}

/// A page of the documents of a collection that `filter` finds, in the order of their `_id`: `{collection: […], "next": …}`.
pub(crate) async fn page(
    database: &Database,
    collection: &str,
    mut filter: Document,
    page: &Page,
) -> Result<Value, Problem> {
    if let Some(after) = &page.after {
        // An `_id` is a number, but for a sale.
        let after = after.parse().map_or(Bson::from(after), Bson::Int64);
        filter.insert("_id", doc! { "$gt": after });
    }
    let limit = page.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let what = format!("limit is a number from 1 to {LIMIT_MAX}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, what));
    }
    let mut found = all(
        database,
        collection,
        filter,
        doc! { "_id": 1 },
        Some(limit + 1),
    )
    .await?;
    let limit = usize::try_from(limit).unwrap_or_default();
    let has_more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().and_then(|document| document.get("_id"));
    let next = last.filter(|_| has_more).map(|id| match id {
        Bson::String(id) => id.clone(),
        id => id.to_string(),
    });
    let found: Vec<Value> = found.into_iter().map(shown).collect();
    Ok(json!({ collection: found, "next": next }))
}

/// Documents of a collection.
pub(crate) async fn all(
    database: &Database,
    collection: &str,
    filter: Document,
    order: Document,
    limit: Option<i64>,
) -> Result<Vec<Document>, Problem> {
    let documents = database.collection::<Document>(collection);
    let mut find = documents.find(filter).sort(order);
    if let Some(limit) = limit {
        find = find.limit(limit);
    }
    let found = find.await.map_err(|error| unavailable(&error))?;
    found
        .try_collect()
        .await
        .map_err(|error| unavailable(&error))
}

fn unavailable(error: &mongodb::error::Error) -> Problem {
    Problem::unavailable("MongoDB", error)
}

/// A document without what is the view's own.
pub(crate) fn shown(mut document: Document) -> Value {
    document.remove("_id");
    document.remove("_version");
    plain(Bson::Document(document).into_relaxed_extjson())
}

/// A server that allows no names in `$` has `＄ref` for `$ref`.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name.replace('\u{ff04}', "$"), plain(value)))
                    .collect(),
            )
        }
        Value::Array(values) => Value::Array(values.into_iter().map(plain).collect()),
        value => value,
    }
}
