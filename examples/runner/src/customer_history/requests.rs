//! What the service answers.

use pg_cdc_tests::statements::one_text;
use serde_json::{Value, json};

use super::system::{ANN, CustomerHistory, customer, expect};
use crate::service::Answer;

/// Method, path and body of ann's requests that must be refused, and with which status. Eva is customer 1.
const BAD: &[(&str, &str, &str, u16)] = &[
    ("POST", "/customers", r#"{"name": "#, 400),
    ("GET", "/customers/one", "", 400),
    ("GET", "/customers?limit=many", "", 400),
    ("GET", "/customers?limt=1", "", 400),
    ("GET", "/customers/9999", "", 404),
    (
        "PUT",
        "/customers/9999",
        r#"{"name": "X", "email": "x@example.org"}"#,
        404,
    ),
    ("PATCH", "/customers/9999", r#"{"city": "Bern"}"#, 404),
    ("DELETE", "/customers/9999", "", 404),
    ("GET", "/nothing", "", 404),
    ("DELETE", "/customers", "", 405),
    (
        "POST",
        "/customers",
        r#"{"name": "X", "email": "EVA@example.org"}"#,
        409,
    ),
    (
        "PATCH",
        "/customers/2",
        r#"{"email": "eva@example.org"}"#,
        409,
    ),
    ("GET", "/customers?limit=501", "", 422),
    ("POST", "/customers", r#"{"name": "Nobody"}"#, 422),
    (
        "POST",
        "/customers",
        r#"[{"name": "X", "email": "x@example.org"}]"#,
        422,
    ),
    (
        "POST",
        "/customers",
        r#"{"name": " ", "email": "x@example.org"}"#,
        422,
    ),
    (
        "POST",
        "/customers",
        r#"{"name": "a\u0000b", "email": "x@example.org"}"#,
        422,
    ),
    (
        "POST",
        "/customers",
        r#"{"name": "X", "email": "nowhere"}"#,
        422,
    ),
    (
        "POST",
        "/customers",
        r#"{"name": "X", "email": "x@example.org", "id": 7}"#,
        422,
    ),
    ("PATCH", "/customers/1", r#"{"credit_limit": -1}"#, 422),
    (
        "PATCH",
        "/customers/1",
        r#"{"credit_limit": 10000000000}"#,
        422,
    ),
    ("PATCH", "/customers/1", r#"{"credit_limit": "much"}"#, 422),
    ("PATCH", "/customers/1", r#"{"name": null}"#, 422),
    (
        "PATCH",
        "/customers/1",
        r#"{"created_at": "2026-01-01"}"#,
        422,
    ),
    ("PUT", "/customers/1", r#"{"city": "Bern"}"#, 422),
];

/// Every bad request is a problem with its status, and changes nothing.
pub(super) fn are_refused(example: &CustomerHistory) -> String {
    let service = &example.service;
    expect(
        201,
        &service.ask_with("POST", "/customers", &[ANN], &customer("Ria")),
    );
    let before = rows(example);
    let versions = example.versions(1).len();
    for (method, path, body, status) in BAD {
        let body = (!body.is_empty()).then(|| (*body).to_owned());
        let what = format!("{method} {path} {body:?}");
        assert_problem(*status, &service.send(method, path, &[ANN], body), &what);
    }
    let stranger = ("authorization", "Bearer guess");
    let strangers: [&[(&str, &str)]; 2] = [&[], &[stranger]];
    for headers in strangers {
        let good = &customer("Good");
        assert_problem(401, &service.ask("GET", "/customers", headers), "GET");
        assert_problem(
            401,
            &service.ask_with("POST", "/customers", headers, good),
            "POST",
        );
        assert_problem(
            401,
            &service.ask("DELETE", "/customers/1", headers),
            "DELETE",
        );
    }
    assert_eq!(rows(example), before);
    assert_eq!(example.versions(1).len(), versions, "versions of Eva");
    format!("{} requests: 400, 401, 404, 405, 409, 422", BAD.len() + 6)
}

fn assert_problem(status: u16, answer: &Answer, what: &str) {
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    let kind = answer.headers.get("content-type");
    let is_problem = kind.is_some_and(|kind| kind == "application/problem+json");
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    assert!(is_problem && !detail.is_empty(), "{what}: {answer:?}");
}

/// Pages have every customer once, in the order of their ids.
pub(super) fn pages(example: &CustomerHistory) -> String {
    let many: Vec<Value> = (0..50).map(|i| customer(&format!("paged{i}"))).collect();
    let imported = example
        .service
        .ask_with("POST", "/customers/import", &[ANN], &json!(many));
    expect(201, &imported);
    let (mut found, mut pages, mut after) = (Vec::new(), 0, 0);
    loop {
        let page = example
            .service
            .ask("GET", &format!("/customers?limit=7&after={after}"), &[ANN]);
        expect(200, &page);
        let customers = page.body["customers"].as_array().expect("customers");
        found.extend(
            customers
                .iter()
                .map(|customer| customer["id"].as_i64().expect("an id")),
        );
        pages += 1;
        match page.body["next"].as_i64() {
            Some(next) => after = next,
            None => break,
        }
    }
    let ids = "SELECT string_agg(id::text, ',' ORDER BY id) FROM customer";
    let ids = one_text(&mut example.database.source(), ids);
    let found: Vec<String> = found.iter().map(i64::to_string).collect();
    assert_eq!(found.join(","), ids);
    format!("{} customers in {pages} pages", found.len())
}

fn rows(example: &CustomerHistory) -> String {
    let rows = "SELECT jsonb_agg(c ORDER BY id)::text FROM customer c";
    one_text(&mut example.database.source(), rows)
}
