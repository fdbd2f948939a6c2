//! MongoDB's sink connector in Kafka Connect: with its handler for Debezium's events, and with Connect's own transforms.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document};
use pg_cdc_tests::connect_worker::ConnectWorker;
use pg_cdc_tests::debezium::Purpose;
use pg_cdc_tests::parts::Part;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, wait_until};
use postgres::Client;
use serde_json::{Value, json};

use crate::reading::{self, TIMEOUT};

const SINK: &str = "com.mongodb.kafka.connect.MongoSinkConnector";

/// The documents of a collection by their `_id`, without it.
fn documents(
    database: &Database<'_>,
    collection: &str,
) -> Result<BTreeMap<String, Value>, mongodb::error::Error> {
    let store = database.bed().ferretdb().client().database(database.name());
    let found = store
        .collection::<Document>(collection)
        .find(Document::new())
        .run()?;
    found
        .map(|document| {
            let mut document = document?;
            let id = document.remove("_id").expect("_id");
            // The handler has the columns of the key there alone.
            if let Bson::Document(key) = &id {
                document.extend(key.clone());
            }
            let id = id.into_relaxed_extjson().to_string();
            Ok((id, Bson::from(document).into_relaxed_extjson()))
        })
        .collect()
}

/// The rows as events have them, by `id_of` their id.
fn rows(client: &mut Client, id_of: impl Fn(i32) -> Value) -> BTreeMap<String, Value> {
    let query = "SELECT id, jsonb_build_object('id', id, 'day', day, 'clock', clock::text, 'at', at,
        'seen', to_char(seen AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'price', price::text, 'note', note,
        'raw', encode(raw, 'base64'), 'is_ok', is_ok, 'ratio', ratio)::text FROM reading";
    let rows = client.query(query, &[]).expect("the rows");
    rows.iter()
        .map(|row| {
            let columns: &str = row.get(1);
            let columns = serde_json::from_str(columns).expect("JSON");
            (id_of(row.get(0)).to_string(), columns)
        })
        .collect()
}

/// A worker with a connector that keeps the rows of `reading` in `collection`.
fn start(database: &Database<'_>, collection: &str, settings: Value) -> ConnectWorker {
    let bed = database.bed();
    let purpose = Purpose::Events;
    let mut worker = ConnectWorker::start(
        "MongoDB's sink",
        Part::MongoSink,
        &bed.path(collection),
        bed.kafka(),
        purpose.java_options(),
        &purpose.worker_settings(),
        &[],
    );
    worker.wait_until_up();
    let mut config = json!({
        "connector.class": SINK,
        "topics": database.topic("reading"),
        "connection.uri": format!("{}/?directConnection=true", bed.ferretdb().url()),
        "database": database.name(),
        "collection": collection,
    });
    for (name, value) in settings.as_object().expect("settings") {
        config[name] = value.clone();
    }
    worker.add(collection, &config);
    worker
}

/// Waits until the documents are the rows, now and after further changes.
fn follow(
    database: &Database<'_>,
    source: &mut Client,
    sink: &ConnectWorker,
    collection: &str,
    id_of: fn(i32) -> Value,
) {
    for change in [
        "SELECT",
        "UPDATE reading SET note = 'later' WHERE id = 21; DELETE FROM reading WHERE id = 22; UPDATE reading SET id = 123 WHERE id = 23",
    ] {
        run(source, &[change]);
        let rows = rows(source, id_of);
        wait_until("the documents to be the rows", TIMEOUT, || {
            sink.check(collection)?;
            let found = documents(database, collection).map_err(|error| error.to_string())?;
            if found == rows {
                Ok(())
            } else {
                Err(format!("{found:#?}, not {rows:#?}\n{}", sink.log_tail()))
            }
        });
    }
}

#[test]
fn mongodbs_handler_for_debezium_keeps_the_rows() {
    let (database, mut source) = reading::send(TestBed::shared(), "handler");
    let handler = "com.mongodb.kafka.connect.sink.cdc.debezium.rdbms.postgres.PostgresHandler";
    let sink = start(
        &database,
        "handled",
        json!({ "change.data.capture.handler": handler }),
    );
    follow(
        &database,
        &mut source,
        &sink,
        "handled",
        |id| json!({ "id": id }),
    );
}

#[test]
fn connects_transforms_take_key_and_row_out() {
    let (database, mut source) = reading::send(TestBed::shared(), "transforms");
    let transform = |name: &str| format!("org.apache.kafka.connect.transforms.{name}");
    let settings = json!({
        "transforms": "row,id,_id",
        "transforms.row.type": transform("ExtractField$Value"), "transforms.row.field": "after",
        "transforms.id.type": transform("ExtractField$Key"), "transforms.id.field": "id",
        "transforms._id.type": transform("HoistField$Key"), "transforms._id.field": "_id",
        "document.id.strategy": "com.mongodb.kafka.connect.sink.processor.id.strategy.ProvidedInKeyStrategy",
        // A delete has no row after it, and its tombstone has nothing at all.
        "delete.on.null.values": "true",
        "writemodel.strategy": "com.mongodb.kafka.connect.sink.writemodel.strategy.ReplaceOneDefaultStrategy",
    });
    let sink = start(&database, "extracted", settings);
    follow(&database, &mut source, &sink, "extracted", |id| json!(id));
}
