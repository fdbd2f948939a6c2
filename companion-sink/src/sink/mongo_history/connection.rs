//! The connection to the database of a history, and what is made there.

use std::time::Duration;

use change::trouble::Trouble;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{
    Acknowledgment, ClientOptions, DatabaseOptions, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};

use crate::error::{Result, misconfigured};
use crate::sink::mongo_history::failure::{classify, is_missing_collection, refused_collection};
use crate::sink::mongo_history::write::insert::collection_refused;

const SELECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the database of a history.
pub(crate) async fn connect(url: &str, database: &str) -> Result<Database> {
    let mut options = ClientOptions::parse(url).await.map_err(|error| {
        // The driver's text may quote the URL, and with it the password; of a name that it does not find it holds that.
        match error.kind.as_ref() {
            ErrorKind::DnsResolve { .. } => classify("looking the url's name up", &error),
            _ => misconfigured(
                "mongodb: the driver does not take the url for a connection string",
                "Write mongodb://user:password@host:port/, with other characters than letters and digits of the password percent-encoded.",
            ),
        }
    })?;
    options
        .app_name
        .get_or_insert_with(|| "companion-sink".into());
    options
        .server_selection_timeout
        .get_or_insert(SELECTION_TIMEOUT);
    options.connect_timeout.get_or_insert(SELECTION_TIMEOUT);
    options.write_concern = Some(durable());
    let client = Client::with_options(options).map_err(|error| classify("connecting", &error))?;
    let database = client.database(database);
    database
        .run_command(doc! { "ping": 1 })
        .await
        .map_err(|error| classify("connecting", &error))?;
    Ok(database)
}

/// As [`connect`], for what a secondary may not have yet.
pub(crate) async fn connect_to_primary(url: &str, database: &str) -> Result<Database> {
    let database = connect(url, database).await?;
    let options = DatabaseOptions::builder()
        .selection_criteria(SelectionCriteria::from(ReadPreference::Primary))
        .build();
    Ok(database
        .client()
        .database_with_options(database.name(), options))
}

/// Acknowledged means on disk at a majority: the offset moves after it.
pub(crate) fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

/// Makes the indexes that are missing. (Not all servers take it well to be asked for one that is there.)
pub(crate) async fn make_indexes<T: Send + Sync>(
    collection: &Collection<T>,
    indexes: &[&[&str]],
) -> Result<()> {
    let there = match collection.list_index_names().await {
        Ok(names) => names,
        // The collection is not there yet.
        Err(error) if is_missing_collection(&error) => Vec::new(),
        Err(error) => return Err(failed(collection, "reading the indexes", &error)),
    };
    let missing = indexes.iter().filter_map(|fields| {
        let name: Vec<_> = fields.iter().map(|field| format!("{field}_1")).collect();
        let keys: Document = fields
            .iter()
            .map(|field| ((*field).to_owned(), Bson::Int32(1)))
            .collect();
        let index = IndexModel::builder().keys(keys).build();
        (!there.contains(&name.join("_"))).then_some(index)
    });
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    collection
        .create_indexes(missing)
        .await
        .map(|_| ())
        .map_err(|error| failed(collection, "making the indexes", &error))
}

/// The collection is refused, or something is the matter with the server.
fn failed<T: Send + Sync>(
    collection: &Collection<T>,
    doing: &str,
    error: &mongodb::error::Error,
) -> Trouble {
    match refused_collection(error) {
        Some(why) => collection_refused(collection.name(), &why),
        None => classify(doing, error),
    }
}
