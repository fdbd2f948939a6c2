//! A history that has lost documents gets them back.

use mongodb::bson::{Document, doc};
use mongodb::sync::Collection;
use pg_cdc_tests::history::{History, inferred_deletes};
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, wait_until};

use super::command::{TIMEOUT, arguments, changed, changes, dry_run};

/// The documents of a history.
fn told(history: &History) -> Vec<Document> {
    told_by(&history.all())
}

/// The same without the place of a truncate, of whose copies any may be the one that was read first.
fn told_by(documents: &[Document]) -> Vec<Document> {
    let mut documents = documents.to_vec();
    for document in &mut documents {
        if document.get_str("op") == Ok("truncate") {
            document.remove("source");
        }
    }
    documents
}

/// Every third document is gone, and every seventh is another one.
fn damage(collection: &Collection<Document>, documents: &[Document]) {
    for (place, document) in documents.iter().enumerate() {
        let id = doc! {"_id": document.get_str("_id").expect("_id")};
        if place % 3 == 0 || document.get_str("op") == Ok("inferred_delete") {
            collection.delete_one(id).run().expect("delete");
        } else if place % 7 == 0 {
            let other = doc! {"$set": {"after": {"id": 1, "v": "forged"}, "who.actor": "nobody"}};
            collection.update_one(id, other).run().expect("change");
        }
    }
}

#[test]
fn a_history_gets_back_what_it_lost_and_no_more() {
    let database = TestBed::shared().database("told");
    let mut source = database.source();
    run(
        &mut source,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "SELECT cdc_track('t')",
            "INSERT INTO t SELECT n, 'v' FROM generate_series(1, 50) AS n",
            "UPDATE t SET v = 'new' WHERE id <= 20",
            "DELETE FROM t WHERE id > 45",
            "SET session_replication_role = replica",
            "ALTER TABLE t DISABLE TRIGGER _cdc",
            "DELETE FROM t WHERE id = 40",
            "ALTER TABLE t ENABLE ALWAYS TRIGGER _cdc",
            "RESET session_replication_role",
        ],
    );
    let sink = database
        .bed()
        .companion_sink(database.plan_companion_sink());
    sink.start_only(&["history"]);
    source
        .execute("SELECT cdc_snapshot('t')", &[])
        .expect("cdc_snapshot");
    let history = database.history("t");
    wait_until("the snapshot's end", TIMEOUT, || {
        match inferred_deletes(&history.all()).len() {
            1 => Ok(()),
            count => Err(format!("{count} inferred deletes")),
        }
    });
    run(
        &mut source,
        &["UPDATE t SET v = 'newer' WHERE id = 7", "TRUNCATE t"],
    );
    database.wait_until_in_kafka();
    let topics = [database.topic("t")];
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    let documents = history.all();
    let client = database.bed().ferretdb().client();
    let collection = client
        .database(&database.history_name())
        .collection::<Document>("t_history");
    damage(&collection, &documents);
    let damaged = history.count();
    dry_run(&sink, "history", "BEGINNING");
    assert_eq!(history.count(), damaged, "nothing was changed");
    let printed = sink.run_command(&arguments("history", "BEGINNING", "--yes"));
    assert_eq!(told(&history), told_by(&documents), "{printed}");
    let [inserted, updated, deleted] = changes(&printed, "t_history");
    assert_eq!(inserted, documents.len() as u64 - damaged, "{printed}");
    assert!(updated > 5 && deleted == 0, "{printed}");
    let printed = sink.run_command(&arguments("history", "BEGINNING", "--yes"));
    assert_eq!(changed(&printed), 0, "{printed}");
    assert_eq!(told(&history), told_by(&documents), "{printed}");
    // It has kept no state of the replay, and goes on.
    run(&mut source, &["INSERT INTO t VALUES (1, 'again')"]);
    database.wait_until_in_kafka();
    sink.wait_until_sink_applied("history", database.bed().kafka(), &topics);
    assert_eq!(history.count(), documents.len() as u64 + 1);
    let offsets = client
        .database(&database.history_name())
        .collection::<Document>("companion_offsets");
    let left = offsets.count_documents(
        doc! {"_id.sink": {"$ne": format!("companion_{}.history", database.name())}},
    );
    assert_eq!(left.run().expect("count"), 0);
}
