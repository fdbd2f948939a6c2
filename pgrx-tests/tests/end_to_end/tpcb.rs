//! TPC-B as pgbench plays it, from the load of its tables on, while both sinks run: everything arrives, once, in order,
//! and adds up (G1, G4, G8, G12).

use std::collections::{HashMap, HashSet};

use mongodb::bson::{Bson, Document};
use pg_cdc_tests::topic::Record;
use pg_cdc_tests::{Database, TestBed, prefix_rule, replica};
use postgres::Client;

const TABLES: [&str; 4] = [
    "pgbench_accounts",
    "pgbench_branches",
    "pgbench_tellers",
    "pgbench_history",
];
const CLIENTS: &str = "4";
const SECONDS: &str = "20";
/// Rows that `pgbench -i -s 2` loads: accounts, branches and tellers.
const LOADED_ROWS: usize = 200_000 + 2 + 20;

#[test]
fn everything_arrives_once_in_order_and_adds_up() {
    let database = TestBed::shared().database("tpcb");
    let server = database.bed().source();
    let pgbench =
        |arguments: &[&str]| server.program("pgbench", &[arguments, &[database.name()]].concat());

    // Tables and keys first, so that the load is captured as well.
    pgbench(&["-i", "-s", "2", "-q", "-I", "dtp"]);
    let mut source = database.source();
    for table in TABLES {
        source
            .execute("SELECT cdc_track($1::text::regclass)", &[&table])
            .expect("cdc_track");
    }
    let sink = database.start_companion_sink();
    pgbench(&["-i", "-s", "2", "-q", "-I", "g"]);
    pgbench(&["-n", "-c", CLIENTS, "-j", "2", "-T", SECONDS]);

    database.wait_until_in_kafka();
    let topics: Vec<String> = TABLES.iter().map(|table| database.topic(table)).collect();
    sink.wait_until_applied(database.bed().kafka(), &topics);

    let mut copy = database.replica();
    for table in TABLES {
        replica::assert_equal(&mut source, &mut copy, &format!("public.{table}"));
    }
    let transactions = check_sums(&mut source, &mut copy);
    let events = check_topics(&database, transactions);
    check_history(&database, &events);
    assert!(sink.stop().expect("it ran until now").success());
    server.assert_never_crashed();
}

/// All sums of balances are equal, on both sides. Returns the number of TPC-B transactions, which is not 0.
fn check_sums(source: &mut Client, copy: &mut Client) -> usize {
    let query = "SELECT (SELECT sum(abalance)::bigint FROM pgbench_accounts), (SELECT sum(bbalance)::bigint FROM pgbench_branches),
                        (SELECT sum(tbalance)::bigint FROM pgbench_tellers), coalesce(sum(delta), 0)::bigint, count(*)
                 FROM pgbench_history";
    let sums = |client: &mut Client| -> Vec<i64> {
        let row = client.query_one(query, &[]).expect("the sums");
        (0..5).map(|i| row.get(i)).collect()
    };
    let (here, there) = (sums(source), sums(copy));
    assert_eq!(
        here, there,
        "accounts, branches, tellers, deltas, transactions"
    );
    assert_eq!(
        [here[0], here[1], here[2]],
        [here[3]; 3],
        "the balances add up to the deltas"
    );
    assert!(here[4] > 0, "pgbench did something");
    usize::try_from(here[4]).expect("a count")
}

/// Every change is in its topic, in an order in which each follows from the one before. Returns the ids of all changes.
fn check_topics(database: &Database<'_>, transactions: usize) -> HashSet<String> {
    let mut ids = HashSet::new();
    let mut changes = 0;
    for (table, balance) in TABLES.iter().zip(["abalance", "bbalance", "tbalance", ""]) {
        let records = database.records(table);
        let events: Vec<&Record> = prefix_rule::assert_holds(&records)
            .into_iter()
            .filter(|r| r.is_row_change())
            .collect();
        let updates = events.iter().filter(|event| event.op() == "u").count();
        assert_eq!(
            updates,
            if balance.is_empty() { 0 } else { transactions },
            "updates of {table}"
        );
        if !balance.is_empty() {
            check_chain(&events, balance);
        }
        changes += events.len();
        ids.extend(events.iter().map(|event| event.id().to_owned()));
    }
    assert_eq!(
        changes,
        LOADED_ROWS + 4 * transactions,
        "row changes in Kafka"
    );
    assert_eq!(ids.len(), changes, "each id once");
    ids
}

/// In the order of versions, what a row was before is what the change before left.
fn check_chain(events: &[&Record], balance: &str) {
    let mut last: HashMap<&str, i64> = HashMap::new();
    for event in events {
        let json = event.json();
        if let Some(left) = last.get(event.key_text()) {
            assert_eq!(
                json["before"][balance].as_i64(),
                Some(*left),
                "before of {event:?}"
            );
        }
        last.insert(
            event.key_text(),
            json["after"][balance].as_i64().expect("a balance"),
        );
    }
}

/// The history has a document for each change and no other, and its images add up.
fn check_history(database: &Database<'_>, events: &HashSet<String>) {
    let mut ids = HashSet::new();
    let mut sums: HashMap<&str, i64> = HashMap::new();
    for (table, column) in TABLES
        .iter()
        .zip(["abalance", "bbalance", "tbalance", "delta"])
    {
        for document in database.history(table).all() {
            let op = document.get_str("op").expect("op");
            if op == "truncate" {
                continue;
            }
            let id = document.get_str("_id").expect("_id").to_owned();
            assert!(ids.insert(id), "twice in the history: {document}");
            // What a change added: for an update the difference, for an insert all.
            *sums.entry(column).or_default() +=
                image(&document, "after", column) - image(&document, "before", column);
        }
    }
    assert!(
        &ids == events,
        "{} documents in the history, {} changes",
        ids.len(),
        events.len()
    );
    let delta = sums["delta"];
    assert_eq!(
        sums,
        HashMap::from([
            ("abalance", delta),
            ("bbalance", delta),
            ("tbalance", delta),
            ("delta", delta)
        ])
    );
}

/// A number of an image; 0 where there is no image.
fn image(document: &Document, image: &str, column: &str) -> i64 {
    match document.get(image) {
        None | Some(Bson::Null) => 0,
        Some(Bson::Document(values)) => match values.get(column) {
            Some(Bson::Int32(n)) => i64::from(*n),
            Some(Bson::Int64(n)) => *n,
            other => panic!("{column} is {other:?} in {document}"),
        },
        other => panic!("{image} is {other:?} in {document}"),
    }
}
