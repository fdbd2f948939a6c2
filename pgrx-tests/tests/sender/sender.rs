//! The sender: whatever ends it, it never takes the server down (G11), loses nothing and repeats recognisably (G1, G4).

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::sender_status::SenderStatus;
use pg_cdc_tests::statements::{insert_ids, run};
use pg_cdc_tests::{Database, TestBed, port, prefix_rule, wait_until};
use postgres::Client;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The ids of all rows that were inserted, each in the topic at least once, in an order that keeps the prefix rule.
pub(super) fn inserted(database: &Database<'_>) -> BTreeSet<i64> {
    let records = database.records("t");
    let ids = prefix_rule::inserted_ids(&records);
    let unique: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "each change once, copies aside");
    unique
}

#[test]
fn a_sender_that_is_ended_or_killed_comes_back_and_loses_nothing() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..100);
    for round in 1..=3 {
        let pid = SenderStatus::of(&mut client).pid.expect("a sender");
        bed.source().signal_backend(pid, libc::SIGTERM);
        insert_ids(&mut client, round * 100..(round + 1) * 100);
        wait_until(
            "another sender",
            Duration::from_secs(60),
            || match SenderStatus::of(&mut client).pid {
                Some(other) if other != pid => Ok(()),
                seen => Err(format!("{seen:?}")),
            },
        );
    }
    assert_eq!(inserted(&database), (0..400).collect());
    bed.source().assert_never_crashed();

    // kill -9 of the postmaster: recovery, then on from the position.
    insert_ids(&mut client, 400..500);
    bed.source().kill();
    bed.source().start();
    bed.wait_until_streaming("shop");
    let mut client = database.source();
    insert_ids(&mut client, 500..600);
    assert_eq!(inserted(&database), (0..600).collect());
}

#[test]
fn the_server_stops_fast_while_kafka_does_not_answer() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    database.wait_until_in_kafka();
    bed.kafka().freeze();
    insert_ids(&mut client, 10..500);
    drop(client);
    // Panics when the server does not stop in time.
    bed.source().stop();
    bed.source().assert_never_crashed();
    bed.kafka().thaw();
    bed.source().start();
    bed.wait_until_streaming("shop");
    assert_eq!(inserted(&database), (0..500).collect());
    bed.source().assert_never_crashed();
}

#[test]
fn a_broker_that_is_killed_and_comes_back_is_caught_up_with() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..200);
    bed.kafka().kill();
    insert_ids(&mut client, 200..700);
    let waiting = client
        .query_one("SELECT cdc_wait('1 s')", &[])
        .expect_err("Kafka is down");
    let waiting = waiting.as_db_error().expect("an error of the server");
    assert_eq!(waiting.code().code(), "55000");
    assert!(
        waiting.hint().unwrap_or_default().ends_with("[CDC0601]"),
        "{waiting:?}"
    );
    bed.kafka().start();
    assert_eq!(inserted(&database), (0..700).collect());
    bed.source().assert_never_crashed();
}

#[test]
fn waiting_for_oneself_is_refused() {
    let database = TestBed::shared().database("oneself");
    let mut client = database.source();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t'); BEGIN; INSERT INTO t VALUES (1)")
        .expect("an open transaction with changes");
    pg_cdc_tests::refusal::coded(&mut client, "SELECT cdc_wait()", "25001", "CDC0602");
}

#[test]
fn what_processes_wait_for_is_seen() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("waits", "id int PRIMARY KEY");
    database.wait_until_in_kafka();
    let version = "SELECT current_setting('server_version_num')::int >= 170000";
    let has_names: bool = client.query_one(version, &[]).expect("a version").get(0);
    let mut observer = database.source();
    let mut wait_for = |who: &str, name: &str| {
        let name = if has_names { name } else { "Extension" };
        let query = format!(
            "SELECT wait_event_type || ' ' || wait_event FROM pg_stat_activity WHERE {who}"
        );
        wait_until(&format!("{who} to wait for {name}"), TIMEOUT, || {
            let seen = observer.query_opt(&query, &[]).expect("at most one");
            let seen: Option<String> = seen.and_then(|process| process.get(0));
            if seen == Some(format!("Extension {name}")) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        });
    };
    let sender = "backend_type = 'pg_cdc sender' AND query = 'streaming'";
    wait_for(sender, "PgCdcSenderMain");
    bed.kafka().freeze();
    insert_ids(&mut client, 0..1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&mut database.source(), &["SELECT cdc_wait('1 min')"]));
        wait_for("query = 'SELECT cdc_wait(''1 min'')'", "PgCdcSent");
        bed.kafka().thaw();
        waiting.join().expect("nobody waits in vain");
    });
    run(&mut client, &["SELECT cdc_pause()"]);
    wait_for(
        "backend_type = 'pg_cdc sender' AND query = 'paused'",
        "PgCdcPause",
    );
    run(&mut client, &["SELECT cdc_resume()"]);
    assert_eq!(inserted(&database), BTreeSet::from([0]));
}

#[test]
fn a_copied_database_is_silent_until_it_is_tracked_again() {
    let database = TestBed::shared().database("original");
    let mut client = database.source();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); SELECT cdc_track('t'); INSERT INTO t VALUES (1)",
        )
        .expect("track");
    assert_eq!(inserted(&database), BTreeSet::from([1]));
    drop(client);
    database
        .bed()
        .source()
        .connect("postgres")
        .batch_execute("CREATE DATABASE copied TEMPLATE original")
        .expect("a copy");
    let mut copied = database.bed().source().connect("copied");
    copied
        .batch_execute("INSERT INTO t VALUES (2)")
        .expect("a change in the copy");
    assert_eq!(inserted(&database), BTreeSet::from([1]));
    copied
        .batch_execute("SELECT cdc_track('t'); INSERT INTO t VALUES (3)")
        .expect("track the copy");
    database.wait_until_in_kafka();
    let records = pg_cdc_tests::topic::read(database.bed().kafka(), "copied.public.t");
    let changes: Vec<_> = records.iter().filter(|r| r.is_row_change()).collect();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].key_text(), "{\"id\":3}");
    assert_eq!(inserted(&database), BTreeSet::from([1]));
}

#[test]
fn a_name_that_another_source_has_is_not_taken_from_it() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    database.wait_until_in_kafka();

    // Another server, with its own identity, under the same name.
    let folder = pg_cdc_tests::bed::temporary_folder();
    let port = pg_cdc_tests::port::free();
    let brokers = bed.kafka().brokers();
    let other = Postgres::create(
        folder.path(),
        port,
        &[
            ("shared_preload_libraries", "pg_cdc"),
            ("cdc.brokers", &brokers),
            ("cdc.topic_replication_factor", "1"),
        ],
    );
    other.start();
    let mut stranger = other.connect("postgres");
    stranger
        .batch_execute("CREATE EXTENSION pg_cdc")
        .expect("extension");
    wait_until("the second to halt", Duration::from_secs(60), || {
        let row = stranger.query_one("SELECT state, error_code FROM cdc_status()", &[]);
        let row = row.map_err(|e| format!("{e:?}"))?;
        match (row.get("state"), row.get("error_code")) {
            ("halted", Some("CDC0406")) => Ok(()),
            (state, code) => Err(format!("{state} {code:?}")),
        }
    });
    // The first one did not notice.
    insert_ids(&mut client, 10..20);
    assert_eq!(inserted(&database), (0..20).collect());
    let state: String = client
        .query_one("SELECT state FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0);
    assert_eq!(state, "streaming");
    other.stop();
    bed.source().assert_never_crashed();
}

#[test]
fn kill_9_of_the_sender_and_of_a_backend_loses_nothing_and_sends_nothing_unfinished() {
    let bed = TestBed::start_with(&[("cdc.capture_buffer", "64kB")]);
    let (database, mut client) = bed.tracked_table("killed", "id int PRIMARY KEY");
    for round in 0..3 {
        insert_ids(&mut client, round * 100..round * 100 + 100);
        // A transaction that has written chunks and never ends.
        let mut open = database.source();
        open.batch_execute(
            "BEGIN; INSERT INTO t SELECT generate_series(100000, 120000); SAVEPOINT s",
        )
        .expect("an open transaction");
        let backend: i32 = open
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("its process")
            .get(0);
        let pid = match round {
            0 => SenderStatus::of(&mut client).pid.expect("a sender"),
            _ => backend,
        };
        // The postmaster ends all processes after that, and recovers.
        bed.source().signal_backend(pid, libc::SIGKILL);
        // A process that was not killed by us is gone once the postmaster has noticed. From then on it lets nobody in
        // before it has recovered.
        wait_until("the server to recover", Duration::from_secs(60), || {
            for old in [&mut open, &mut client] {
                if old.simple_query("SELECT 1").is_ok() {
                    return Err("an old connection still lives".to_owned());
                }
            }
            bed.source().try_connect("killed").map(drop)
        });
        bed.wait_until_streaming("killed");
        client = database.source();
    }
    assert_eq!(inserted(&database), (0..300).collect());
    let status = client
        .query_one("SELECT open_transactions FROM cdc_status()", &[])
        .expect("cdc_status");
    assert_eq!(status.get::<_, i32>(0), 0, "nothing pins the WAL");
}

#[test]
fn what_a_dropped_database_had_is_sent_all_the_same() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("dropped", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    client
        .batch_execute("SELECT cdc_pause()")
        .expect("pause the sender");
    insert_ids(&mut client, 10..20);
    drop(client);
    let mut admin = bed.source().connect("postgres");
    run(
        &mut admin,
        &[
            "DROP DATABASE dropped",
            "CREATE EXTENSION pg_cdc",
            "SELECT cdc_resume()",
            "SELECT cdc_wait()",
        ],
    );
    let records = pg_cdc_tests::topic::read(bed.kafka(), &database.topic("t"));
    let events = prefix_rule::assert_holds(&records);
    assert_eq!(events.iter().filter(|event| event.op() == "c").count(), 20);
    bed.source().assert_never_crashed();
}

#[test]
fn a_sender_that_is_ended_again_and_again_harms_nobody() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("loop", "id int PRIMARY KEY");
    let mut last = None;
    for round in 0..8 {
        insert_ids(&mut client, round * 10..round * 10 + 10);
        let pid = wait_until(
            "a sender",
            Duration::from_secs(60),
            || match SenderStatus::of(&mut client).pid {
                Some(pid) if last != Some(pid) => Ok(pid),
                seen => Err(format!("{seen:?}")),
            },
        );
        bed.source().signal_backend(pid, libc::SIGTERM);
        last = Some(pid);
    }
    assert_eq!(inserted(&database), (0..80).collect());
    bed.source().assert_never_crashed();
}

#[test]
fn uninstalling_leaves_nothing_behind() {
    let bed = TestBed::start();
    let (database, mut client) = bed.tracked_table("leaves", "id int PRIMARY KEY");
    insert_ids(&mut client, 0..10);
    client
        .batch_execute("CALL cdc_uninstall()")
        .expect("uninstall");
    let left = "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE '\\_cdc%') + (SELECT count(*) FROM pg_replication_slots)";
    let left: i64 = client.query_one(left, &[]).expect("what is left").get(0);
    assert_eq!(left, 0);
    let control = pg_cdc_tests::topic::read_control(bed.kafka(), "leaves", &database.topic("t"));
    let last = control.last().expect("a control event");
    assert_eq!(last.json()["type"], "UNTRACK");
    client
        .batch_execute("DROP EXTENSION pg_cdc")
        .expect("drop the extension");
    drop(client);
    bed.source().set("shared_preload_libraries", "");
    bed.source().restart();
    let mut client = database.source();
    insert_ids(&mut client, 10..20);
    bed.source().assert_never_crashed();
}

/// A server that was copied and started is a second sender of the same name. The older one stays down, so that they do not
/// fence each other in turn.
#[test]
fn a_replaced_sender_stays_down() {
    for delivery in ["at_least_once", "exactly_once"] {
        let bed = TestBed::start_with(&[("cdc.delivery", delivery)]);
        let (_, mut client) = bed.tracked_table("shop", "id int PRIMARY KEY");
        insert_ids(&mut client, 0..10);
        drop(client);
        bed.source().stop();
        let copy = bed.source().copy(&bed.path("copy"), port::free());
        bed.source().start();
        bed.wait_until_streaming("shop");
        let mut client = bed.source().connect("shop");
        copy.start();
        let mut copied = copy.connect("shop");
        wait_until("the copy to be the sender", Duration::from_secs(60), || {
            let state = state(&mut copied);
            (state == "streaming").then_some(()).ok_or(state)
        });
        insert_ids(&mut client, 10..11);
        wait_until(
            "the other one to be fenced",
            Duration::from_secs(60),
            || {
                let state = state(&mut client);
                (state == "fenced").then_some(()).ok_or(state)
            },
        );
        insert_ids(&mut copied, 20..30);
        run(&mut copied, &["SELECT cdc_wait()"]);
        assert_eq!(state(&mut client), "fenced");
        assert_eq!(state(&mut copied), "streaming");
        drop(copied);
        copy.stop();
        copy.assert_never_crashed();
    }
}

fn state(client: &mut Client) -> String {
    client
        .query_one("SELECT state FROM cdc_status()", &[])
        .expect("cdc_status")
        .get(0)
}
