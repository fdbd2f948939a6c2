//! What the service answers.

use pg_cdc_tests::statements::one_text;
use serde_json::{Value, json};

use super::{ANN, CustomerHistory, created, customer, expect};

/// Requests that must be refused: method, path, headers, body, and the status.
type Refused<'a> = (
    &'a str,
    &'a str,
    &'a [(&'a str, &'a str)],
    Option<String>,
    u16,
);

/// Every bad request is a problem with its status, and changes nothing.
pub(super) fn are_refused(example: &CustomerHistory) -> String {
    let id = created(
        &example
            .service
            .ask_with("POST", "/customers", &[ANN], &customer("Ria")),
    );
    let one = format!("/customers/{id}");
    let body = |value: Value| Some(value.to_string());
    let wrong = |field: &str, value: Value| {
        let mut wrong = customer("Wrong");
        wrong[field] = value;
        body(wrong)
    };
    let ann: &[(&str, &str)] = &[ANN];
    let stranger: &[(&str, &str)] = &[("authorization", "Bearer guess")];
    let good = || body(customer("Good"));
    let bad: Vec<Refused<'_>> = vec![
        ("GET", "/customers", &[], None, 401),
        ("POST", "/customers", stranger, good(), 401),
        ("DELETE", &one, &[], None, 401),
        (
            "POST",
            "/customers",
            ann,
            Some("{\"name\": ".to_owned()),
            400,
        ),
        ("GET", "/customers/one", ann, None, 400),
        ("GET", "/customers?limit=many", ann, None, 400),
        ("GET", "/customers?limt=1", ann, None, 400),
        ("GET", "/customers/9999", ann, None, 404),
        ("PUT", "/customers/9999", ann, good(), 404),
        (
            "PATCH",
            "/customers/9999",
            ann,
            body(json!({"city": "Bern"})),
            404,
        ),
        ("DELETE", "/customers/9999", ann, None, 404),
        ("GET", "/nothing", ann, None, 404),
        ("DELETE", "/customers", ann, None, 405),
        (
            "POST",
            "/customers",
            ann,
            wrong("email", json!("RIA@example.org")),
            409,
        ),
        (
            "PATCH",
            &one,
            ann,
            body(json!({"email": "eva@example.org"})),
            409,
        ),
        ("GET", "/customers?limit=501", ann, None, 422),
        (
            "POST",
            "/customers",
            ann,
            body(json!({"name": "Nobody"})),
            422,
        ),
        (
            "POST",
            "/customers",
            ann,
            body(json!([customer("Listed")])),
            422,
        ),
        ("POST", "/customers", ann, wrong("name", json!(" ")), 422),
        (
            "POST",
            "/customers",
            ann,
            wrong("name", json!("x".repeat(201))),
            422,
        ),
        (
            "POST",
            "/customers",
            ann,
            wrong("name", json!("a\u{0}b")),
            422,
        ),
        (
            "POST",
            "/customers",
            ann,
            wrong("email", json!("nowhere")),
            422,
        ),
        (
            "POST",
            "/customers",
            ann,
            wrong("credit_limit", json!(-1)),
            422,
        ),
        (
            "POST",
            "/customers",
            ann,
            wrong("credit_limit", json!(1e10)),
            422,
        ),
        (
            "POST",
            "/customers",
            ann,
            wrong("credit_limit", json!("much")),
            422,
        ),
        ("POST", "/customers", ann, wrong("id", json!(7)), 422),
        ("PATCH", &one, ann, body(json!({"name": null})), 422),
        (
            "PATCH",
            &one,
            ann,
            body(json!({"created_at": "2026-01-01"})),
            422,
        ),
        ("PUT", &one, ann, body(json!({"city": "Bern"})), 422),
    ];
    let before = rows(example);
    for (method, path, headers, body, status) in &bad {
        let answer = example.service.send(method, path, headers, body.clone());
        let what = format!("{method} {path} {body:?}: {answer:?}");
        assert_eq!(answer.status, *status, "{what}");
        let kind = answer.headers.get("content-type");
        assert_eq!(
            kind.map(|kind| kind.as_bytes()),
            Some(&b"application/problem+json"[..]),
            "{what}"
        );
        assert!(
            answer.body["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{what}"
        );
    }
    assert_eq!(rows(example), before);
    assert_eq!(
        example.versions(id).len(),
        1,
        "versions of the customer that was to be changed"
    );
    format!("{} requests: 400, 401, 404, 405, 409, 422", bad.len())
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
