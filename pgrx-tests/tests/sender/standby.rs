//! Nothing is sent before a synchronous standby has it (G3).

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::sender_status::wait_for_state;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, port, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn nothing_is_sent_before_the_synchronous_standby_has_it() {
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut client = database.source();
    run(
        &mut client,
        &[
            // The writer does not wait: so it is the sender that does.
            "SET synchronous_commit = local",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "SELECT cdc_track('t')",
            "INSERT INTO t VALUES (1)",
        ],
    );
    database.wait_until_in_kafka();
    let standby = bed
        .source()
        .standby(&bed.path("standby"), port::free(), "second");

    // `auto`: from the moment a standby is named.
    bed.source().set("synchronous_standby_names", "second");
    bed.source().reload();
    // None has confirmed anything yet. From here on the reload counts.
    let waiting_for = wait_for_state(&mut client, "waiting_for_standby", None).waiting_for;
    assert_eq!(waiting_for.as_deref(), Some("a synchronous standby"));
    run(
        &mut client,
        &["INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)"],
    );
    assert_eq!(database.ids_in_topic("t"), BTreeSet::from([1]));
    standby.start();
    wait_for_state(&mut client, "streaming", None);
    database.wait_until_in_kafka();
    assert_eq!(database.ids_in_topic("t"), BTreeSet::from([1, 2, 3]));

    // What is sent is at the standby, also under load.
    for id in 4..200 {
        client
            .execute("INSERT INTO t VALUES ($1)", &[&id])
            .expect("a row");
    }
    database.wait_until_in_kafka();
    let sent = "SELECT count(*) = 0 FROM pg_stat_replication WHERE flush_lsn < (SELECT sent_lsn FROM cdc_status())";
    assert!(
        client
            .query_one(sent, &[])
            .expect("the standby")
            .get::<_, bool>(0)
    );

    standby.stop();
    run(&mut client, &["INSERT INTO t VALUES (200)"]);
    wait_for_state(&mut client, "waiting_for_standby", None);
    assert_eq!(database.ids_in_topic("t").len(), 199);
    bed.source().set("cdc.wait_for_standby", "off");
    bed.source().reload();
    wait_for_state(&mut client, "streaming", None);
    database.wait_until_in_kafka();
    assert_eq!(database.ids_in_topic("t").len(), 200);

    // `on` without a standby's name is a contradiction: it is said, and nothing is sent.
    bed.source().set("synchronous_standby_names", "");
    bed.source().set("cdc.wait_for_standby", "on");
    bed.source().reload();
    let waiting_for = wait_for_state(&mut client, "waiting_for_standby", None).waiting_for;
    let waiting_for = waiting_for.expect("what it waits for");
    run(&mut client, &["INSERT INTO t VALUES (201)"]);
    assert!(
        waiting_for.starts_with("synchronous_standby_names to be set"),
        "{waiting_for}"
    );
    assert_eq!(database.ids_in_topic("t").len(), 200);
    bed.source().assert_never_crashed();
}

/// Writers that never wait: each keeps a connection, opens another at once when it is lost, and writes one row after the
/// other. What was committed is known to the client, or at the end to the table.
struct Pool {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Pool {
    fn start(urls: &[String], writers: i64) -> Pool {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let threads = (0..writers)
            .map(|writer| {
                let (stop, urls) = (std::sync::Arc::clone(&stop), urls.to_vec());
                std::thread::spawn(move || {
                    let mut next = writer * 10_000_000 + 1;
                    let mut clients: Vec<Option<Client>> = urls.iter().map(|_| None).collect();
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        for (client, url) in clients.iter_mut().zip(&urls) {
                            if client.as_ref().is_none_or(Client::is_closed) {
                                *client = Client::connect(url, postgres::NoTls).ok();
                            }
                            next += 1;
                            // A standby refuses it, on a connection that stays.
                            let written = client.as_mut().map(|client| {
                                client.execute("INSERT INTO t VALUES ($1)", &[&next])
                            });
                            if !matches!(written, Some(Ok(_))) {
                                std::thread::sleep(Duration::from_millis(1));
                            }
                        }
                    }
                })
            })
            .collect();
        Pool { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.threads
            .into_iter()
            .for_each(|thread| thread.join().expect("a writer"));
    }
}

fn number(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).expect(query).get(0)
}

fn assert_every_row_is_there(database: &Database<'_>, client: &mut Client) -> usize {
    let rows = client.query("SELECT id FROM t", &[]).expect("the rows");
    let rows: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    client
        .query("SELECT cdc_wait('1 min')", &[])
        .expect("everything is sent");
    let sent = database.ids_in_topic("t");
    let missing: Vec<i64> = rows.difference(&sent).copied().collect();
    assert!(
        missing.is_empty(),
        "{} of {} rows have no event, such as {}",
        missing.len(),
        rows.len(),
        missing[0]
    );
    assert_eq!(
        number(client, "SELECT uncovered_rows FROM cdc_status()"),
        0,
        "rows that were not captured"
    );
    rows.len()
}

/// How often each kind of restart is tried; more by hand.
fn rounds() -> usize {
    std::env::var("PG_CDC_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"))
}

/// From the first moment after a start of any kind on, and after a promotion in sessions that were there before, also while
/// the sender cannot start at all, whatever is committed has its event in the end.
#[test]
fn no_row_is_without_an_event_however_the_server_came_up() {
    // The workers of PostgreSQL itself take what is left of the processes.
    let bed = TestBed::start();
    let database = bed.database("shop");
    let mut client = database.source();
    run(
        &mut client,
        &[
            "CREATE TABLE t (id bigint PRIMARY KEY)",
            "SELECT cdc_track('t')",
        ],
    );
    restarts_of_every_kind_lose_no_row(&database);
    a_missing_process_for_the_sender_is_told(bed.source());
    an_identity_that_cannot_be_read_loses_no_row(&database);
    promotions_lose_no_row(&database);
    bed.source().assert_never_crashed();
}

fn restarts_of_every_kind_lose_no_row(database: &Database<'_>) {
    let source = database.bed().source();
    let pool = Pool::start(&[source.url("shop")], 4);
    for _ in 0..rounds() {
        for kind in ["fast", "immediate", "kill"] {
            let before = number(&mut source.connect("shop"), "SELECT count(*) FROM t");
            match kind {
                "fast" => source.stop(),
                "immediate" => source.stop_immediately(),
                _ => source.kill(),
            }
            source.start();
            wait_until("rows to be written", TIMEOUT, || {
                let now = number(&mut source.connect("shop"), "SELECT count(*) FROM t");
                if now > before + 100 {
                    Ok(())
                } else {
                    Err(format!("{now} rows"))
                }
            });
        }
    }
    pool.stop();
    let mut client = source.connect("shop");
    let rows = assert_every_row_is_there(database, &mut client);
    eprintln!("{rows} rows over {} restarts", 3 * rounds());
}

/// No process is free for it, and the slot holds what is written.
fn a_missing_process_for_the_sender_is_told(source: &Postgres) {
    source.set("max_worker_processes", "1");
    source.restart();
    let mut client = source.connect("shop");
    run(
        &mut client,
        &["INSERT INTO t SELECT -n FROM generate_series(1, 100) AS n"],
    );
    wait_until("the missing process to be told", TIMEOUT, || {
        let row = client
            .query_one("SELECT error_code FROM cdc_status()", &[])
            .expect("cdc_status");
        match row.get::<_, Option<String>>(0).as_deref() {
            Some("CDC0005") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    source.set("max_worker_processes", "8");
}

/// Garbage in its place, then nothing at all.
fn an_identity_that_cannot_be_read_loses_no_row(database: &Database<'_>) {
    let source = database.bed().source();
    let identity = source.data_folder().join("pg_cdc/source.json");
    let kept = std::fs::read(&identity).expect("the identity");
    for (round, broken) in ["garbage", "missing"].into_iter().enumerate() {
        source.stop();
        std::fs::remove_file(&identity).expect("take the identity away");
        if broken == "garbage" {
            source.write_file("pg_cdc/source.json", b"{\"source_id\"", 0o600);
        }
        source.start();
        let mut client = source.connect("shop");
        let insert =
            format!("INSERT INTO t SELECT -{round}1000 - n FROM generate_series(1, 100) AS n");
        run(
            &mut client,
            &[
                &insert,
                "CHECKPOINT",
                "SELECT pg_switch_wal()",
                "CHECKPOINT",
            ],
        );
        wait_for_state(&mut client, "halted", Some("CDC0405"));
        source.write_file("pg_cdc/source.json", &kept, 0o600);
        source.reload();
        wait_for_state(&mut client, "streaming", None);
        // The session from before goes on.
        run(&mut client, &[&insert.replace("1000", "2000")]);
        assert_every_row_is_there(database, &mut client);
    }
}

/// Sessions of the standby become writers before its sender runs.
fn promotions_lose_no_row(database: &Database<'_>) {
    let bed = database.bed();
    let mut promoted: Vec<Postgres> = Vec::new();
    for round in 0..rounds() {
        let primary = promoted.last().unwrap_or(bed.source());
        let folder = bed.path(&format!("standby{round}"));
        let standby = primary.standby(&folder, port::free(), "second");
        standby.start();
        let pool = Pool::start(&[standby.url("shop")], 4);
        let mut client = standby.connect("shop");
        let source_id = |client: &mut Client| -> Option<String> {
            let row = client.query_one("SELECT source_id FROM cdc_status()", &[]);
            row.expect("cdc_status").get(0)
        };
        let id = source_id(&mut primary.connect("shop"));
        assert!(id.is_some());
        assert_eq!(source_id(&mut client), id);
        primary.stop();
        let before = number(&mut client, "SELECT count(*) FROM t");
        run(&mut client, &["SELECT pg_promote()"]);
        wait_until("rows to be written", TIMEOUT, || {
            let now = number(&mut client, "SELECT count(*) FROM t");
            if now > before + 100 {
                Ok(())
            } else {
                Err(format!("{now} rows"))
            }
        });
        wait_for_state(&mut client, "halted", Some("CDC0407"));
        run(
            &mut client,
            &["SELECT cdc_adopt(source_id) FROM cdc_status()"],
        );
        wait_for_state(&mut client, "streaming", None);
        pool.stop();
        let now = assert_every_row_is_there(database, &mut client);
        eprintln!("{} rows of a promoted standby", now as i64 - before);
        standby.assert_never_crashed();
        promoted.push(standby);
    }
}
