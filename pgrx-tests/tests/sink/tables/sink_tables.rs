//! A table of the replica, or a collection of the history, that is not as its events need it stops that table.

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::statements::{one_text, wait_for_text};
use pg_cdc_tests::wait_until;
use postgres::Client;
use serde_json::json;

use crate::sink_bad_input::{COLUMNS, row};

/// A role that may do no more with the target than it needs.
pub(super) fn ordinary_role(source: &Source) -> String {
    let role = format!("{}_writer", source.name);
    let database = format!("{}_replica", source.name);
    source
        .replica()
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {database} TO {role}"
        ))
        .expect("a role");
    role
}

pub(super) fn start_as(source: &Source, role: &str) -> CompanionSink {
    let mut plan = source.plan();
    let (begin, rest) = plan.replica_url.split_once("postgres@").expect("a user");
    plan.replica_url = format!("{begin}{role}@{rest}");
    let sink = bed().companion_sink(plan);
    sink.start_only(&["replica"]);
    sink
}

pub(super) fn wait_for_halt(sink: &CompanionSink, parts: &[&str]) {
    wait_until("the sink to halt", TIMEOUT, || {
        let state = sink.state_of("replica");
        let error = state["last_error"].to_string();
        match state["state"] == "halted" && parts.iter().all(|part| error.contains(part)) {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
}

/// Tables that work at first.
const TABLES: [&str; 12] = [
    "fine", "gone", "narrow", "ins", "upd", "del", "far", "lost", "seen", "guarded", "unkeyed",
    "spelled",
];
/// What becomes of them, and how it is mended.
const BREAK: &str = "ALTER TABLE gone RENAME TO away; ALTER TABLE narrow DROP COLUMN city; REVOKE INSERT ON ins FROM ROLE;
    REVOKE UPDATE ON upd FROM ROLE; REVOKE DELETE ON del FROM ROLE; REVOKE USAGE ON SCHEMA far FROM ROLE;
    ALTER TABLE dropped.lost SET SCHEMA public; DROP SCHEMA dropped; ALTER TABLE seen RENAME TO unseen; CREATE VIEW seen AS SELECT * FROM unseen;
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON guarded USING (true) WITH CHECK (city <> 'b');
    ALTER TABLE unkeyed DROP CONSTRAINT unkeyed_pkey; REVOKE SELECT ON spelled FROM ROLE;
    DO $$ DECLARE name text; BEGIN FOR name IN SELECT relname FROM pg_class WHERE relname LIKE 'newest_%' AND relkind = 'r' LOOP
        EXECUTE format('DROP TABLE companion.%I', name); END LOOP; END $$";
const MEND: &str = "ALTER TABLE away RENAME TO gone; ALTER TABLE narrow ADD COLUMN city text; GRANT INSERT ON ins TO ROLE;
    GRANT UPDATE ON upd TO ROLE; GRANT DELETE ON del TO ROLE; GRANT USAGE ON SCHEMA far TO ROLE;
    CREATE SCHEMA dropped; GRANT USAGE ON SCHEMA dropped TO ROLE; ALTER TABLE lost SET SCHEMA dropped; DROP VIEW seen; ALTER TABLE unseen RENAME TO seen;
    DROP POLICY p ON guarded; CREATE POLICY p ON guarded USING (true); ALTER TABLE unkeyed ADD PRIMARY KEY (id);
    GRANT SELECT ON spelled TO ROLE";
const PLACES: &str = "on_error = \"park\"\ntables = { \"public.far\" = \"far.far\", \"public.lost\" = \"dropped.lost\" }\n";

/// What is told of each table that does not work.
const TOLD: [(&str, &str, &[&str]); 11] = [
    ("gone", "CDC1004", &["\"public\".\"gone\" does not exist"]),
    ("narrow", "CDC1011", &["\"narrow\" has no column \"city\""]),
    (
        "ins",
        "CDC1004",
        &["42501", "GRANT INSERT ON TABLE \"public\".\"ins\""],
    ),
    (
        "upd",
        "CDC1004",
        &["42501", "GRANT UPDATE ON TABLE \"public\".\"upd\""],
    ),
    (
        "del",
        "CDC1004",
        &["42501", "GRANT DELETE ON TABLE \"public\".\"del\""],
    ),
    ("far", "CDC1004", &["GRANT USAGE ON SCHEMA \"far\""]),
    ("lost", "CDC1004", &["\"dropped\".\"lost\" does not exist"]),
    ("seen", "CDC1004", &["\"public\".\"seen\"", "is a view"]),
    (
        "guarded",
        "CDC1007",
        &["row-level security", "42501", "\"guarded\""],
    ),
    ("unkeyed", "CDC1004", &["\"unkeyed\"", "unique index"]),
    (
        "spelled",
        "CDC1004",
        &["GRANT SELECT ON TABLE \"public\".\"spelled\""],
    ),
];

#[test]
fn a_table_that_is_not_as_its_events_need_it_stops_alone() {
    for mut source in Source::of_each_consistency("alone") {
        source.more_toml = PLACES;
        let role = ordinary_role(&source);
        let mut target = source.replica();
        every_table_has_a_row(&mut source, &mut target, &role);
        let sink = start_as(&source, &role);
        for table in TABLES {
            source.wait_until_replica_applied(&sink, table);
        }
        // What is known of the tables is read before, or after.
        let starts_anew = source.consistency == "row";
        if starts_anew {
            sink.stop();
        }
        target
            .batch_execute(&BREAK.replace("ROLE", &role))
            .expect("break the tables");
        if starts_anew {
            sink.start_only(&["replica"]);
        }
        every_table_is_changed(&mut source);
        for table in TABLES {
            source.wait_until_replica_applied(&sink, table);
        }
        let rows = |table: &str| {
            format!("SELECT string_agg(id || city || n, ' ' ORDER BY id) FROM {table}")
        };
        assert_eq!(one_text(&mut target, &rows("fine")), "1b3 2b2");
        assert_told(&source, &mut target);
        let state = sink.state_of("replica");
        assert_eq!(state["state"], "running", "{state}");
        assert_eq!(state["retries"], 0, "{state}");

        target
            .batch_execute(&MEND.replace("ROLE", &role))
            .expect("mend the tables");
        sink.run_command(&["dlq", "retry", "--all"]);
        wait_for_text(&mut target, "SELECT count(*) FROM companion.parked", "0");
        for table in TABLES.map(|table| match table {
            "far" => "far.far",
            "lost" => "dropped.lost",
            table => table,
        }) {
            // The column came back without the values that it had.
            let expected = "1b3 2b2";
            assert_eq!(one_text(&mut target, &rows(table)), expected, "{table}");
        }
    }
}

fn every_table_has_a_row(source: &mut Source, target: &mut Client, role: &str) {
    target
        .batch_execute("CREATE SCHEMA far; CREATE SCHEMA dropped")
        .expect("schemas");
    for table in TABLES {
        // Keys that may be written in several ways have more of their own on the target.
        let id = if table == "spelled" {
            "numeric"
        } else {
            "bigint"
        };
        let schema = match table {
            "far" => "far",
            "lost" => "dropped",
            _ => "public",
        };
        target
            .batch_execute(&format!(
                "CREATE TABLE {schema}.{table} (id {id} PRIMARY KEY, city text, n integer);
                 GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.{table} TO {role}; GRANT USAGE ON SCHEMA {schema} TO {role}"
            ))
            .expect("a table");
        source.track(table, &COLUMNS, &["id"]);
        let event = source.create(table, Some(&id_key(1)), &row(1, "a", 1));
        source.send(&event);
    }
}

/// A new row, one that is changed, and one that comes and goes.
fn every_table_is_changed(source: &mut Source) {
    for table in TABLES {
        let event = source.create(table, Some(&id_key(2)), &row(2, "b", 2));
        source.send(&event);
        let event = source.update(table, Some(&id_key(1)), &row(1, "a", 1), &row(1, "b", 3));
        source.send(&event);
        let event = source.create(table, Some(&id_key(3)), &row(3, "c", 1));
        source.send(&event);
        let event = source.delete(table, Some(&id_key(3)), &row(3, "c", 1));
        source.send(&event);
    }
}

/// What is parked says of each table what is wrong.
fn assert_told(source: &Source, target: &mut Client) {
    for (table, code, parts) in TOLD {
        let query = format!(
            "SELECT coalesce(string_agg(code || ' ' || message, ' / '), '') FROM companion.parked WHERE topic = '{}' AND code IS NOT NULL",
            source.topic(table)
        );
        let told = one_text(target, &query);
        assert!(told.contains(code), "{table}: {told}");
        for part in parts {
            assert!(told.contains(part), "{table}: {part} in {told}");
        }
    }
}

#[test]
fn a_sink_that_halts_at_a_table_names_the_event_and_the_remedy() {
    let mut source = Source::consistent("named_halt");
    let mut target = source.replica();
    target
        .batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, city text, n integer)")
        .expect("a table");
    source.track("t", &COLUMNS, &["id"]);
    let sink = start_as(&source, "postgres");
    source.wait_until_replica_applied(&sink, "t");

    // A row with a column that nobody knows, and one with a key that is none.
    let mut unknown = row(2, "b", 2);
    unknown["nobody"] = json!("secret");
    let unknown = source.create("t", Some(&id_key(2)), &unknown);
    source.send(&unknown);
    source.flush();
    wait_for_halt(
        &sink,
        &[
            "CDC1011",
            &unknown.id(),
            "\\\"t\\\"",
            "nobody",
            "ADD COLUMN",
        ],
    );
    sink.run_command(&["dlq", "skip", &unknown.id(), "--reason", "forged"]);
    source.wait_until_replica_applied(&sink, "t");

    let other_key = source.read("t", Some(r#"{"city":"b"}"#), &row(3, "b", 2));
    source.send(&other_key);
    source.flush();
    wait_for_halt(
        &sink,
        &["CDC1004", &other_key.id(), "unique index", "(city)"],
    );
    sink.run_command(&["dlq", "skip", &other_key.id(), "--reason", "forged"]);
    source.wait_until_replica_applied(&sink, "t");

    // What is said of the whole table, which is not there.
    target
        .batch_execute("ALTER TABLE t RENAME TO away")
        .expect("rename");
    sink.stop();
    sink.start_only(&["replica"]);
    let truncate = source.truncate("t");
    source.send_control(&truncate);
    wait_for_halt(
        &sink,
        &["CDC1004", &truncate.id(), "does not exist", "Create it"],
    );
    target
        .batch_execute("ALTER TABLE away RENAME TO t")
        .expect("rename");
    sink.reload();
    source.wait_until_replica_applied(&sink, "t");
    assert_eq!(one_text(&mut target, "SELECT count(*) FROM t"), "0");
}

#[test]
fn a_forged_row_that_fits_no_column_or_key_is_set_aside_alone() {
    for mut source in Source::of_each_consistency("unfit") {
        source.more_toml = crate::sink_bad_input::PARK;
        source.track("t", &COLUMNS, &["id"]);
        let mut unknown = row(2, "b", 2);
        unknown["nobody"] = json!("secret");
        let events = [
            source.create("t", Some(&id_key(1)), &row(1, "a", 1)),
            source.create("t", Some(&id_key(2)), &unknown),
            source.read("t", Some(r#"{"city":"b"}"#), &row(3, "b", 2)),
            source.create("t", Some(&id_key(4)), &row(4, "a", 4)),
            source.delete("t", Some(r#"{"nobody":1}"#), &row(4, "a", 4)),
            source.update("t", Some(&id_key(1)), &row(1, "a", 1), &row(1, "c", 1)),
        ];
        for event in &events {
            source.send(event);
        }
        let sink = source.start_sink();
        source.wait_until_replica_applied(&sink, "t");
        let mut target = source.replica();
        let rows = "SELECT string_agg(id || city || n, ' ' ORDER BY id) FROM t";
        assert_eq!(one_text(&mut target, rows), "1c1 4a4");
        let codes = "SELECT string_agg(code, ' ' ORDER BY code) FROM companion.parked";
        assert_eq!(one_text(&mut target, codes), "CDC1004 CDC1011 CDC1011");
        let told = "SELECT string_agg(message, ' ') FROM companion.parked";
        assert!(!one_text(&mut target, told).contains("secret"));
    }
}

#[test]
fn a_collection_that_the_server_refuses_stops_one_table_of_a_history() {
    let mut source = Source::new("refused_collection");
    let database = bed().ferretdb().client().database(&source.history_name());
    let history = database.collection::<Document>("refused_history");
    // Somebody else's index of the same columns is in the way of the sink's own.
    let somebodys = IndexModel::builder()
        .keys(doc! {"entity": 1, "version": 1})
        .options(IndexOptions::builder().name("somebodys".to_owned()).build())
        .build();
    history.create_index(somebodys).run().expect("an index");
    for table in ["refused", "fine"] {
        source.track(table, &COLUMNS, &["id"]);
        for id in 1..4 {
            let event = source.create(table, Some(&id_key(id)), &row(id, "a", 1));
            source.send(&event);
        }
        let event = source.update(table, Some(&id_key(1)), &row(1, "a", 1), &row(1, "b", 2));
        source.send(&event);
    }
    let sink = bed().companion_sink(source.plan());
    sink.start_only(&["history"]);
    let topics = ["refused", "fine"].map(|table| source.topic(table));
    source.flush();
    sink.wait_until_sink_applied("history", bed().kafka(), &topics);
    assert_eq!(source.history("fine").all().len(), 4);
    let parked = database.collection::<Document>("companion_parked");
    let count = |filter: Document| parked.count_documents(filter).run().expect("a count");
    let refused = count(doc! {"code": "CDC1018"});
    assert!(refused >= 3, "one of each row at least: {refused}");
    assert_eq!(count(doc! {}), 4, "and what waits behind it");
    let listed = sink.run_command(&["dlq", "list"]);
    assert!(listed.contains("refused_history"), "{listed}");
    assert_eq!(sink.state_of("history")["state"], "running");

    history
        .drop_index("somebodys")
        .run()
        .expect("drop the index");
    sink.run_command(&["dlq", "retry", "--all"]);
    wait_until("the rows to be there", TIMEOUT, || {
        let there = (source.history("refused").all().len(), count(doc! {}));
        if there == (4, 0) {
            Ok(())
        } else {
            Err(format!("{there:?}"))
        }
    });
}

#[test]
fn a_topic_whose_table_takes_anothers_name_takes_no_rows_of_it() {
    let mut source = Source::new("taken_name");
    for table in ["mine", "victim"] {
        source.track(table, &COLUMNS, &["id"]);
        let event = source.create(table, Some(&id_key(1)), &row(1, table, 1));
        source.send(&event);
    }
    let sink = bed().companion_sink(source.plan());
    sink.start_only(&["history"]);
    let topics = ["mine", "victim"].map(|table| source.topic(table));
    source.flush();
    sink.wait_until_sink_applied("history", bed().kafka(), &topics);

    let mut rename = source.schema("victim", "RENAME", &COLUMNS, &["id"]);
    *rename.header_mut(change::event::headers::HeaderName::TOPIC) = source.topic("mine");
    source.send_control(&rename);
    sink.wait_until_sink_applied("history", bed().kafka(), &topics);
    let mut update = source.update("victim", Some(&id_key(1)), &row(1, "x", 1), &row(1, "y", 2));
    source.send(&update);
    // What stands in the other topic under the name goes to the other table.
    update = source.update("victim", Some(&id_key(1)), &row(1, "x", 1), &row(1, "z", 3));
    update.topic = source.topic("mine");
    source.send(&update);
    source.flush();
    sink.wait_until_sink_applied("history", bed().kafka(), &topics);
    let cities = |table: &str| -> Vec<String> {
        let mut documents = source.history(table).all();
        documents.sort_by_key(|document| document.get_str("version").expect("version").to_owned());
        let city = |document: &Document| {
            let after = document.get_document("after").expect("after");
            after.get_str("city").expect("city").to_owned()
        };
        documents.iter().map(city).collect()
    };
    assert_eq!(cities("victim"), ["victim", "y"]);
    assert_eq!(cities("mine"), ["mine", "z"]);
}
