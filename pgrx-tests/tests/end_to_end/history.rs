//! Questions to the history, asked of the real command: every answer is compared with what the source had at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{TestBed, wait_until};
use postgres::Client;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(120);

/// Its exit code and the objects that it prints.
fn ask(sink: &CompanionSink, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = sink.ask_history(arguments);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"));
    (output.status.code(), lines.collect())
}

/// What an answer has under a path such as `/who/actor`, line by line.
fn at<'a>(lines: &'a [Value], path: &str) -> Vec<&'a Value> {
    let parts = lines
        .iter()
        .map(|line| line.pointer(path).unwrap_or(&Value::Null));
    parts.collect()
}

fn now(client: &mut Client) -> String {
    let query =
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    client.query_one(query, &[]).expect("the time").get(0)
}

fn changed(client: &mut Client, context: [&str; 3], statements: &str) {
    let [actor, reason, request] = context;
    let statements = format!(
        "BEGIN; SELECT cdc_context('{actor}', '{reason}', '{request}'); {statements}; COMMIT"
    );
    client.batch_execute(&statements).expect("a change");
}

#[test]
fn who_changed_what_when_and_why() {
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE customer (id int PRIMARY KEY, name text, city text, balance numeric(10,2), note text)",
            "CREATE TABLE account (id int PRIMARY KEY, n int)",
            "SELECT cdc_track('customer'), cdc_track('account')",
        ],
    );
    let before = now(&mut client);
    changed(
        &mut client,
        ["ann", "new customer", "r-16"],
        "INSERT INTO customer VALUES (42, 'Eva', 'Basel', 10.50); INSERT INTO account VALUES (1, 0)",
    );
    let created = now(&mut client);
    changed(
        &mut client,
        ["ann", "moved", "r-17"],
        "UPDATE customer SET city = 'Bern'",
    );
    changed(
        &mut client,
        ["bob", "goodwill", "r-18"],
        "UPDATE customer SET balance = 25, note = 'VIP'; UPDATE account SET n = 1",
    );
    let sink = database.start_companion_sink();
    database.wait_until_history_is_complete(&sink, "customer");

    let timeline = sink.find_in_history(&["customer", "42"]);
    assert_eq!(
        at(&timeline, "/op"),
        [&json!("create"), &json!("update"), &json!("update")]
    );
    assert_eq!(
        at(&timeline, "/sequence_number"),
        [&json!(1), &json!(2), &json!(3)]
    );
    let later = sink.find_in_history(&["public.customer", "id=42", "--since", &created]);
    assert_eq!(at(&later, "/sequence_number"), [&json!(2), &json!(3)]);
    let newest = sink.find_in_history(&["shop.public.customer", "42", "--limit", "1"]);
    assert_eq!(at(&newest, "/sequence_number"), [&json!(3)]);

    // As it was.
    let city = |at: &str| ask(&sink, &["customer", "42", "--at", at]).1[0]["state"]["city"].clone();
    assert_eq!(
        (city("1"), city("2"), city(&created)),
        (json!("Basel"), json!("Bern"), json!("Basel"))
    );
    assert_eq!(
        city(timeline[1]["version"].as_str().expect("a version")),
        json!("Bern")
    );
    for nothing in [before.as_str(), "4", "0"] {
        assert_eq!(
            ask(&sink, &["customer", "42", "--at", nothing]),
            (Some(4), vec![]),
            "{nothing}"
        );
    }
    assert_eq!(
        sink.find_in_history(&["customer", "42", "--diff", "1..3"]),
        [
            json!({"path": "city", "from": "Basel", "to": "Bern"}),
            json!({"path": "balance", "from": "10.50", "to": "25.00"}),
            json!({"path": "note", "from": null, "to": "VIP"}),
        ]
    );

    // Whose doing it is.
    let blamed = sink.find_in_history(&["customer", "42", "--blame"]);
    let blamed: BTreeMap<&str, (&Value, &Value)> = blamed
        .iter()
        .map(|one| {
            (
                one["column"].as_str().expect("a column"),
                (&one["version"], &one["actor"]),
            )
        })
        .collect();
    assert_eq!(blamed["name"], (&json!(1), &json!("ann")));
    assert_eq!(blamed["city"], (&json!(2), &json!("ann")));
    assert_eq!(blamed["note"], (&json!(3), &json!("bob")));
    let one = sink.find_in_history(&["customer", "42", "--blame", "city"]);
    assert_eq!(at(&one, "/reason"), [&json!("moved")]);

    // Over all tables.
    let tables = |lines: &[Value]| -> Vec<String> {
        let entities = lines
            .iter()
            .map(|line| line["entity"].as_str().expect("an entity"));
        let tables = entities.map(|entity| entity.split(['.', ':']).nth(2).expect("a table"));
        tables.map(str::to_owned).collect()
    };
    assert_eq!(
        tables(&sink.find_in_history(&["--actor", "ann"])),
        ["customer", "account", "customer"]
    );
    assert_eq!(
        tables(&sink.find_in_history(&["--request-id", "r-18"])),
        ["customer", "account"]
    );
    let transaction = timeline[2]["transaction"]["id"].as_str().expect("an id");
    let (xid, _) = transaction.split_once(':').expect("xid and LSN");
    for id in [transaction, xid] {
        assert_eq!(
            tables(&sink.find_in_history(&["--transaction", id])),
            ["customer", "account"]
        );
    }
    assert_eq!(
        tables(&sink.find_in_history(&["account", "--actor", "ann"])),
        ["account"]
    );
    let moved =
        sink.find_in_history(&["customer", "--where", "city=Basel", "--where", "city=Bern"]);
    assert_eq!(at(&moved, "/why/reason"), [&json!("moved")]);
    assert_eq!(ask(&sink, &["--actor", "nobody"]).0, Some(4));

    the_same_over_http(&sink, &timeline, &created);

    // For a spreadsheet, and what cannot be asked.
    let csv = sink.ask_history(&["customer", "42", "--format", "csv", "--limit", "1"]);
    let csv = String::from_utf8_lossy(&csv.stdout);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "#,when,op,actor,role,reason,request,change");
    assert!(
        lines[1].starts_with("3,")
            && lines[1].ends_with(",\"balance 10.50 -> 25.00; note null -> \"\"VIP\"\"\""),
        "{csv}"
    );
    let csv = sink.ask_history(&["customer", "--at", &created, "--format", "csv"]);
    assert_eq!(
        String::from_utf8_lossy(&csv.stdout),
        "id,name,city,balance,note\n42,Eva,Basel,10.50,\n"
    );
    let file = bed.path("customer.json");
    let file = file.to_str().expect("a name");
    assert_eq!(
        sink.find_in_history(&["customer", "42", "-o", file]),
        [] as [Value; 0]
    );
    let written = std::fs::read_to_string(file).expect("the file");
    assert_eq!(written.lines().count(), 3);
    for wrong in [
        ["customer", "42", "--at", "yesterday"],
        ["customer", "42", "--diff", "1"],
        ["customer", "--at", "1", "--json"],
        ["customer", "{\"x\": 1}", "--limit", "1"],
    ] {
        let output = sink.ask_history(&wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("CDC1001"), "{text}");
    }
}

/// Status and body of an answer.
fn get(sink: &CompanionSink, path: &str) -> (u16, Value) {
    parse(&sink.get(path))
}

fn parse(answer: &str) -> (u16, Value) {
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.expect("a status"), body)
}

fn the_same_over_http(sink: &CompanionSink, timeline: &[Value], created: &str) {
    let ok = |path: &str| {
        let (status, body) = get(sink, path);
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let row = ok("/v1/history/customer/42");
    assert_eq!(
        row["versions"].as_array().map(Vec::as_slice),
        Some(timeline)
    );
    assert_eq!(
        (&row["table"], &row["key"]),
        (&json!("shop.public.customer"), &json!({"id": 42}))
    );
    assert_eq!(row["next"], json!(null));

    // Page by page.
    let (mut pages, mut path) = (Vec::new(), "/v1/history/customer/42?limit=2".to_owned());
    loop {
        let page = ok(&path);
        pages.extend(page["versions"].as_array().expect("versions").clone());
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/history/customer/42?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, timeline);

    let time = created.replace(':', "%3A");
    let basel = json!({"id": 42, "name": "Eva", "city": "Basel", "balance": "10.50", "note": null});
    for at in [format!("time={time}"), "version=1".to_owned()] {
        let was = ok(&format!("/v1/history/customer/id=42/at?{at}"));
        assert_eq!((&was["version"], &was["state"]), (&json!(1), &basel));
    }
    let rows = ok(&format!("/v1/history/customer/at?time={time}"));
    assert_eq!(rows["rows"][0]["state"], basel);
    assert_eq!(
        ok("/v1/history/customer/42/diff?from=1&to=2"),
        json!([{"path": "city", "from": "Basel", "to": "Bern"}])
    );
    let blamed = ok("/v1/history/customer/42/blame");
    assert_eq!(
        (&blamed["city"]["version"], &blamed["city"]["actor"]),
        (&json!(2), &json!("ann"))
    );
    let sql = ok("/v1/history/customer/42/restore?version=1");
    let sql = sql["sql"].as_str().expect("sql");
    assert!(sql.contains("\"city\" = 'Basel'"), "{sql}");
    let count = |path: &str| ok(path)["changes"].as_array().map(Vec::len);
    assert_eq!(count("/v1/actors/ann"), Some(3));
    assert_eq!(count("/v1/requests/r-18"), Some(2));
    assert_eq!(count("/v1/requests/none"), Some(0));
    assert_eq!(count("/v1/history/customer?where=city%3DBern"), Some(2));
    let id = timeline[2]["transaction"]["id"].as_str().expect("an id");
    assert_eq!(count(&format!("/v1/transactions/{id}")), Some(2));

    for (path, status, code) in [
        ("/v1/history/nothing/1", 404, json!(null)),
        ("/v1/history/customer/7", 404, json!(null)),
        ("/v1/history/customer/42/at?version=9", 404, json!(null)),
        (
            "/v1/history/customer/42/at?time=yesterday",
            400,
            json!("CDC1001"),
        ),
        ("/v1/history/customer/at?version=1", 400, json!("CDC1001")),
        ("/v1/history/customer?where=Bern", 400, json!("CDC1001")),
        ("/v1/history/customer/42?limt=1", 400, json!("CDC1001")),
        ("/v1/history/customer/42/diff?from=1", 400, json!("CDC1001")),
    ] {
        let (found, problem) = get(sink, path);
        assert_eq!(
            (found, &problem["code"]),
            (status, &code),
            "{path}: {problem}"
        );
        assert_eq!(problem["status"], status, "{path}: {problem}");
    }
    // Every path that is described is there.
    let described = ok("/openapi.json");
    for path in described["paths"].as_object().expect("paths").keys() {
        let path = path.replace("{table}", "customer").replace("{key}", "42");
        let path = path.replace("{id}", "r-17").replace("{actor}", "ann");
        // Of what is there without having this one the problem says so.
        let (status, body) = get(sink, &path);
        assert!(status != 404 || body["status"] == 404, "{path}");
    }
}

/// The status of an answer over a connection that stays open; none if it is closed.
fn ask_again(connection: &mut BufReader<TcpStream>, token: &str) -> Option<u16> {
    let request = format!(
        "GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    connection.get_mut().write_all(request.as_bytes()).ok()?;
    let mut status = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("http/1.1 ") {
            status = rest
                .split(' ')
                .next()
                .and_then(|status| status.parse().ok());
        } else if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).ok()?;
    status
}

#[test]
fn nobody_asks_without_the_token() {
    let bed = TestBed::start();
    let database = bed.database("secret");
    let file = bed.path("token");
    std::fs::write(&file, "s3cret-t0ken\n").expect("write the token");
    let mut permissions = std::fs::metadata(&file).expect("the file").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&file, permissions).expect("chmod");
    let mut plan = database.plan_companion_sink();
    plan.http_token_file = Some(file.clone());
    let sink = bed.companion_sink(plan);
    sink.start();
    for path in ["/metrics", "/v1/status", "/openapi.json", "/v1/actors/ann"] {
        for wrong in ["", "s3cret", "s3cret-t0keN"] {
            let (status, problem) = parse(&sink.get_as(path, wrong));
            assert_eq!((status, &problem["status"]), (401, &json!(401)), "{path}");
        }
        assert_eq!(parse(&sink.get_as(path, "s3cret-t0ken")).0, 200, "{path}");
    }
    assert_ne!(parse(&sink.get("/healthz")).0, 401);
    assert!(!sink.run_command(&["config"]).contains("s3cret"));

    // Another token, and somebody who has a connection with the old one.
    let address = sink.http_url();
    let address = address.strip_prefix("http://").expect("an address");
    let mut connection = BufReader::new(TcpStream::connect(address).expect("a connection"));
    assert_eq!(ask_again(&mut connection, "s3cret-t0ken"), Some(200));
    std::fs::write(&file, "an0ther\n").expect("write the token");
    sink.reload();
    wait_until("the new token", TIMEOUT, || {
        // A connection that is opened meanwhile may be closed with the old ones.
        let answer = sink.get_as("/v1/status", "an0ther");
        match answer.starts_with("HTTP/1.1 200") {
            true => Ok(()),
            false => Err(answer),
        }
    });
    assert_eq!(parse(&sink.get_as("/v1/status", "s3cret-t0ken")).0, 401);
    wait_until(
        "the old connection to be closed",
        TIMEOUT,
        || match ask_again(&mut connection, "s3cret-t0ken") {
            None => Ok(()),
            Some(status) => Err(status.to_string()),
        },
    );
}

/// Rows by id, as text.
fn rows(client: &mut Client) -> BTreeMap<i64, Value> {
    let query = "SELECT id::bigint, to_json(t)::text FROM t";
    let rows = client.query(query, &[]).expect("the rows");
    rows.iter()
        .map(|row| (row.get(0), serde_json::from_str(row.get(1)).expect("JSON")))
        .collect()
}

#[test]
fn every_moment_comes_back_as_it_was() {
    let bed = TestBed::start();
    let database = bed.database("moments");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id int PRIMARY KEY, a text, b int[], c bytea, d timestamptz)",
            "SELECT cdc_track('t')",
            "SELECT setseed(0.5)",
        ],
    );
    let mut moments = Vec::new();
    for step in 0..40 {
        let statement = match step % 10 {
            0..4 => "INSERT INTO t SELECT 1 + (random() * 9)::int, E'it''s \\\\ ' || random(), ARRAY[1, NULL, 3], '\\x0001ff', now()
                     FROM generate_series(1, 3) ON CONFLICT DO NOTHING",
            4 | 5 => "UPDATE t SET a = 'step ' || random(), b = b || 7, c = NULL WHERE random() < 0.5",
            6 => "UPDATE t SET id = id + 10 WHERE id < 10 AND random() < 0.3",
            7 if step > 20 => "TRUNCATE t",
            _ => "DELETE FROM t WHERE random() < 0.3",
        };
        run(&mut client, &[statement]);
        moments.push((now(&mut client), rows(&mut client)));
    }
    let sink = database.start_companion_sink();
    database.wait_until_history_is_complete(&sink, "t");

    for (moment, rows) in &moments {
        let answer = ask(&sink, &["t", "--at", moment]).1;
        let ids: BTreeMap<i64, &Value> = answer
            .iter()
            .map(|row| {
                (
                    row["key"]["id"].as_i64().expect("an id"),
                    &row["state"]["a"],
                )
            })
            .collect();
        let wanted: BTreeMap<i64, &Value> = rows.iter().map(|(id, row)| (*id, &row["a"])).collect();
        assert_eq!(ids, wanted, "{moment}");
    }

    // Each version's SQL makes the row what it was then, whatever it is now.
    let mut restored = 0;
    for id in (1..20).step_by(3) {
        let id = id.to_string();
        for (moment, rows_then) in moments.iter().step_by(4) {
            let output = sink.ask_history(&["t", &id, "--restore", moment]);
            if output.status.code() == Some(4) {
                continue;
            }
            let sql = String::from_utf8(output.stdout).expect("UTF-8");
            let mut transaction = client.transaction().expect("a transaction");
            transaction
                .batch_execute(&sql)
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            let query = "SELECT to_json(t)::text FROM t WHERE id = $1::text::int";
            let row = transaction.query_opt(query, &[&id]).expect("the row");
            let row: Option<Value> = row.map(|row| serde_json::from_str(row.get(0)).expect("JSON"));
            let number: i64 = id.parse().expect("a number");
            assert_eq!(row.as_ref(), rows_then.get(&number), "{sql}");
            transaction.rollback().expect("as it was");
            restored += usize::from(!sql.contains("nothing to do"));
        }
    }
    assert!(restored > 10, "{restored} statements");
}

/// Ends the writer also where an assertion fails.
struct EndsWriter<'a>(&'a AtomicBool);

impl Drop for EndsWriter<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_moment_has_no_half_of_a_transaction() {
    const ACCOUNTS: i64 = 30;
    let bed = TestBed::start();
    let database = bed.database("bank");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE account (id int PRIMARY KEY, balance int NOT NULL)",
            "SELECT cdc_track('account')",
            &format!("INSERT INTO account SELECT n, 100 FROM generate_series(1, {ACCOUNTS}) AS n"),
        ],
    );
    let sink = database.start_companion_sink();
    database.wait_until_history_is_complete(&sink, "account");
    let is_over = AtomicBool::new(false);
    let moments = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = database.source();
            let transfer = "BEGIN;
                UPDATE account SET balance = balance - 1 WHERE id = (SELECT 1 + (random() * 28)::int);
                UPDATE account SET balance = balance + 1 WHERE id = 30; COMMIT";
            while !is_over.load(Ordering::Relaxed) {
                writer.batch_execute(transfer).expect("a transfer");
                // No more than the store of the bed takes: else the moments lie ever further back.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _ends = EndsWriter(&is_over);
        let mut moments = BTreeSet::new();
        for _ in 0..10 {
            // Later than anything that the history can have.
            let (status, page) = get(&sink, "/v1/history/account/at?time=2100-01-01");
            assert_eq!(status, 200, "{page}");
            let rows = page["rows"].as_array().expect("rows");
            let complete = page["complete_up_to"]["version"].as_str();
            if let Some(complete) = complete.filter(|_| rows.len() as i64 == ACCOUNTS) {
                let balances = rows
                    .iter()
                    .map(|row| row["state"]["balance"].as_i64().expect("a balance"));
                assert_eq!(balances.sum::<i64>(), ACCOUNTS * 100, "{page}");
                moments.insert(complete.to_owned());
            }
        }
        wait_until("more moments", TIMEOUT, || {
            let (_, page) = get(&sink, "/v1/history/account/at?time=2100-01-01");
            if page["complete_up_to"].is_null() {
                return Err(page.to_string());
            }
            let balances = page["rows"].as_array().into_iter().flatten();
            let balances = balances.map(|row| row["state"]["balance"].as_i64().expect("a balance"));
            assert_eq!(balances.sum::<i64>(), ACCOUNTS * 100, "{page}");
            moments.extend(
                page["complete_up_to"]["version"]
                    .as_str()
                    .map(str::to_owned),
            );
            (moments.len() >= 10)
                .then_some(())
                .ok_or(moments.len().to_string())
        });
        moments
    });
    assert!(moments.len() >= 5, "{moments:?}");

    // When it is over, the history comes to its end.
    database.wait_until_history_is_complete(&sink, "account");
    let query = "SELECT jsonb_object_agg(id, balance)::text FROM account";
    let wanted: Value =
        serde_json::from_str(client.query_one(query, &[]).expect("rows").get(0)).expect("JSON");
    wait_until("the last moment", TIMEOUT, || {
        let (_, page) = get(&sink, "/v1/history/account/at?time=2100-01-01");
        let rows = page["rows"].as_array().expect("rows").iter();
        let seen: serde_json::Map<String, Value> = rows
            .map(|row| {
                (
                    row["key"]["id"].to_string(),
                    row["state"]["balance"].clone(),
                )
            })
            .collect();
        (Value::Object(seen) == wanted)
            .then_some(())
            .ok_or(page.to_string())
    });
}
