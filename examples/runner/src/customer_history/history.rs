//! What the history has of what was done.

use std::collections::BTreeMap;
use std::thread;

use mongodb::bson::Document;
use pg_cdc_tests::history::History;
use pg_cdc_tests::statements::one_text;
use serde_json::{Value, json};

use super::system::{ANN, BOB, CustomerHistory, EVE, created, customer, expect, start_service};
use crate::service::Service;

/// A customer's life, each step by another one; the history in MongoDB and over HTTP says so.
pub(super) fn of_three_people(example: &CustomerHistory) -> String {
    let id = live(&example.service);
    let versions = example.versions(id);
    let answered: Vec<Value> = versions.iter().map(told).collect();
    let wanted = [
        json!(["create", "ann", "new customer", "r-1", null, "Basel"]),
        json!([
            "update",
            "bob",
            "umgezogen nach Zürich",
            "r-2",
            "Basel",
            "Zürich"
        ]),
        json!(["update", "ann", null, null, "Zürich", "Basel"]),
        json!([
            "delete",
            "eve",
            "wants to be forgotten",
            "r-3",
            "Basel",
            null
        ]),
    ];
    assert_eq!(answered, wanted, "the answer over HTTP");
    let printed = example.sink.find_in_history(&["customer", &id.to_string()]);
    let printed: Vec<Value> = printed.iter().map(told).collect();
    assert_eq!(printed, wanted, "companion-sink history");
    let times: Vec<&str> = versions.iter().map(commit_time).collect();
    assert!(
        times.is_sorted() && times.iter().all(|time| time.ends_with('Z')),
        "{times:?}"
    );
    for version in &versions {
        let who = &version["who"];
        assert_eq!(who["current_user"], "customer_service", "{version}");
        assert_eq!(who["application_name"], "customer-service", "{version}");
    }

    let history = History::of(&example.place.bed().ferretdb().client(), "crm", "customer");
    let mut documents: Vec<Document> = history.all();
    let entity = format!("crm.public.customer:{{\"id\":{id}}}");
    documents.retain(|document| document.get_str("entity") == Ok(&entity));
    assert_eq!(documents.len(), 4, "{documents:?}");
    let of_request = example.sink.get_json("/v1/requests/r-2");
    assert_eq!(
        of_request["changes"].as_array().map(Vec::len),
        Some(1),
        "{of_request}"
    );
    format!("{} documents in customer_history", history.count())
}

/// Create, update twice, delete; the customer's id.
fn live(service: &Service) -> i64 {
    let why = [ANN, ("x-reason", "new customer"), ("x-request-id", "r-1")];
    let id = created(&service.ask_with("POST", "/customers", &why, &customer("Mia")));
    let path = format!("/customers/{id}");
    let why = [
        BOB,
        ("x-reason", "umgezogen nach Zürich"),
        ("x-request-id", "r-2"),
    ];
    expect(
        200,
        &service.ask_with("PATCH", &path, &why, &json!({"city": "Zürich"})),
    );
    let mut other = customer("Mia");
    other["credit_limit"] = json!(99.5);
    expect(200, &service.ask_with("PUT", &path, &[ANN], &other));
    let why = [
        EVE,
        ("x-reason", "wants to be forgotten"),
        ("x-request-id", "r-3"),
    ];
    expect(204, &service.ask("DELETE", &path, &why));
    expect(404, &service.ask("GET", &path, &[ANN]));
    id
}

/// The state between two versions, and the version of each value.
pub(super) fn as_of_and_blame(example: &CustomerHistory) -> String {
    let service = &example.service;
    let id = created(&service.ask_with("POST", "/customers", &[ANN], &customer("Noa")));
    let path = format!("/customers/{id}");
    let moving = [BOB, ("x-reason", "moved")];
    expect(
        200,
        &service.ask_with("PATCH", &path, &moving, &json!({"city": "Bern"})),
    );
    expect(
        200,
        &service.ask_with("PATCH", &path, &[EVE], &json!({"credit_limit": 10.5})),
    );
    let versions = example.versions(id);
    let ask = |question: &str| {
        let question = format!("/v1/history/customer/{id}/{question}");
        example.sink.get_json(&question)
    };
    let cities = ["Basel", "Bern", "Bern"];
    for (version, city) in versions.iter().zip(cities) {
        let at = ask(&format!("at?time={}", commit_time(version)));
        assert_eq!(at["state"]["city"], city, "{at}");
        assert_eq!(at["version"], version["sequence_number"], "{at}");
    }
    let before = ask("at?time=2026-01-01T00:00:00Z");
    assert_eq!(before["status"], 404, "{before}");
    let blame = ask("blame");
    let by = |column: &str| {
        (
            blame[column]["actor"].clone(),
            blame[column]["version"].clone(),
        )
    };
    assert_eq!(by("name"), (json!("ann"), json!(1)), "{blame}");
    assert_eq!(by("city"), (json!("bob"), json!(2)), "{blame}");
    assert_eq!(blame["city"]["reason"], "moved", "{blame}");
    assert_eq!(by("credit_limit"), (json!("eve"), json!(3)), "{blame}");
    "3 moments, 3 people".to_owned()
}

/// An import that is refused in its middle, a transaction and a savepoint that are rolled back.
pub(super) fn without_rolled_back(example: &CustomerHistory) -> String {
    let list = json!([customer("gone1"), customer("gone2"), customer("Eva")]);
    let answer = example
        .service
        .ask_with("POST", "/customers/import", &[BOB], &list);
    assert_eq!(answer.status, 409, "{answer:?}");
    let source = example.place.bed().source();
    let mut role = source.connect_as("customer_service", example.database.name());
    let statements = "BEGIN; SELECT cdc_context('eve', 'nobody will see');
        INSERT INTO customer (name, email) VALUES ('gone3', 'gone3@example.org');
        UPDATE customer SET city = 'Nowhere'; DELETE FROM customer WHERE name = 'Eva'; ROLLBACK;
        BEGIN; SELECT cdc_context('eve', 'a savepoint'); SAVEPOINT s;
        INSERT INTO customer (name, email) VALUES ('gone4', 'gone4@example.org');
        ROLLBACK TO s; INSERT INTO customer (name, email) VALUES ('kept', 'kept@example.org'); COMMIT";
    role.batch_execute(statements).expect("the transactions");
    example.wait_for_history();
    let history = History::of(&example.place.bed().ferretdb().client(), "crm", "customer");
    let documents = history.all();
    let has = |text: &str| {
        documents
            .iter()
            .filter(|document| document.to_string().contains(text))
            .count()
    };
    for nowhere in ["gone", "nobody will see", "Nowhere"] {
        assert_eq!(has(nowhere), 0, "documents with {nowhere}");
    }
    assert_eq!(has("a savepoint"), 1);
    format!("{} documents, none of it", documents.len())
}

/// Many requests over few connections, of people who give a reason, and who give none.
pub(super) fn of_shared_connections(example: &CustomerHistory) -> String {
    let service = start_service(example.place, &example.database, None, 2);
    let people = [("ann", ANN), ("bob", BOB), ("eve", EVE)];
    thread::scope(|scope| {
        for (name, token) in people {
            let service = &service;
            scope.spawn(move || {
                for i in 0..20 {
                    let reason = format!("{name} {i}");
                    let mut headers = vec![token];
                    if i % 2 == 0 {
                        headers.extend([("x-reason", reason.as_str()), ("x-request-id", &reason)]);
                    }
                    let customer = customer(&format!("{name}-{i}"));
                    created(&service.ask_with("POST", "/customers", &headers, &customer));
                    // One that is refused in between leaves nothing behind either.
                    expect(
                        409,
                        &service.ask_with("POST", "/customers", &headers, &customer),
                    );
                }
            });
        }
    });
    service.stop();
    example.wait_for_history();
    for (name, _) in people {
        let changes = example
            .sink
            .get_json(&format!("/v1/actors/{name}?limit=1000"));
        let changes = changes["changes"].as_array().expect("changes").clone();
        let mut seen = 0;
        for change in &changes {
            let customer = change["after"]["name"].as_str().unwrap_or_default();
            let Some((of, i)) = customer.split_once('-') else {
                continue;
            };
            let reason = i
                .parse::<u32>()
                .is_ok_and(|i| i % 2 == 0)
                .then(|| format!("{name} {i}"));
            assert_eq!(
                (of, &change["why"]["reason"]),
                (name, &json!(reason)),
                "{change}"
            );
            assert_eq!(change["why"]["request_id"], json!(reason), "{change}");
            seen += 1;
        }
        assert_eq!(seen, 20, "customers of {name}");
    }
    "120 requests of 3 people over 2 connections".to_owned()
}

/// Requests are under way when the service is killed. What was answered is there; the history is what the table is.
pub(super) fn of_a_killed_service(example: &CustomerHistory) -> String {
    let port = pg_cdc_tests::port::free();
    let start = || start_service(example.place, &example.database, Some(port), 4);
    let service = start();
    let url = format!("{}/customers", service.url());
    let answered: Vec<i64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let url = &url;
                scope.spawn(move || create_until_it_is_gone(url, writer))
            })
            .collect();
        let rows = "SELECT (count(*) >= 150)::text FROM customer WHERE name LIKE 'killed%'";
        pg_cdc_tests::statements::wait_for_text(&mut example.database.source(), rows, "true");
        service.kill();
        let ids = writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"));
        ids.flatten().collect()
    });
    let service = start();
    let mut kept = 0;
    for id in &answered {
        let why = [BOB, ("x-reason", "after the restart")];
        if kept < 10 {
            let path = format!("/customers/{id}");
            expect(
                200,
                &service.ask_with("PATCH", &path, &why, &json!({"city": "Bern"})),
            );
        }
        kept += 1;
    }
    service.stop();
    let table = table_of(example);
    let lost: Vec<&i64> = answered
        .iter()
        .filter(|id| !table.contains_key(id))
        .collect();
    assert!(lost.is_empty(), "answered, and not there: {lost:?}");
    assert_eq!(newest_states(example), table);
    format!(
        "{kept} answered before the kill; {} customers, table and history alike",
        table.len()
    )
}

/// The ids of those that were answered.
fn create_until_it_is_gone(url: &str, writer: u32) -> Vec<i64> {
    let agent = ureq::agent();
    let mut ids = Vec::new();
    loop {
        let customer = customer(&format!("killed{writer}-{}", ids.len()));
        let answer = agent.post(url).header(ANN.0, ANN.1).send_json(&customer);
        let body = answer.and_then(|mut answer| answer.body_mut().read_json::<Value>());
        match body {
            Ok(body) => ids.push(body["id"].as_i64().expect("an id")),
            Err(_) => return ids,
        }
    }
}

/// The table: names and cities by id.
fn table_of(example: &CustomerHistory) -> BTreeMap<i64, (Value, Value)> {
    let rows = "SELECT jsonb_agg(c)::text FROM customer c";
    let rows = one_text(&mut example.database.source(), rows);
    let rows: Vec<Value> = serde_json::from_str(&rows).expect("rows");
    rows.iter().map(name_and_city).collect()
}

/// The same, as the history has it now.
fn newest_states(example: &CustomerHistory) -> BTreeMap<i64, (Value, Value)> {
    example.wait_for_history();
    let script = example
        .sink
        .find_in_history(&["customer", "--at", "2999-01-01", "--json"]);
    script
        .iter()
        .map(|row| name_and_city(&row["state"]))
        .collect()
}

fn name_and_city(row: &Value) -> (i64, (Value, Value)) {
    let id = row["id"].as_i64().expect("an id");
    (id, (row["name"].clone(), row["city"].clone()))
}

/// What a version says: operation, who, why, request, city before and after.
fn told(version: &Value) -> Value {
    let why = &version["why"];
    json!([
        version["op"],
        version["who"]["actor"],
        why["reason"],
        why["request_id"],
        version["before"]["city"],
        version["after"]["city"],
    ])
}

fn commit_time(version: &Value) -> &str {
    version["when"]["commit"].as_str().expect("a time")
}
