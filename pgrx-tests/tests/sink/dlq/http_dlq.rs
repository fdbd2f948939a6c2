//! What people decide about refused events over HTTP.

use mongodb::bson::Bson;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Source, TIMEOUT, id_key};
use pg_cdc_tests::statements::one_text;
use pg_cdc_tests::wait_until;
use postgres::Client;
use serde_json::{Value, json};

use super::history_dlq::{COLUMNS, create, documents, of_row, row};

fn parse(answer: &str) -> (u16, Value) {
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (
        status.expect("a status"),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

const JSON: &str = "Content-Type: application/json";

#[test]
fn people_decide_over_http() {
    let mut source = Source::new("http_dlq");
    source.more_toml = "[[rule]]\ntopic = \"http_dlq.public.t\"\nname = \"refused\"\nreject_if = \"after.city == 'bad'\"\nsinks = [\"history\"]\n";
    source.track("t", &COLUMNS, &["id"]);
    let refused = Refused::send(&mut source);
    create(&mut source, &row(6, 0));
    let sink = source.start_sink();
    let mut idle = std::net::TcpStream::connect(sink.http_url().trim_start_matches("http://"))
        .expect("a connection");
    source.wait_until_applied(&sink, "t");
    refuses_who_may_not_ask(&sink, &refused.of_replica[0]);
    lists_and_shows(&sink, &refused.of_history[0]);
    refuses_what_is_wrong(&sink, &refused.of_replica[0], &refused.of_both);
    assert_eq!(count(&sink, "/v1/dlq"), Some(6), "nothing was done");
    all_but_one_are_edited_or_skipped(&sink, &refused);
    let mut replica = source.replica();
    replica
        .batch_execute("ALTER TABLE t ALTER COLUMN city TYPE text")
        .expect("make the column wider");
    decide(&sink, &refused.of_replica[1], "retry", "");
    wait_until("all to be settled", TIMEOUT, || {
        match parse(&sink.get("/v1/dlq")) {
            (200, body) if body == json!({"events": []}) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let rows = "SELECT string_agg(id || city, ' ' ORDER BY id) FROM t";
    assert_eq!(one_text(&mut replica, rows), "1ok 2toolong 3bad 4bad 6city");
    assert_eq!((of_row(&source, 3), of_row(&source, 4)), (vec![0], vec![]));
    let edited = source.history("t").all().into_iter();
    let mut edited =
        edited.filter(|document| document.get_str("_id") == Ok(&refused.of_history[0]));
    let edited = edited.next().expect("the edited event");
    let after = edited.get_document("after").expect("an image");
    assert_eq!(
        after.get_array("a").expect("a"),
        &vec![Bson::Int64(9_007_199_254_740_993)]
    );
    assert_who_decided(&source, &mut replica);
    // Who asks nothing does not keep a connection.
    idle.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut idle, &mut rest).expect("it is closed");
}

/// The ids of what is refused.
struct Refused {
    /// What the replica's column does not hold.
    of_replica: [String; 2],
    /// What the history's rule rejects.
    of_history: [String; 2],
    /// What is no JSON.
    of_both: String,
}

impl Refused {
    fn send(source: &mut Source) -> Refused {
        let long = |id: u64| json!({"id": id, "city": "toolong", "a": [1], "n": 0});
        let of_replica = [1, 2].map(|id| create(source, &long(id)).id());
        let bad = |id: u64| json!({"id": id, "city": "bad", "a": [1], "n": 0});
        let of_history = [3, 4].map(|id| create(source, &bad(id)).id());
        let broken = source.create("t", Some(&id_key(5)), &row(5, 0));
        source.send(&broken.clone().with_value(b"{\"op\":\"c\",\"after\":{"));
        Refused {
            of_replica,
            of_history,
            of_both: broken.id(),
        }
    }
}

/// How many events a page has.
fn count(sink: &CompanionSink, path: &str) -> Option<usize> {
    let (status, body) = parse(&sink.get(path));
    assert_eq!(status, 200, "{path}: {body}");
    body["events"].as_array().map(Vec::len)
}

/// All events page by page, some of them, and one with its body.
fn lists_and_shows(sink: &CompanionSink, of_history: &str) {
    let get = |path: &str| parse(&sink.get(path));
    let (mut pages, mut path) = (0, "/v1/dlq?limit=4".to_owned());
    let mut listed = 0;
    loop {
        let (status, page) = get(&path);
        assert_eq!(status, 200, "{page}");
        pages += 1;
        listed += page["events"].as_array().map_or(0, Vec::len);
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/dlq?limit=4&after={next}"),
            None => break,
        }
    }
    assert_eq!((pages, listed), (2, 6));
    assert_eq!(count(sink, "/v1/dlq"), Some(6));
    assert_eq!(count(sink, "/v1/dlq?sink=replica"), Some(3));
    assert_eq!(count(sink, "/v1/dlq?sink=history&reason=refused"), Some(2));
    let (status, shown) = get(&format!("/v1/dlq/{of_history}"));
    assert_eq!(status, 200, "{shown}");
    assert_eq!(
        (&shown["sink"], &shown["code"]),
        (&json!("history"), &json!("CDC1006"))
    );
    assert!(shown["body"].as_str().expect("a body").contains("\"bad\""));
    assert_eq!(shown["headers"]["cdc.op"], "c");
}

/// Sends what is decided about an event, and returns the answer.
fn decide(sink: &CompanionSink, id: &str, action: &str, body: &str) -> Value {
    let (status, answer) = parse(&sink.post(&format!("/v1/dlq/{id}/{action}"), &[JSON], body));
    assert_eq!(status, 202, "{action}: {answer}");
    answer
}

/// What both sinks refuse is decided about for each of them.
fn all_but_one_are_edited_or_skipped(sink: &CompanionSink, refused: &Refused) {
    decide(
        sink,
        &refused.of_replica[0],
        "edit",
        r#"{"set": {"after.city": "ok"}, "reason": "shorter", "by": "ann"}"#,
    );
    let decided = decide(
        sink,
        &refused.of_history[0],
        "edit",
        r#"{"set": {"after.a": [9007199254740993], "after.city": "city"}, "reason": "a typo"}"#,
    );
    assert_eq!(decided["state"], "edit decided");
    decide(
        sink,
        &refused.of_history[1],
        "skip",
        r#"{"reason": "a test row"}"#,
    );
    for name in ["replica", "history"] {
        let path = format!("/v1/dlq/{}/skip?sink={name}", refused.of_both);
        let (status, answer) = parse(&sink.post(&path, &[JSON], r#"{"reason": "broken"}"#));
        assert_eq!((status, &answer["sink"]), (202, &json!(name)), "{answer}");
    }
}

/// Who did not say who they are is told by their address.
fn assert_who_decided(source: &Source, replica: &mut Client) {
    let who =
        "SELECT string_agg(action || ' ' || decided_by, ', ' ORDER BY at) FROM companion.actions";
    assert_eq!(
        one_text(replica, who),
        "edit ann, skip http 127.0.0.1, retry http 127.0.0.1"
    );
    let actions = documents(source, "companion_actions");
    assert!(
        actions
            .iter()
            .all(|action| action.get_str("by") == Ok("http 127.0.0.1"))
    );
}

/// Rows and decisions are for those who can read the file with the token, and a page of another site gets nothing at all.
fn refuses_who_may_not_ask(sink: &CompanionSink, id: &str) {
    let file = sink.config_file().with_extension("token");
    let mode = std::fs::metadata(file).expect("the token").permissions();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode);
    assert_eq!(mode & 0o777, 0o600);
    for path in [
        "/v1/dlq",
        &format!("/v1/dlq/{id}"),
        "/v1/history/t",
        "/v1/history/t/1",
        "/v1/transactions/1",
        "/v1/actors/ann",
        "/v1/requests/r-17",
    ] {
        for wrong in ["", "x"] {
            assert_eq!(parse(&sink.get_as(path, wrong)).0, 401, "{path}");
        }
        assert_ne!(parse(&sink.get(path)).0, 401, "{path}");
    }
    let skip = format!(
        "POST /v1/dlq/{id}/skip HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    assert_eq!(parse(&sink.ask(&skip)).0, 401);
    for (host, status) in [
        ("127.0.0.1:8480", 200),
        ("localhost", 200),
        ("[::1]:1", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:8480", 403),
    ] {
        for path in ["/v1/status", "/metrics", "/healthz", "/openapi.json"] {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            assert_eq!(parse(&sink.ask(&request)).0, status, "{host} {path}");
        }
    }
}

/// Wrong requests have problems, and change nothing.
fn refuses_what_is_wrong(sink: &CompanionSink, id: &str, of_both: &str) {
    let skip = r#"{"reason": "x"}"#;
    let beginning = &id[..4];
    let origin = "Origin: https://example.org";
    for (path, headers, body, status) in [
        (format!("{id}/skip"), vec![], skip, 415),
        (
            format!("{id}/skip"),
            vec!["Content-Type: text/plain"],
            skip,
            415,
        ),
        (format!("{id}/skip"), vec![JSON, origin], skip, 403),
        (format!("{id}/skip"), vec![JSON], "{}", 400),
        (format!("{id}/skip"), vec![JSON], "{\"reason\"", 400),
        (format!("{id}/retry"), vec![JSON], r#"{"reason": "x"}"#, 400),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {"after.city": "x"}}"#,
            400,
        ),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {}, "reason": "x"}"#,
            400,
        ),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {"city": "x"}, "reason": "x"}"#,
            400,
        ),
        (
            format!("{id}/edit"),
            vec![JSON],
            r#"{"set": {"after.town": "x"}, "reason": "x"}"#,
            400,
        ),
        (
            format!("{of_both}/edit?sink=history"),
            vec![JSON],
            r#"{"set": {"after.n": 1}, "reason": "x"}"#,
            400,
        ),
        (format!("{id}/skip?sink=nobody"), vec![JSON], skip, 400),
        (format!("{beginning}/skip"), vec![JSON], skip, 409),
        (format!("{of_both}/skip"), vec![JSON], skip, 409),
        ("none/skip".to_owned(), vec![JSON], skip, 404),
    ] {
        let (found, problem) = parse(&sink.post(&format!("/v1/dlq/{path}"), &headers, body));
        assert_eq!(found, status, "{path} {headers:?} {body}: {problem}");
        assert_eq!(problem["status"], status, "{path}: {problem}");
        let has_code = matches!(status, 400 | 409);
        assert_eq!(problem["code"] == "CDC1001", has_code, "{path}: {problem}");
        assert!(
            !problem.to_string().contains("toolong"),
            "no values: {problem}"
        );
    }
    let (status, _) = parse(&sink.get("/v1/dlq/none"));
    assert_eq!(status, 404);
    let (status, problem) = parse(&sink.get("/v1/dlq?sinc=history"));
    assert_eq!((status, &problem["code"]), (400, &json!("CDC1001")));
}
