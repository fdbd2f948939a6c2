//! The questions of `crate::history` over HTTP.

use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::routing::get;
use axum::{Json, Router};
use change::trouble::Trouble;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::delivery::watermark::Complete;
use crate::error::misconfigured;
use crate::history::blame::blame;
use crate::history::changes::ChangeSearch;
use crate::history::cursor::Cursor;
use crate::history::difference::difference;
use crate::history::entity::find;
use crate::history::entity::{Entity, Range};
use crate::history::moment;
use crate::history::moment::Moment;
use crate::history::restore::restore;
use crate::history::rows::{Rows, row_json};
use crate::history::table::Histories;
use crate::history::table::several;
use crate::history::{edited, json, marks, state};
use crate::http::parameters::Parameters;
use crate::http::problem::{JsonAnswer, Problem};

const LIMIT: u32 = 100;
const LIMIT_MAX: u32 = 1000;
/// All of them are in memory at once.
const BLAMED_MAX: u32 = 5000;

type AskedHistories = Extract<Arc<Histories>>;
type RowPath = Path<(String, String)>;

/// Everything below `/v1` that asks the history.
pub(crate) fn router(histories: Arc<Histories>) -> Router {
    Router::new()
        .route("/v1/history/{table}", get(table_changes))
        .route("/v1/history/{table}/at", get(table_at))
        .route("/v1/history/{table}/{key}", get(timeline))
        .route("/v1/history/{table}/{key}/at", get(row_at))
        .route("/v1/history/{table}/{key}/diff", get(row_diff))
        .route("/v1/history/{table}/{key}/blame", get(row_blame))
        .route("/v1/history/{table}/{key}/restore", get(row_restore))
        .route("/v1/transactions/{id}", get(transaction))
        .route("/v1/actors/{actor}", get(actor))
        .route("/v1/requests/{id}", get(request))
        .with_state(histories)
}

/// So many of an answer, of what was asked for.
pub(crate) fn limit_of(wanted: Option<u32>) -> u32 {
    wanted.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)
}

/// Which part of an answer is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HistoryPage {
    since: Option<String>,
    until: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
    /// Of changes of a table: `column=value`.
    r#where: Option<String>,
}

impl HistoryPage {
    fn limit(&self) -> u32 {
        limit_of(self.limit)
    }

    fn range(&self) -> Result<Range, Trouble> {
        Ok(Range {
            after: Some(Cursor::parse(self.after.as_deref().unwrap_or_default())),
            limit: Some(self.limit()),
            ..Range::of_times(self.since.as_deref(), self.until.as_deref())?
        })
    }

    /// What to ask for next; none where there were fewer documents than asked for.
    fn next(&self, documents: &[Value]) -> Value {
        let last = documents
            .last()
            .filter(|_| documents.len() >= self.limit() as usize);
        let place = last.and_then(|last| Some((last["version"].as_str()?, last["_id"].as_str()?)));
        place.map_or(Value::Null, |(version, id)| {
            Cursor::text(version, id).into()
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct When {
    time: Option<String>,
    version: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
}

impl When {
    fn moment(&self) -> Result<Moment, Trouble> {
        match (&self.time, &self.version) {
            (Some(time), None) => moment::time(time).map(Moment::Time),
            (None, Some(version)) => Moment::parse(version),
            _ => Err(misconfigured(
                "time or version is missing, or both are there",
                "Ask with ?time=2026-11-21T10:40:00Z or ?version=3.",
            )),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Between {
    from: String,
    to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AtParameters {
    version: String,
}

async fn entity(histories: &Histories, table: &str, key: &str) -> Result<Entity, Problem> {
    let tables = histories.tables(Some(table)).await?;
    let found = find(&tables, key).await?;
    found.ok_or_else(|| Problem::not_found(&format!("{table} {key}")))
}

async fn timeline(
    Extract(histories): AskedHistories,
    Path((table, key)): RowPath,
    Parameters(page): Parameters<HistoryPage>,
) -> JsonAnswer {
    let entity = entity(&histories, &table, &key).await?;
    let versions = entity.versions(&page.range()?).await?;
    let versions: Vec<Value> = versions.iter().map(|version| version.json()).collect();
    let next = page.next(&versions);
    let missing = entity.missing().await?;
    Ok(Json(json!({
        "refused": missing.refused,
        "behind": missing.behind,
        "skipped": missing.skipped,
        "table": entity.table().name,
        "key": versions.iter().map(|version| &version["key"]).find(|key| !key.is_null()),
        "versions": versions,
        "next": next,
        "complete_up_to": entity.table().complete.as_ref().map(Complete::json),
    })))
}

async fn row_at(
    Extract(histories): AskedHistories,
    Path((table, key)): RowPath,
    Parameters(when): Parameters<When>,
) -> JsonAnswer {
    let moment = when.moment()?;
    let entity = entity(&histories, &table, &key).await?;
    let version = entity.at(&moment).await?;
    let version =
        version.ok_or_else(|| Problem::not_found(&format!("{table} {key} at that moment")))?;
    Ok(Json(json!({
        "version": version.number,
        "state": state(&version.document).map(json),
        "marks": marks(&version.document).map(json),
        "edited": edited(&version.document).map(json),
        "complete_up_to": entity.table().complete.as_ref().map(Complete::json),
    })))
}

async fn table_at(
    Extract(histories): AskedHistories,
    Path(table): Path<String>,
    Parameters(when): Parameters<When>,
) -> JsonAnswer {
    let moment = when.moment()?;
    let tables = histories.tables(Some(&table)).await?;
    let found = match tables.as_slice() {
        [] => return Err(Problem::not_found(&table)),
        [found] => found,
        _ => return Err(several(&tables, &table).into()),
    };
    let limit = limit_of(when.limit) as usize;
    let mut rows = Rows::at(found, &moment, when.after.as_deref()).await?;
    let mut page = Vec::new();
    let mut next = Value::Null;
    while let Some(row) = rows.next().await? {
        page.push(row_json(&row));
        if page.len() == limit {
            next = row.get_str("entity").unwrap_or_default().into();
            break;
        }
    }
    Ok(Json(json!({
        "table": found.name,
        "rows": page,
        "next": next,
        "complete_up_to": found.complete.as_ref().map(Complete::json),
    })))
}

async fn row_diff(
    Extract(histories): AskedHistories,
    Path((table, key)): RowPath,
    Parameters(between): Parameters<Between>,
) -> JsonAnswer {
    let (from, to) = (Moment::parse(&between.from)?, Moment::parse(&between.to)?);
    let entity = entity(&histories, &table, &key).await?;
    let (Some(from), Some(to)) = (entity.at(&from).await?, entity.at(&to).await?) else {
        return Err(Problem::not_found(&format!("{table} {key} at that moment")));
    };
    let differences = difference(&from.document, &to.document);
    Ok(Json(differences.iter().map(|one| one.json()).collect()))
}

async fn row_blame(Extract(histories): AskedHistories, Path((table, key)): RowPath) -> JsonAnswer {
    let entity = entity(&histories, &table, &key).await?;
    let range = Range {
        limit: Some(BLAMED_MAX),
        ..Range::default()
    };
    let versions = entity.versions(&range).await?;
    if versions.len() >= BLAMED_MAX as usize {
        return Err(misconfigured(
            format!("{table} {key} has {BLAMED_MAX} versions or more"),
            "Ask the command line: companion-sink history TABLE KEY --blame.",
        )
        .into());
    }
    let blamed = blame(&versions);
    let columns: Map<String, Value> = blamed
        .iter()
        .map(|blamed| {
            let mut value = blamed.json();
            if let Value::Object(object) = &mut value {
                object.remove("column");
            }
            (blamed.column.to_owned(), value)
        })
        .collect();
    Ok(Json(Value::Object(columns)))
}

async fn row_restore(
    Extract(histories): AskedHistories,
    Path((table, key)): RowPath,
    Parameters(wanted): Parameters<AtParameters>,
) -> JsonAnswer {
    let moment = Moment::parse(&wanted.version)?;
    let entity = entity(&histories, &table, &key).await?;
    let sql = restore(&entity, &moment).await?;
    let sql = sql.ok_or_else(|| Problem::not_found(&format!("{table} {key} at that moment")))?;
    Ok(Json(json!({ "sql": sql })))
}

async fn table_changes(
    histories: AskedHistories,
    Path(table): Path<String>,
    Parameters(page): Parameters<HistoryPage>,
) -> JsonAnswer {
    let values = page.r#where.iter().cloned().collect();
    let search = ChangeSearch {
        values,
        ..ChangeSearch::default()
    };
    changes(histories, Some(&table), search, page).await
}

async fn transaction(
    histories: AskedHistories,
    Path(id): Path<String>,
    Parameters(page): Parameters<HistoryPage>,
) -> JsonAnswer {
    let search = ChangeSearch {
        transaction: Some(id),
        ..ChangeSearch::default()
    };
    changes(histories, None, search, page).await
}

async fn actor(
    histories: AskedHistories,
    Path(actor): Path<String>,
    Parameters(page): Parameters<HistoryPage>,
) -> JsonAnswer {
    let search = ChangeSearch {
        actor: Some(actor),
        ..ChangeSearch::default()
    };
    changes(histories, None, search, page).await
}

async fn request(
    histories: AskedHistories,
    Path(id): Path<String>,
    Parameters(page): Parameters<HistoryPage>,
) -> JsonAnswer {
    let search = ChangeSearch {
        request_id: Some(id),
        ..ChangeSearch::default()
    };
    changes(histories, None, search, page).await
}

/// Changes in the order in which they were committed; none at all is an empty list.
async fn changes(
    Extract(histories): AskedHistories,
    table: Option<&str>,
    search: ChangeSearch,
    page: HistoryPage,
) -> JsonAnswer {
    let search = ChangeSearch {
        range: page.range()?,
        ..search
    };
    let tables = histories.tables(table).await?;
    if let (Some(table), true) = (table, tables.is_empty()) {
        return Err(Problem::not_found(table));
    }
    let found = search.run(&tables).await?;
    let changes: Vec<Value> = found.iter().map(|change| json(&change.document)).collect();
    let next = page.next(&changes);
    let complete = tables.iter().filter_map(|table| table.complete.as_ref());
    let complete = complete.min_by(|one, other| one.version.cmp(&other.version));
    Ok(Json(json!({
        "changes": changes,
        "next": next,
        "complete_up_to": complete.map(Complete::json),
    })))
}
