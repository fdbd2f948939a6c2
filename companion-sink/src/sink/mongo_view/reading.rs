//! The documents of views, for people.

use std::collections::BTreeMap;

use change::trouble::Trouble;
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Collection, Database};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::config::shown_url::Url;
use crate::config::{Kind, Loaded};
use crate::error::{Result, misconfigured};
use crate::history::changes::forms;
use crate::sink::mongo_history;
use crate::sink::mongo_history::failure::classify;
use crate::sink::mongo_view::names::collection;
use crate::sink::mongo_view::plan::VERSION;

/// The views that are configured, by their sinks.
pub(crate) struct Views(BTreeMap<String, ViewPlace>);

struct ViewPlace {
    url: Url,
    database: String,
    collection: String,
    root: String,
    /// Made when it is first asked.
    connection: OnceCell<Database>,
}

/// Which documents come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DocumentOrder {
    /// Those that were written last.
    Newest,
    /// By `_id`.
    Id,
}

/// The documents of a view.
pub(crate) struct AskedView {
    documents: Collection<Document>,
    /// The source's table of its roots.
    pub(crate) root: String,
}

/// Some of them.
pub(crate) struct DocumentPage {
    pub(crate) documents: Vec<Document>,
    /// Where the next ones begin; none where there are no more.
    pub(crate) next: Option<String>,
}

impl Views {
    /// Those of the configuration.
    pub(crate) fn new(config: &Loaded) -> Views {
        let sinks = config.sinks.iter();
        let views = sinks.filter_map(|(name, sink)| match &sink.kind {
            Kind::MongoView(settings) => {
                let place = ViewPlace {
                    url: sink.url.clone(),
                    database: settings.database.clone(),
                    collection: collection(name, settings),
                    root: settings.root.clone(),
                    connection: OnceCell::new(),
                };
                Some((name.clone(), place))
            }
            Kind::MongoHistory(_)
            | Kind::Postgres(_)
            | Kind::Webhook(_)
            | Kind::Mail(_)
            | Kind::Statistics(_) => None,
        });
        Views(views.collect())
    }

    /// Their sinks.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The view of a sink; none where there is no such sink.
    pub(crate) async fn open(&self, sink: &str) -> Result<Option<AskedView>> {
        let Some(place) = self.0.get(sink) else {
            return Ok(None);
        };
        let connect = || mongo_history::connect(place.url.reveal(), &place.database);
        let database = place.connection.get_or_try_init(connect).await?;
        Ok(Some(AskedView {
            documents: database.collection(&place.collection),
            root: place.root.clone(),
        }))
    }
}

impl AskedView {
    /// Its collection's name.
    pub(crate) fn name(&self) -> &str {
        self.documents.name()
    }

    /// How many documents there are, about.
    pub(crate) async fn count(&self) -> Result<u64> {
        let count = self.documents.estimated_document_count().await;
        count.map_err(failed)
    }

    /// Some of the documents, behind a place.
    pub(crate) async fn page(
        &self,
        order: DocumentOrder,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DocumentPage> {
        let after = after.map(|after| place_of(order, after)).transpose()?;
        let sort = match order {
            DocumentOrder::Newest => doc! { VERSION: -1, "_id": -1 },
            DocumentOrder::Id => doc! { "_id": 1 },
        };
        let found = self
            .documents
            .find(after.unwrap_or_default())
            .sort(sort)
            // One more tells whether there are more.
            .limit(limit as i64 + 1)
            .await
            .map_err(failed)?;
        let mut documents: Vec<Document> = found.try_collect().await.map_err(failed)?;
        let has_more = documents.len() > limit;
        documents.truncate(limit);
        let last = documents.last().filter(|_| has_more);
        let next = last.map(|last| {
            let part = |name| last.get(name).cloned().unwrap_or(Bson::Null);
            let parts = [part(VERSION), part("_id")];
            Value::from_iter(parts.map(Bson::into_canonical_extjson)).to_string()
        });
        Ok(DocumentPage { documents, next })
    }

    /// The document of an `_id` that somebody typed: a number, a text, or an object in JSON.
    pub(crate) async fn find(&self, id: &str) -> Result<Option<Document>> {
        let mut ids = forms(id);
        if let Ok(json @ Value::Object(_)) = serde_json::from_str::<Value>(id)
            && let Ok(object) = Bson::try_from(json)
        {
            ids.push(object);
        }
        let found = self
            .documents
            .find_one(doc! { "_id": { "$in": ids } })
            .await;
        found.map_err(failed)
    }
}

/// What finds the documents behind a place.
fn place_of(order: DocumentOrder, after: &str) -> Result<Document> {
    let wrong = || {
        misconfigured(
            "\"after\" is no place in the list",
            "Follow the link of the page before.",
        )
    };
    let parts: [Value; 2] = serde_json::from_str(after).map_err(|_| wrong())?;
    let [version, id] = parts.map(Bson::try_from);
    let (version, id) = (version.map_err(|_| wrong())?, id.map_err(|_| wrong())?);
    Ok(match order {
        DocumentOrder::Id => doc! { "_id": { "$gt": id } },
        DocumentOrder::Newest => doc! { "$or": [
            { VERSION: { "$lt": version.clone() } },
            { VERSION: version, "_id": { "$lt": id } },
        ] },
    })
}

fn failed(error: mongodb::error::Error) -> Trouble {
    classify("reading the view", &error)
}
