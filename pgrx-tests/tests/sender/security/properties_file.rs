//! The file of Kafka's properties: who may read it, and what is told of its lines.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pg_cdc_tests::secure_listeners::SecureListeners;
use pg_cdc_tests::sender_status::{SenderStatus, wait_for_state};
use pg_cdc_tests::statements::insert_ids;
use pg_cdc_tests::wait_until;

use super::secure_bed::{SecureBed, TIMEOUT, assert_all_arrived, record_count};

#[test]
fn a_file_that_others_may_read_is_not_used() {
    let secure = SecureBed::start();
    let alice = SecureListeners::password("alice");
    let brokers = secure.listeners.sasl();
    let properties = secure.plain("alice", &alice);
    let (database, mut client) = secure.database(&brokers, &properties);
    secure.bed.wait_until_streaming("shop");
    insert_ids(&mut client, 0..100);
    database.wait_until_in_kafka();
    let path = secure.configure(&brokers, &properties);
    let set_mode = |mode| {
        std::fs::set_permissions(Path::new(&path), std::fs::Permissions::from_mode(mode))
            .expect("chmod");
    };
    let mut rows = 100;
    for mode in [0o640, 0o604, 0o620] {
        set_mode(mode);
        secure.bed.source().reload();
        let seen = wait_for_state(&mut client, "halted", Some("CDC0008"));
        assert!(seen.error.contains(&path), "{seen:?}");
        assert!(seen.hint.contains("chmod 0600"), "{seen:?}");
        let before = record_count(&secure.bed, &database.topic("t"));
        insert_ids(&mut client, rows..rows + 100);
        rows += 100;
        client
            .query("SELECT cdc_wait('1 s')", &[])
            .expect_err("nothing is shipped");
        assert_eq!(record_count(&secure.bed, &database.topic("t")), before);
        set_mode(0o600);
        // With the last one it goes on by itself.
        if mode != 0o620 {
            secure.bed.source().reload();
        }
        secure.bed.wait_until_streaming("shop");
        assert_all_arrived(&database, rows);
    }
    secure.assert_nowhere(&[&alice]);
    secure.bed.source().assert_never_crashed();
}

#[test]
fn what_a_wrong_line_holds_is_not_told() {
    let secure = SecureBed::start();
    let good = secure.plain("alice", &SecureListeners::password("alice"));
    let (_database, mut client) = secure.database(&secure.listeners.sasl(), &good);
    secure.bed.wait_until_streaming("shop");
    let number = good.lines().count() + 1;
    for (line, told) in [
        ("hidden-s3cret", format!("line {number} of")),
        ("hidden-s3cret=x", format!("line {number} of")),
        ("SASL.Password=hidden-s3cret", format!("line {number} of")),
        ("sasl.password\thidden-s3cret", format!("line {number} of")),
        (
            "security.protocol=hidden-s3cret",
            "\"security.protocol\"".to_owned(),
        ),
        (
            "enable.ssl.certificate.verification=hidden-s3cret",
            "\"enable.ssl.certificate.verification\"".to_owned(),
        ),
        ("debug=broker,hidden-s3cret", "\"debug\"".to_owned()),
        ("linger.ms=-77777", "\"linger.ms\"".to_owned()),
        (
            "sasl.jaas.config=Login required password=\"hidden-s3cret\";",
            "Java".to_owned(),
        ),
        ("sasl.oauthbearer.method=oidc", "libcurl".to_owned()),
        ("sasl.mechanism=GSSAPI", "GSSAPI".to_owned()),
        (
            "metadata.broker.list=hidden-s3cret:9092",
            "\"metadata.broker.list\"".to_owned(),
        ),
        (
            "delivery.timeout.ms=1",
            "\"delivery.timeout.ms\"".to_owned(),
        ),
        (
            "ssl.key.password=hidden-s3cret\nssl.key.location=/nowhere",
            "ssl.key.location".to_owned(),
        ),
        (
            "sasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.config=hidden-s3cret",
            "sasl.oauthbearer.config".to_owned(),
        ),
    ] {
        secure.configure(&secure.listeners.sasl(), &format!("{good}{line}\n"));
        let seen = wait_until(line, TIMEOUT, || {
            let seen = SenderStatus::of(&mut client);
            if matches!(seen.code.as_deref(), Some("CDC0009" | "CDC0302"))
                && seen.error.contains(&told)
            {
                Ok(seen)
            } else {
                Err(format!("{seen:?}"))
            }
        });
        assert!(seen.hint.contains("cdc.kafka_config_file"), "{seen:?}");
        secure.configure_and_wait(&secure.listeners.sasl(), &good);
    }
    secure.assert_nowhere(&["hidden-s3cret", "-77777"]);
    secure.bed.source().assert_never_crashed();
}
