//! The same questions over HTTP, and the token that they need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::{TestBed, wait_until};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(120);

/// Status and body of an answer.
pub(super) fn get(sink: &CompanionSink, path: &str) -> (u16, Value) {
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

/// The body of an answer that must be there.
fn ok(sink: &CompanionSink, path: &str) -> Value {
    let (status, body) = get(sink, path);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

pub(super) fn the_same_over_http(sink: &CompanionSink, timeline: &[Value], created: &str) {
    a_timeline_comes_page_by_page(sink, timeline);
    rows_come_as_they_were(sink, created);
    changes_are_counted(sink, timeline);
    what_is_not_there_or_wrong_is_refused(sink);
    every_path_that_is_described_is_there(sink);
}

fn a_timeline_comes_page_by_page(sink: &CompanionSink, timeline: &[Value]) {
    let row = ok(sink, "/v1/history/customer/42");
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
        let page = ok(sink, &path);
        pages.extend(page["versions"].as_array().expect("versions").clone());
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/history/customer/42?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, timeline);
}

fn rows_come_as_they_were(sink: &CompanionSink, created: &str) {
    let time = created.replace(':', "%3A");
    let basel = json!({"id": 42, "name": "Eva", "city": "Basel", "balance": "10.50", "note": null});
    for at in [format!("time={time}"), "version=1".to_owned()] {
        let was = ok(sink, &format!("/v1/history/customer/id=42/at?{at}"));
        assert_eq!((&was["version"], &was["state"]), (&json!(1), &basel));
    }
    let rows = ok(sink, &format!("/v1/history/customer/at?time={time}"));
    assert_eq!(rows["rows"][0]["state"], basel);
    assert_eq!(
        ok(sink, "/v1/history/customer/42/diff?from=1&to=2"),
        json!([{"path": "city", "from": "Basel", "to": "Bern"}])
    );
    let blamed = ok(sink, "/v1/history/customer/42/blame");
    assert_eq!(
        (&blamed["city"]["version"], &blamed["city"]["actor"]),
        (&json!(2), &json!("ann"))
    );
    let sql = ok(sink, "/v1/history/customer/42/restore?version=1");
    let sql = sql["sql"].as_str().expect("sql");
    assert!(sql.contains("\"city\" = 'Basel'"), "{sql}");
}

fn changes_are_counted(sink: &CompanionSink, timeline: &[Value]) {
    let count = |path: &str| ok(sink, path)["changes"].as_array().map(Vec::len);
    assert_eq!(count("/v1/actors/ann"), Some(3));
    assert_eq!(count("/v1/requests/r-18"), Some(2));
    assert_eq!(count("/v1/requests/none"), Some(0));
    assert_eq!(count("/v1/history/customer?where=city%3DBern"), Some(2));
    let id = timeline[2]["transaction"]["id"].as_str().expect("an id");
    assert_eq!(count(&format!("/v1/transactions/{id}")), Some(2));
}

fn what_is_not_there_or_wrong_is_refused(sink: &CompanionSink) {
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
}

fn every_path_that_is_described_is_there(sink: &CompanionSink) {
    let described = ok(sink, "/openapi.json");
    for path in described["paths"].as_object().expect("paths").keys() {
        let path = path.replace("{table}", "customer").replace("{key}", "42");
        let path = path.replace("{id}", "r-17").replace("{actor}", "ann");
        let path = path.replace("{topic}", "nothing");
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
        match sink.try_get_as("/v1/status", "an0ther") {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
            seen => Err(format!("{seen:?}")),
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
