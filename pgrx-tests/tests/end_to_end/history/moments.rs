//! The history at a moment: as it was then, and never half of a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, wait_until};
use postgres::Client;
use serde_json::Value;

use super::http::get;
use super::questions::{ask, now};

const TIMEOUT: Duration = Duration::from_secs(120);
const ACCOUNTS: i64 = 30;

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

/// Reads while somebody writes: complete moments that were seen.
fn moments_while_it_is_written(database: &Database<'_>, sink: &CompanionSink) -> BTreeSet<String> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
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
            let (status, page) = get(sink, "/v1/history/account/at?time=2100-01-01");
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
            let (_, page) = get(sink, "/v1/history/account/at?time=2100-01-01");
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
    })
}

#[test]
fn a_moment_has_no_half_of_a_transaction() {
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
    let moments = moments_while_it_is_written(&database, &sink);
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
