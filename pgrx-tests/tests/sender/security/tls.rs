//! Whom the sender and the brokers trust, and TLS of PostgreSQL's own beside it.

use pg_cdc_tests::certificates::Authority;
use pg_cdc_tests::secure_listeners::SecureListeners;
use pg_cdc_tests::sender_status::wait_for_state;
use pg_cdc_tests::statements::insert_ids;
use pg_cdc_tests::wait_until;

use super::secure_bed::{SecureBed, TIMEOUT, assert_all_arrived};

#[test]
fn brokers_and_clients_that_cannot_be_trusted_are_refused() {
    let secure = SecureBed::start();
    let listeners = &secure.listeners;
    let alice = SecureListeners::password("alice");
    let good = secure.plain("alice", &alice);
    let (database, mut client) = secure.database(&listeners.sasl(), &good);
    secure.bed.wait_until_streaming("shop");
    let stranger = Authority::new("a stranger");
    let unknown = secure
        .bed
        .source()
        .write_file("stranger.pem", stranger.pem().as_bytes(), 0o600);
    let known = secure.bed.path("kafka/authority.pem");
    // By its address the broker is not who its certificate says.
    let by_address = listeners.sasl().replace("localhost", "127.0.0.1");
    let cases = [
        (
            listeners.sasl(),
            good.replace(&known.display().to_string(), &unknown),
            "ssl.ca.location",
        ),
        (by_address, good.clone(), "cdc.brokers"),
        (
            listeners.certificates(),
            secure.properties("SSL", ""),
            "cdc.kafka_config_file",
        ),
        (
            listeners.certificates(),
            secure.certificate(&stranger),
            "cdc.kafka_config_file",
        ),
        (
            listeners.tokens(),
            secure.unsigned_token(3600),
            "cdc.kafka_config_file",
        ),
    ];
    let mut rows = 0;
    for (brokers, properties, remedy) in cases {
        secure.configure(&brokers, &properties);
        let seen = wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0302"));
        assert!(seen.hint.contains(remedy), "{seen:?}");
        insert_ids(&mut client, rows..rows + 100);
        rows += 100;
        secure.configure_and_wait(&listeners.sasl(), &good);
        assert_all_arrived(&database, rows);
    }
    // Of the wrong protocol nothing is known but that the broker closes the connection.
    let plaintext = format!("# no TLS\nclient.id={alice}\n");
    secure.configure(&listeners.sasl(), &plaintext);
    let seen = wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0301"));
    assert!(seen.hint.contains("security.protocol"), "{seen:?}");
    secure.configure_and_wait(&listeners.sasl(), &good);
    secure.bed.source().assert_never_crashed();
}

#[test]
fn tls_on_both_sides_of_a_server_is_not_disturbed() {
    let secure = SecureBed::start();
    let alice = SecureListeners::password("alice");
    let (database, mut client) =
        secure.database(&secure.listeners.sasl(), &secure.plain("alice", &alice));
    secure.bed.wait_until_streaming("shop");
    const WRITERS: i32 = 4;
    const CONNECTIONS: i32 = 10;
    const ROWS: i32 = 25;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let secure = &secure;
            scope.spawn(move || {
                for connection in 0..CONNECTIONS {
                    let mut client = secure.connect();
                    let first = (writer * CONNECTIONS + connection) * ROWS;
                    insert_ids(&mut client, first..first + ROWS);
                }
            });
        }
        // The sender ends in the middle of its own TLS connections, and the server reads its certificate again.
        for _ in 0..3 {
            let starts = secure.starts();
            let pid: Option<i32> = client
                .query_one("SELECT pid FROM cdc_status()", &[])
                .expect("cdc_status")
                .get(0);
            if let Some(pid) = pid {
                secure.bed.source().signal_backend(pid, libc::SIGTERM);
            }
            secure.bed.source().reload();
            wait_until("another sender", TIMEOUT, || match secure.starts() {
                now if now > starts => Ok(()),
                _ => Err("none"),
            });
        }
    });
    let rows = WRITERS * CONNECTIONS * ROWS;
    assert_all_arrived(&database, rows);

    // A stop while TLS connections to Kafka hang.
    secure.bed.kafka().freeze();
    insert_ids(&mut client, rows..rows + 100);
    drop(client);
    secure.bed.source().stop();
    secure.bed.kafka().thaw();
    secure.bed.source().start();
    secure.bed.wait_until_streaming("shop");
    assert_all_arrived(&database, rows + 100);
    secure.bed.source().assert_never_crashed();
}
