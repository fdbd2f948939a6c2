//! Passwords, certificates and tokens with which the sender and companion-sink log in, and other ones without a restart.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::secure_listeners::SecureListeners;
use pg_cdc_tests::sender_status::{SenderStatus, wait_for_state};
use pg_cdc_tests::statements::insert_ids;
use pg_cdc_tests::wait_until;
use serde_json::Value;

use super::secure_bed::{SecureBed, TIMEOUT, assert_all_arrived};

#[test]
fn every_mechanism_ships_rows_and_a_reload_goes_from_one_to_the_next() {
    let secure = SecureBed::start();
    secure.set_scram_password("carol", "carol-s3cret");
    let listeners = &secure.listeners;
    let alice = SecureListeners::password("alice");
    let (database, mut client) = secure.database(&listeners.sasl(), &secure.plain("alice", &alice));
    secure.bed.wait_until_streaming("shop");
    insert_ids(&mut client, 0..100);
    let others = [
        (listeners.sasl(), secure.scram("carol", "carol-s3cret")),
        (listeners.sasl(), secure.unsigned_token(3600)),
        (listeners.tokens(), secure.token(3600)),
        (
            listeners.certificates(),
            secure.certificate(&listeners.authority),
        ),
    ];
    let mut rows = 100;
    for (brokers, properties) in others {
        secure.configure_and_wait(&brokers, &properties);
        insert_ids(&mut client, rows..rows + 100);
        database.wait_until_in_kafka();
        rows += 100;
    }
    assert_all_arrived(&database, rows);
    secure.assert_nowhere(&[&alice, "carol-s3cret", "eyJ", "BEGIN PRIVATE KEY"]);
    secure.bed.source().assert_never_crashed();
}

#[test]
fn a_wrong_password_is_told_without_it_and_put_right_by_a_reload() {
    let secure = SecureBed::start();
    secure.set_scram_password("carol", "carol-s3cret");
    let alice = SecureListeners::password("alice");
    let brokers = secure.listeners.sasl();
    let wrong = "wr0ng-s3cret";
    let (database, mut client) = secure.database(&brokers, &secure.plain("alice", wrong));
    let mut rows = 0;
    for (wrong_properties, properties) in [
        (secure.plain("alice", wrong), secure.plain("alice", &alice)),
        (
            secure.scram("carol", wrong),
            secure.scram("carol", "carol-s3cret"),
        ),
    ] {
        secure.configure(&brokers, &wrong_properties);
        let seen = wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0302"));
        assert!(seen.hint.contains("pg_reload_conf()"), "{seen:?}");
        insert_ids(&mut client, rows..rows + 500);
        rows += 500;
        // Longer than any call to Kafka lasts, so everything that fails because of it has failed.
        let waiting = client.query("SELECT cdc_wait('15 s')", &[]);
        let waiting = waiting.expect_err("nothing is shipped");
        let waiting = waiting.as_db_error().expect("an error of the server");
        assert!(
            waiting
                .detail()
                .is_some_and(|detail| detail.starts_with("CDC0302")),
            "{waiting:?}"
        );
        secure.configure_and_wait(&brokers, &properties);
        assert_all_arrived(&database, rows);
    }
    // Nothing else was ever said, and not again and again.
    let log = secure.bed.source().log();
    assert!(!log.contains("[CDC0301]"), "{log}");
    let told = log.matches("[CDC0302]").count();
    assert!((2..=4).contains(&told), "told {told} times:\n{log}");
    secure.assert_nowhere(&[wrong, &alice, "carol-s3cret"]);
    secure.bed.source().assert_never_crashed();
}

/// Writes a file that `mode` says who may read.
fn write_with_mode(file: &Path, content: &str, mode: u32) {
    std::fs::write(file, content).expect("write a file");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn log(sink: &CompanionSink) -> String {
    std::fs::read_to_string(sink.log_file()).expect("the log")
}

/// Its status says that Kafka refuses it.
fn wait_until_the_password_is_refused(sink: &CompanionSink) {
    wait_until("the old password to be refused", TIMEOUT, || {
        let answer = sink.get("/v1/status");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status: Value = serde_json::from_str(body).unwrap_or_default();
        if status["kafka"]["error"].is_string() {
            Ok(())
        } else {
            Err(answer)
        }
    });
}

/// What companion-sink says of a new file that it does not take.
fn wait_until_a_file_is_refused(sink: &CompanionSink, code: &str) {
    wait_until("the file to be refused", TIMEOUT, || {
        let log = log(sink);
        let told = log
            .lines()
            .any(|line| line.contains("stays as it was") && line.contains(code));
        if told { Ok(()) } else { Err(log) }
    });
}

#[test]
fn companion_sink_takes_another_password_without_a_restart() {
    let secure = SecureBed::start();
    let (first, second) = ("f1rst-s3cret", "sec0nd-s3cret");
    secure.set_scram_password("carol", first);
    let alice = SecureListeners::password("alice");
    let brokers = secure.listeners.sasl();
    let (database, mut client) = secure.database(&brokers, &secure.plain("alice", &alice));
    secure.bed.wait_until_streaming("shop");
    let file = secure.bed.path("sink.properties");
    write_with_mode(&file, &secure.scram("carol", first), 0o600);
    let mut plan = database.plan_companion_sink();
    plan.brokers = brokers;
    plan.kafka_config_file = Some(file.clone());
    let sink = secure.bed.companion_sink(plan);
    sink.start_only(&["replica"]);
    insert_ids(&mut client, 0..100);
    let count = || {
        let counted = database.replica().query_one("SELECT count(*) FROM t", &[]);
        counted
            .map_err(|error| error.to_string())
            .map(|row| row.get::<_, i64>(0))
    };
    let wait_for_rows = |rows: i64| {
        wait_until("the rows in the replica", TIMEOUT, || match count() {
            Ok(found) if found == rows => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    wait_for_rows(100);

    // Whoever connects now needs the other password.
    secure.set_scram_password("carol", second);
    secure.bed.kafka().restart();
    insert_ids(&mut client, 100..200);
    database.wait_until_in_kafka();
    wait_until_the_password_is_refused(&sink);
    // It ends, and begins, with Kafka out of reach.
    assert!(sink.stop().expect("it ran").success());
    sink.start_only(&["replica"]);
    let refused = [
        (secure.scram("carol", second), 0o640, "CDC1002"),
        (
            secure.properties("SASL_SSL", "sasl.mechanism=NONE"),
            0o600,
            "CDC1001",
        ),
    ];
    for (properties, mode, code) in refused {
        write_with_mode(&file, &properties, mode);
        sink.reload();
        wait_until_a_file_is_refused(&sink, code);
    }
    assert_eq!(count(), Ok(100), "nobody read with the old password");

    write_with_mode(&file, &secure.scram("carol", second), 0o600);
    sink.reload();
    wait_for_rows(200);
    insert_ids(&mut client, 200..300);
    wait_for_rows(300);
    let shown = [
        log(&sink),
        sink.run_command(&["config"]),
        sink.get("/v1/status"),
    ]
    .concat();
    for secret in [first, second] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(sink.stop().expect("it ran").success());
}

#[test]
fn tokens_are_renewed_before_they_expire() {
    // Shorter ones leave no second between librdkafka's renewal and the end, and brokers allow one login a second.
    const LIFE_S: u64 = 30;
    let secure = SecureBed::start();
    let listeners = &secure.listeners;
    let (database, mut client) = secure.database(&listeners.sasl(), &secure.unsigned_token(LIFE_S));
    secure.bed.wait_until_streaming("shop");
    let mut rows = 0;
    // The first tokens of all clients end, and new connections are made, with others.
    let mut outlive = |until: Instant, renew: &dyn Fn()| {
        wait_until("the first token to expire", TIMEOUT, || {
            insert_ids(&mut client, rows..rows + 1);
            rows += 1;
            renew();
            if Instant::now() > until {
                Ok(())
            } else {
                Err("not yet")
            }
        });
        secure.bed.kafka().restart();
        insert_ids(&mut client, rows..rows + 100);
        rows += 100;
        assert_all_arrived(&database, rows);
    };
    let life = Duration::from_secs(LIFE_S + 1);
    outlive(Instant::now() + life, &|| {});

    secure.configure_and_wait(&listeners.tokens(), &secure.token(LIFE_S));
    let renew = || {
        secure.token(LIFE_S);
    };
    outlive(Instant::now() + life, &renew);
    let log = secure.bed.source().log();
    assert!(!log.contains("[CDC0302]"), "{log}");

    // One that nobody renews in time.
    secure.token(1);
    let told = wait_until("the token to be named", TIMEOUT, || {
        let seen = SenderStatus::of(&mut client);
        if seen.error.contains("frank.token") {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    });
    assert_eq!(told.code.as_deref(), Some("CDC0302"), "{told:?}");
    assert!(told.error.contains("has expired"), "{told:?}");
    insert_ids(&mut client, rows..rows + 100);
    rows += 100;
    secure.token(3600);
    assert_all_arrived(&database, rows);
    secure.bed.wait_until_streaming("shop");
    secure.assert_nowhere(&["eyJ"]);
    secure.bed.source().assert_never_crashed();
}
