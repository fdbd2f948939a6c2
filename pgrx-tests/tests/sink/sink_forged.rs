//! Events that cannot come from where they stand: the owner of another table, or whoever may write a topic, reaches no table but
//! their own, and holds nobody up. And records that are nothing at all.

use std::io::Write;
use std::process::{Command, Stdio};

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, PARTITIONS, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::wait_until;
use postgres::Client;
use serde_json::{Value, json};

use super::sink_bad_input::{COLUMNS, PARK, row};

const PARKED_COUNT: &str = "SELECT count(*) FROM companion.parked";

/// The event as one of a table in another schema, or of another name.
fn renamed(mut event: Event, database: &str, schema: &str, table: &str) -> Event {
    let value = event.value.as_ref().expect("a value");
    let mut value: Value = serde_json::from_slice(value).expect("JSON");
    value["source"]["schema"] = json!(schema);
    value["source"]["table"] = json!(table);
    event.value = Some(value.to_string().into_bytes());
    with_table(event, &format!("{database}.{schema}.{table}"))
}

fn with_table(mut event: Event, header: &str) -> Event {
    for (name, value) in &mut event.headers {
        if name == "cdc.table" {
            header.clone_into(value);
        }
    }
    event
}

fn in_topic(mut event: Event, topic: &str) -> Event {
    topic.clone_into(&mut event.topic);
    event
}

/// Everything that somebody sends who may write the topics `mine` and `fresh`, about other tables.
fn forge(source: &mut Source) -> usize {
    let (mine, fresh) = (source.topic("mine"), source.topic("fresh"));
    let name = source.name.clone();
    let evil = |id: u64| row(id, "evil", 66);
    let mut sent = 0;
    let mut send = |source: &Source, event: &Event| {
        source.send(event);
        sent += 1;
    };
    // The other's table, by header and body, by one of them.
    let event = source.create("victim", Some(&id_key(1)), &evil(1));
    send(source, &in_topic(event, &mine));
    let event = source.create("victim", Some(&id_key(2)), &evil(2));
    let event = with_table(in_topic(event, &mine), &mine);
    send(source, &event);
    let event = source.create("mine", Some(&id_key(1)), &evil(1));
    send(source, &with_table(event, &source.topic("victim")));
    // In a topic of its own.
    let event = source.create("victim", Some(&id_key(1)), &evil(1));
    send(source, &in_topic(event, &fresh));
    // The whole table: emptied, without its columns, taken for gone. Between rows nobody looks for that.
    let event = source.truncate("victim");
    source.send(&in_topic(event, &mine).in_partition(0));
    let event = source.schema("victim", "ALTER", &COLUMNS[..1], &["id"]);
    source.send(&in_topic(event, &mine).in_partition(1));
    let event = source.schema("victim", "UNTRACK", &[], &[]);
    source.send(&in_topic(event, &source.topic("victim")).in_partition(2));
    let end = json!({"id": 9, "chunk": 1, "event": "chunk_end", "to": null, "partial": false, "changed": []});
    let event = source.snapshot("victim", &end);
    source.send(&in_topic(event, &mine).in_partition(0));
    // What belongs to nobody.
    for (schema, table) in [
        ("companion", "offsets"),
        ("companion", "parked"),
        ("pg_catalog", "pg_authid"),
        ("information_schema", "sql_features"),
        ("pg_toast", "x"),
        ("pg_temp_3", "x"),
    ] {
        let event = source.truncate("x").in_partition(1);
        let event = renamed(event, &name, schema, table);
        source.send(&in_topic(event, &fresh));
        let event = source.create("x", Some(&id_key(1)), &evil(1));
        let event = renamed(event, &name, schema, table);
        send(source, &in_topic(event, &fresh));
    }
    sent
}

/// At a place in the order that the source has not come to: later ones are no copies of these.
fn forge_order(source: &mut Source) -> usize {
    let mut sent = 0;
    for partition in 0..PARTITIONS {
        let mut event = source.create("victim", Some(&id_key(9)), &row(9, "evil", 66));
        for (name, value) in &mut event.headers {
            if name == "cdc.version" {
                "0001-00000001-0000100000000000-0000000001-00".clone_into(value);
            }
        }
        let event = event.in_partition(partition);
        source.send(&event);
        sent += 1;
    }
    sent
}

#[test]
fn what_does_not_belong_to_its_topic_is_set_aside_and_holds_nobody_up() {
    for mut source in Source::of_each_consistency("forged") {
        let is_consistent = source.consistency == "transaction";
        for table in ["victim", "mine"] {
            source.track(table, &COLUMNS, &["id"]);
            let event = source.create(table, Some(&id_key(1)), &row(1, "a", 1));
            source.send(&event);
        }
        source.create_topic("fresh");
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "victim");
        source.wait_until_applied(&sink, "mine");

        let forged = forge(&mut source);
        let beyond = match is_consistent {
            true => forge_order(&mut source),
            false => 0,
        };
        for table in ["victim", "mine"] {
            let event = source.create(table, Some(&id_key(2)), &row(2, "b", 2));
            source.send(&event);
            let event = source.update(table, Some(&id_key(1)), &row(1, "a", 1), &row(1, "c", 3));
            source.send(&event);
        }
        for table in ["victim", "mine", "fresh"] {
            source.wait_until_applied(&sink, table);
        }
        let mut replica = source.replica();
        for table in ["victim", "mine"] {
            let rows = format!("SELECT string_agg(id || city || n, ' ' ORDER BY id) FROM {table}");
            assert_eq!(one_text(&mut replica, &rows), "1c3 2b2", "{table}");
        }
        let told = source.history("victim").all();
        let told: Vec<_> = told
            .iter()
            .map(|told| told.get_str("op").expect("op"))
            .collect();
        assert_eq!(told.len(), 3, "{told:?}");
        let all = forged + beyond;
        assert_set_aside_and_told(&sink, &mut replica, all, is_consistent);
        people_decide_about_one(&sink, &mut replica, all);
        // The list of schemas, and a restart: the topics belong where they did.
        let event = source.create("victim", Some(&id_key(3)), &row(3, "d", 4));
        source.send(&in_topic(event, &source.topic("mine")));
        sink.stop();
        sink.start();
        source.wait_until_applied(&sink, "mine");
        assert_eq!(one_text(&mut replica, "SELECT count(*) FROM victim"), "2");
    }
}

/// What was forged is in the way of nothing.
fn assert_set_aside_and_told(
    sink: &CompanionSink,
    replica: &mut Client,
    all: usize,
    is_consistent: bool,
) {
    let codes = "SELECT string_agg(DISTINCT code, ' ' ORDER BY code) FROM companion.parked";
    let wanted = match is_consistent {
        true => "CDC1012 CDC1013 CDC1014",
        false => "CDC1012 CDC1013",
    };
    assert_eq!(one_text(replica, codes), wanted);
    assert_eq!(one_text(replica, PARKED_COUNT), all.to_string());
    let metrics = sink.get("/metrics");
    let line = "companion_sink_dead_letters_total{sink=\"replica\",reason=\"foreign\"}";
    assert!(metrics.contains(line), "{metrics}");
    assert!(
        metrics.contains("companion_sink_parked_keys{sink=\"replica\"} 0"),
        "{metrics}"
    );
    assert!(
        metrics.contains("companion_sink_ready{sink=\"replica\"} 1"),
        "{metrics}"
    );
}

/// Who looked at them leaves them out; tried again they are what they were.
fn people_decide_about_one(sink: &CompanionSink, replica: &mut Client, all: usize) {
    let listed = sink.run_command(&["dlq", "list", "--sink", "replica", "--json"]);
    let listed: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(listed.len(), all);
    let id = listed[0]["event"].as_str().expect("an id");
    sink.run_command(&["dlq", "retry", id, "--sink", "replica"]);
    let attempts = format!("SELECT max(attempts) FROM companion.parked WHERE event_id = '{id}'");
    wait_until(
        "the event to be refused again",
        TIMEOUT,
        || match one_text(replica, &attempts).as_str() {
            "2" => Ok(()),
            other => Err(other.to_owned()),
        },
    );
    sink.run_command(&["dlq", "skip", id, "--reason", "forged", "--sink", "replica"]);
    wait_until("the event to be gone", TIMEOUT, || {
        match one_text(replica, PARKED_COUNT) {
            left if left == (all - 1).to_string() => Ok(()),
            left => Err(left),
        }
    });
}

#[test]
fn only_listed_schemas_are_written_and_a_topic_may_get_another_table() {
    for mut source in Source::of_each_consistency("listed") {
        source.more_toml = "schemas = [\"public\", \"app_*\"]\n";
        source.track("t", &COLUMNS, &["id"]);
        source.create_topic("other");
        let name = source.name.clone();
        for schema in ["app_1", "reports"] {
            let event = source.schema("other", "CREATE", &COLUMNS, &["id"]);
            let event = renamed(event, &name, schema, "x");
            source.send_control(&event);
            let event = source.create("other", Some(&id_key(1)), &row(1, "a", 1));
            source.send(&renamed(event, &name, schema, "x"));
            let event = source.schema("other", "UNTRACK", &[], &[]);
            source.send_control(&renamed(event, &name, schema, "x"));
        }
        let sink = source.start_sink();
        source.wait_until_replica_applied(&sink, "other");
        let mut replica = source.replica();
        assert_eq!(one_text(&mut replica, "SELECT count(*) FROM app_1.x"), "1");
        let there = "SELECT to_regclass('reports.x') IS NULL";
        assert_eq!(one_text(&mut replica, there), "true");
        let codes = "SELECT string_agg(DISTINCT code, ' ') FROM companion.parked WHERE header_values IS NOT NULL";
        assert_eq!(one_text(&mut replica, codes), "CDC1013");
    }
}

#[test]
fn no_record_stops_a_sink() {
    for mut source in Source::of_each_consistency("strange") {
        source.more_toml = PARK;
        source.track("t", &COLUMNS, &["id"]);
        good_event(&mut source, 1);
        let bare = Event {
            topic: source.topic("t"),
            partition: Some(0),
            key: None,
            value: None,
            headers: Vec::new(),
        };
        source.send(&bare);
        source.send(&bare.clone().with_value(b""));
        strange_headers_and_values(&mut source);
        strange_versions(&source, &bare);
        strange_times_and_keys(&mut source);
        // Positions are data too.
        let positions = format!("{}.cdc_positions", source.name);
        for value in ["", "{", "{\"format\":1}", "null", "[1]"] {
            let mut event = bare.clone().with_value(value.as_bytes());
            positions.clone_into(&mut event.topic);
            source.send(&event);
        }
        good_event(&mut source, 7);
        let sink = source.start_sink();
        source.wait_until_applied(&sink, "t");
        good_event(&mut source, 8);
        source.wait_until_applied(&sink, "t");
        let mut replica = source.replica();
        let rows = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t WHERE id IN (1, 3, 7, 8)";
        assert_eq!(one_text(&mut replica, rows), "1 3 7 8");
        let log = std::fs::read_to_string(sink.log_file()).expect("the log");
        assert!(
            !log.contains("panicked") && !log.contains("internal error"),
            "{log}"
        );
    }
}

fn good_event(source: &mut Source, id: u64) {
    let event = source.create("t", Some(&id_key(id)), &row(id, "a", 1));
    source.send(&event);
}

/// A header that is no text, a long one, and values that are nested deep.
fn strange_headers_and_values(source: &mut Source) {
    // SAFETY: only the bytes are copied, into a record; nobody takes them for text here.
    let not_text = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, b'x']) };
    let event = source.create("t", Some(&id_key(2)), &row(2, "a", 1));
    source.send(&event.with_header(&not_text, "x"));
    let event = source.create("t", Some(&id_key(3)), &row(3, "a", 1));
    source.send(&event.with_header("long", &"x".repeat(100_000)));
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let event = source.create("t", Some(&id_key(4)), &row(4, "a", 1));
        let value = String::from_utf8(event.value.clone().expect("a value")).expect("text");
        let value = value.replace("\"city\":\"a\"", &format!("\"city\":{deep}"));
        source.send(&event.clone().with_value(value.as_bytes()));
        source.send(&event.clone().with_value(deep.as_bytes()));
    }
}

/// Of every kind of event, and of none.
fn strange_versions(source: &Source, bare: &Event) {
    for version in [
        "",
        "ffff-ffffffff-ffffffffffffffff-9999999999-99",
        "0001-00000001-7fffffffffffffff-0000000001-00",
        "0001-00000001-000000000000ffff-00000000ff-0f",
    ] {
        for op in ["c", "t", "schema", "snapshot", "tombstone", "emit", "\u{0}"] {
            let mut event = bare.clone().with_value(b"{\"source\":{}}");
            event.headers = [
                ("cdc.id", "x"),
                ("cdc.version", version),
                ("cdc.op", op),
                ("cdc.table", ""),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
            source.send(&event);
        }
    }
}

fn strange_times_and_keys(source: &mut Source) {
    let event = source.create("t", Some(&id_key(5)), &row(5, "a", 1));
    let value = String::from_utf8(event.value.clone().expect("a value")).expect("text");
    let value = value.replace("1795257600123456", &i64::MIN.to_string());
    source.send(&event.with_value(value.as_bytes()));
    for key in ["", "x", "{}", "[]", "null", "{\"id\":{}}"] {
        let event = source.create("t", Some(key), &row(6, "a", 1));
        source.send(&event);
    }
}

#[test]
fn what_brings_a_version_back_is_only_sql() {
    let mut source = Source::new("piped");
    let evil = "a\n\\! touch FILE\n--";
    let columns = [("id", "bigint"), ("q", "text")];
    let name = source.name.clone();
    let (escaped, real) = ("Order-x20Items", "Order Items");
    source.create_topic(escaped);
    let as_real = |event: Event| {
        let header = format!("{name}.public.{escaped}");
        with_table(renamed(event, &name, "public", real), &header)
    };
    let event = source.schema(escaped, "CREATE", &columns, &["id"]);
    source.send_control(&as_real(event));
    let old = json!({"id": 1, "q": "x\n\\! touch FILE\n"});
    let event = source.create(escaped, Some(&id_key(1)), &old);
    source.send(&as_real(event));
    let event = source.schema(
        escaped,
        "ALTER",
        &[columns[0], columns[1], (evil, "text")],
        &["id"],
    );
    source.send_control(&as_real(event));
    let new = json!({"id": 1, "q": "y", evil: "z"});
    let event = source.update(escaped, Some(&id_key(1)), &old, &new);
    source.send(&as_real(event));
    let event = source.update(
        escaped,
        Some(&id_key(1)),
        &new,
        &json!({"id": 1, "q": "w", evil: "v"}),
    );
    source.send(&as_real(event));
    let sink = source.start_sink();
    source.wait_until_applied(&sink, escaped);
    let mut replica = source.replica();
    let folder = pg_cdc_tests::bed::temporary_folder();
    for (version, wanted) in [("1", "x\n\\! touch FILE\nv"), ("2", "yz")] {
        for table in [real, escaped, "public.Order Items", "\"Order Items\""] {
            let sql = sink.run_command(&["history", table, "1", "--restore", version]);
            assert!(sql.contains("\"public\".\"Order Items\""), "{sql}");
            assert!(!sql.lines().any(|line| line.starts_with('\\')), "{sql}");
            let mut psql = Command::new("/usr/lib/postgresql/15/bin/psql")
                .args(["-X", "-v", "ON_ERROR_STOP=1"])
                .arg(bed().target().url(&format!("{name}_replica")))
                .current_dir(folder.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("psql");
            let mut input = psql.stdin.take().expect("its input");
            input.write_all(sql.as_bytes()).expect("write");
            drop(input);
            assert!(psql.wait().expect("psql").success(), "{sql}");
        }
        let row = format!(
            "SELECT q || \"{}\" FROM \"Order Items\"",
            evil.replace('"', "\"\"")
        );
        assert_eq!(one_text(&mut replica, &row), wanted);
        assert!(!folder.path().join("FILE").exists(), "a command was run");
    }
}
