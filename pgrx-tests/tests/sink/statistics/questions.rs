//! How figures are asked for, and what is told of mistakes before anything starts.

use pg_cdc_tests::hand_made_events::{Source, bed};
use serde_json::Value;

use super::{BY_DAY, COLUMNS, companion_sink, create, folder, order, start, wait_for_figures};

#[test]
fn figures_are_asked_for_by_command_and_over_http() {
    let mut source = Source::new("figures_asked");
    source.track("orders", &COLUMNS, &["id"]);
    let sink = companion_sink(&source, &folder("asked"), BY_DAY);
    start(&sink);
    for id in 1..=3 {
        let event = create(&mut source, &order(id, id, "a,b", "1.5"));
        source.send(&event);
    }
    source.flush();
    let day = |day: u64| format!("2026-11-0{day}");
    let days = [day(1), day(2), day(3)];
    let expected: Vec<_> = days
        .iter()
        .map(|day| (day.as_str(), "a,b", 1, "1.5"))
        .collect();
    wait_for_figures(&sink, &expected);
    let csv = sink.run_command(&["statistics", "figures", "--csv", "--to", "2026-11-02"]);
    assert_eq!(
        csv,
        "period,account,count,total,min_amount,max_amount,distinct_amount\n2026-11-01,\"a,b\",1,1.5,1.5,1.5,1\n"
    );
    let path = "/v1/statistics/figures?from=2026-11-02&group=account%3Da%2Cb&limit=1";
    let page = sink.get(path);
    let (head, body) = page.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&body["rows"][0]["period"], &body["time_zone"]),
        (&"2026-11-02".into(), &"Europe/Zurich".into())
    );
    let next = body["next"].as_str().expect("a next page");
    let last = sink.get(&format!("{path}&after={next}"));
    assert!(last.contains("2026-11-03"), "{last}");
    assert!(sink.get_as(path, "wrong").starts_with("HTTP/1.1 401"));
    assert!(sink.get("/v1/statistics/other").starts_with("HTTP/1.1 404"));
    let wrong = sink.get("/v1/statistics/figures?grup=x");
    assert!(wrong.contains("did you mean \\\"group\\\"?"), "{wrong}");
    let output = sink.try_command(&["statistics", "figurs"]);
    assert_eq!(output.status.code(), Some(2));
    let status = sink.state_of("figures");
    assert!(status["store_keys"].as_u64() > Some(3), "{status}");
    let metrics = sink.get("/metrics");
    assert!(
        metrics.contains("companion_sink_store_bytes{sink=\"figures\"}"),
        "{metrics}"
    );
}

#[test]
fn mistakes_are_found_before_anything_starts() {
    let source = Source::new("figures_mistaken");
    let check = |store: &str, counted: &str| {
        let sink = companion_sink(&source, store.as_ref(), counted);
        let output = sink.try_command(&["check", "--offline"]);
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8(text).expect("UTF-8")
    };
    let place = folder("mistaken");
    let place = place.to_string_lossy();
    for (counted, told) in [
        (
            "time_zone = \"Europe/Zurick\"",
            "did you mean \"Europe/Zurich\"?",
        ),
        (
            "measures = [\"sun(after.amount)\"]",
            "did you mean \"sum\"?",
        ),
        ("group_by = [\"acount\"]", "is no path"),
        (
            "where = \"aftr.amount > 1\"",
            "sink.figures.where: unknown variable \"aftr\", did you mean \"after\"?",
        ),
    ] {
        let told_now = check(&place, counted);
        assert!(told_now.contains(told), "{counted}: {told_now}");
        assert!(told_now.contains("companion-sink.toml:"), "{told_now}");
    }
    let file = bed().path("no-folder");
    std::fs::write(&file, b"").expect("a file");
    let told = check(&file.to_string_lossy(), "");
    assert!(told.contains("cannot write the folder"), "{told}");
    assert!(check(&place, "").contains("can be written"));
}
