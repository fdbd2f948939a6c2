//! Brokers over TLS and SASL while PostgreSQL itself serves TLS: what is configured works, what is wrong is told and
//! put right without a writer noticing, and no secret is ever shown (G6, G10, G11).

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::certificates::Authority;
use pg_cdc_tests::secure_listeners::SecureListeners;
use pg_cdc_tests::sender_status::{SenderStatus, wait_for_state};
use pg_cdc_tests::statements::insert_ids;
use pg_cdc_tests::{Database, TestBed, prefix_rule, topic, wait_until};
use postgres::Client;
use postgres_openssl::MakeTlsConnector;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);
const POSITIONS: &str = "pg.cdc_positions";

/// A bed whose Kafka has secure listeners, and whose PostgreSQL serves TLS.
struct SecureBed {
    bed: TestBed,
    listeners: SecureListeners,
    /// Who issued PostgreSQL's certificate.
    authority: Authority,
}

impl SecureBed {
    fn start() -> SecureBed {
        SecureBed::start_with(&[])
    }

    fn start_with(kafka_settings: &[(&str, &str)]) -> SecureBed {
        let listeners = SecureListeners::new();
        let own = listeners.settings();
        let mut settings: Vec<(&str, &str)> = own
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        settings.extend(kafka_settings);
        // Often, so that tests need not wait for it: what is written then must not hide what goes wrong elsewhere.
        let source = [("cdc.brokers", ""), ("cdc.heartbeat_interval", "1s")];
        let bed = TestBed::prepare(Ports::free(), &source, &settings);
        listeners.write(&bed.path("kafka"));
        let authority = Authority::new("authority of the databases");
        std::thread::scope(|scope| {
            scope.spawn(|| bed.kafka());
            let issued = authority.issue("database", &["localhost"]);
            let server = bed.source();
            server.write_file("server.crt", issued.certificate_pem().as_bytes(), 0o600);
            server.write_file("server.key", issued.key_pem().as_bytes(), 0o600);
            server.set("ssl", "on");
            server.restart();
        });
        SecureBed {
            bed,
            listeners,
            authority,
        }
    }

    /// A new database with the extension and the tracked table `t (id)`, and a connection over TLS. The sender is
    /// configured as given, without looking whether it works.
    fn database(&self, brokers: &str, properties: &str) -> (Database<'_>, Client) {
        let database = self.bed.database_without_extension("shop");
        let mut client = self.connect();
        client
            .batch_execute("CREATE EXTENSION pg_cdc; CREATE TABLE t (id int PRIMARY KEY)")
            .expect("extension and table");
        self.configure(brokers, properties);
        wait_until("the table to be tracked", TIMEOUT, || {
            client
                .batch_execute("SELECT cdc_track('t')")
                .map_err(|e| format!("{e:?}"))
        });
        (database, client)
    }

    /// A connection to `shop` over TLS, checked to be one.
    fn connect(&self) -> Client {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).expect("a connector");
        let authority = X509::from_pem(self.authority.pem().as_bytes()).expect("the authority");
        connector
            .cert_store_mut()
            .add_cert(authority)
            .expect("trust the authority");
        let place = format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=postgres dbname=shop sslmode=require",
            self.bed.source().port()
        );
        let mut client = Client::connect(&place, MakeTlsConnector::new(connector.build()))
            .expect("a connection over TLS");
        let row = client
            .query_one(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
                &[],
            )
            .expect("pg_stat_ssl");
        assert!(row.get::<_, bool>(0), "this connection uses TLS");
        client
    }

    /// Has the sender use these brokers with these properties, in a file that only the server may read: its path.
    fn configure(&self, brokers: &str, properties: &str) -> String {
        let server = self.bed.source();
        let path = server.write_file("kafka.properties", properties.as_bytes(), 0o600);
        server.set("cdc.kafka_config_file", &path);
        server.set("cdc.brokers", brokers);
        server.reload();
        path
    }

    /// As [`SecureBed::configure`], and waits until a sender reads WAL because of it.
    fn configure_and_wait(&self, brokers: &str, properties: &str) {
        let before = self.starts();
        self.configure(brokers, properties);
        wait_until("the sender to start anew", TIMEOUT, || {
            match self.starts() {
                now if now > before => Ok(()),
                _ => Err(format!("{:?}", SenderStatus::of(&mut self.connect()))),
            }
        });
        self.bed.wait_until_streaming("shop");
    }

    /// How often a sender has found its position in Kafka, and gone on from there.
    fn starts(&self) -> usize {
        self.bed.source().log().matches("sender reads from").count()
    }

    /// Properties that trust the brokers' certificate.
    fn properties(&self, protocol: &str, more: &str) -> String {
        format!(
            "# made by a test\nsecurity.protocol = {protocol}\nssl.ca.location={}\nbroker.address.family=v4\n\n{more}\n",
            self.bed.path("kafka/authority.pem").display()
        )
    }

    fn plain(&self, user: &str, password: &str) -> String {
        let more = format!("sasl.mechanism=PLAIN\nsasl.username={user}\nsasl.password={password}");
        self.properties("SASL_SSL", &more)
    }

    fn scram(&self, user: &str, password: &str) -> String {
        let more =
            format!("sasl.mechanism=SCRAM-SHA-512\nsasl.username={user}\nsasl.password={password}");
        self.properties("SASL_SSL", &more)
    }

    fn set_scram_password(&self, user: &str, password: &str) {
        let credentials = format!("SCRAM-SHA-512=[password={password}]");
        let arguments = [
            "--alter",
            "--add-config",
            &credentials,
            "--entity-type",
            "users",
            "--entity-name",
            user,
        ];
        self.bed
            .kafka()
            .command("kafka.admin.ConfigCommand", &arguments);
    }

    /// Properties with a client's certificate that `authority` issued.
    fn certificate(&self, authority: &Authority) -> String {
        let client = authority.issue("erin", &[]);
        let server = self.bed.source();
        let certificate = server.write_file("erin.crt", client.certificate_pem().as_bytes(), 0o600);
        let key = server.write_file("erin.key", client.key_pem().as_bytes(), 0o600);
        let more = format!("ssl.certificate.location={certificate}\nssl.key.location={key}");
        self.properties("SSL", &more)
    }

    /// Writes a signed token; the properties that name its file.
    fn token(&self, life_s: u64) -> String {
        let token = self.listeners.issuer.token("frank", life_s);
        let path = self
            .bed
            .source()
            .write_file("frank.token", token.as_bytes(), 0o600);
        let more = format!("sasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.config=token_file={path}");
        self.properties("SASL_SSL", &more)
    }

    fn unsigned_token(&self, life_s: u64) -> String {
        let more = format!(
            "sasl.mechanism=OAUTHBEARER\nenable.sasl.oauthbearer.unsecure.jwt=true\nsasl.oauthbearer.config=principal=dave lifeSeconds={life_s}"
        );
        self.properties("SASL_SSL", &more)
    }

    /// Asserts that the texts are nowhere where anybody could read them: log, views, settings, topics.
    fn assert_nowhere(&self, secrets: &[&str]) {
        let mut client = self.connect();
        let mut seen = vec![("the server log".to_owned(), self.bed.source().log())];
        client
            .batch_execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader")
            .expect("a role without rights");
        let public = [
            "pg_settings",
            "pg_stat_activity",
            "cdc_tables",
            "cdc_snapshots",
        ];
        let monitoring = [
            "cdc_status()",
            "cdc_check()",
            "pg_stat_cdc",
            "pg_file_settings",
            "pg_replication_slots",
        ];
        let mut look = |what: &str, who: &str| {
            let query =
                format!("SELECT coalesce(string_agg(seen::text, ' '), '') FROM {what} seen");
            let text: String = client.query_one(&query, &[]).expect(&query).get(0);
            assert!(
                !text.is_empty() || what == "cdc_snapshots",
                "{what} shows nothing"
            );
            seen.push((format!("{what} as {who}"), text));
        };
        for what in public.iter().chain(&monitoring) {
            look(what, "superuser");
        }
        let mut client = self.connect();
        client.batch_execute("SET ROLE reader").expect("SET ROLE");
        let mut look = |what: &str| {
            let query =
                format!("SELECT coalesce(string_agg(seen::text, ' '), '') FROM {what} seen");
            seen.push((
                format!("{what} as reader"),
                client.query_one(&query, &[]).expect(&query).get(0),
            ));
        };
        public.iter().for_each(|what| look(what));
        client
            .query_one("SHOW cdc.kafka_config_file", &[])
            .expect_err("even the name of the file is not everybody's");
        for name in topic::names(self.bed.kafka()) {
            for record in topic::read(self.bed.kafka(), &name) {
                seen.push((format!("topic {name}"), format!("{record:?}")));
                let value = record.value.unwrap_or_default();
                seen.push((
                    format!("topic {name}"),
                    String::from_utf8_lossy(&value).into_owned(),
                ));
            }
        }
        for (place, text) in seen {
            for secret in secrets {
                assert!(!text.contains(secret), "{secret:?} is in {place}");
            }
        }
    }
}

/// Asserts that every row up to `rows` was inserted once, in an order that keeps the prefix rule.
fn assert_all_arrived(database: &Database<'_>, rows: i32) {
    let records = database.records("t");
    let ids = prefix_rule::inserted_ids(&records);
    let unique: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "each row once, copies aside");
    assert_eq!(unique, (0..i64::from(rows)).collect());
}

/// The number of records that a topic has.
fn record_count(bed: &TestBed, name: &str) -> i64 {
    topic::offsets(bed.kafka(), name).map_or(0, |offsets| {
        offsets.values().map(|range| range.end - range.start).sum()
    })
}

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
    // It ends, and begins, with Kafka out of reach.
    assert!(sink.stop().expect("it ran").success());
    sink.start_only(&["replica"]);
    let log = || std::fs::read_to_string(sink.log_file()).expect("the log");
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
        wait_until("the file to be refused", TIMEOUT, || {
            let log = log();
            let told = log
                .lines()
                .any(|line| line.contains("stays as it was") && line.contains(code));
            if told { Ok(()) } else { Err(log) }
        });
    }
    assert_eq!(count(), Ok(100), "nobody read with the old password");

    write_with_mode(&file, &secure.scram("carol", second), 0o600);
    sink.reload();
    wait_for_rows(200);
    insert_ids(&mut client, 200..300);
    wait_for_rows(300);
    let shown = [log(), sink.run_command(&["config"]), sink.get("/v1/status")].concat();
    for secret in [first, second] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(sink.stop().expect("it ran").success());
}

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

/// Runs the command that a remedy of CDC0303 names, for `user`.
fn follow(bed: &TestBed, remedy: &str, user: &str) {
    let (_, command) = remedy
        .split_once("kafka-acls.sh ")
        .unwrap_or_else(|| panic!("no command in {remedy:?}"));
    let command = command.replace("NAME", user);
    // By the listener where the test is a super user.
    let arguments: Vec<&str> = command.split(' ').skip(2).collect();
    bed.kafka()
        .command("org.apache.kafka.tools.AclCommand", &arguments);
}

#[test]
fn rights_that_are_missing_are_named_and_work_goes_on_when_they_are_there() {
    let secure = SecureBed::start_with(&[
        (
            "authorizer.class.name",
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        ),
        ("super.users", "User:ANONYMOUS"),
    ]);
    let bed = &secure.bed;
    let properties = secure.plain("bob", &SecureListeners::password("bob"));
    let (database, mut client) = secure.database(&secure.listeners.sasl(), &properties);

    // Nothing is allowed: the remedies alone lead to the end.
    insert_ids(&mut client, 0..100);
    let mut followed: Vec<String> = Vec::new();
    while record_count(bed, &database.topic("t")) < 100 {
        let remedy = wait_until("another remedy, or the end", TIMEOUT, || {
            let seen = SenderStatus::of(&mut client);
            let is_new = seen.code.as_deref() == Some("CDC0303")
                && seen.hint.contains("kafka-acls.sh")
                && !followed.contains(&seen.hint);
            if is_new {
                Ok(Some(seen.hint))
            } else if record_count(bed, &database.topic("t")) >= 100 {
                Ok(None)
            } else {
                Err(format!("{seen:?}"))
            }
        });
        if let Some(remedy) = remedy {
            follow(bed, &remedy, "bob");
            followed.push(remedy);
        }
    }
    let id = "--transactional-id pg_cdc.pg";
    for named in [POSITIONS, id, "shop.public.t", "shop.cdc-control"] {
        let is_named = followed.iter().any(|remedy| remedy.ends_with(named));
        assert!(is_named, "{named} is not in {followed:?}");
    }
    assert_eq!(followed.len(), 4, "{followed:?}");
    assert_all_arrived(&database, 100);

    // What would be good to have is no reason to stop, but is told.
    let unread = |client: &mut Client| -> Option<String> {
        let query = "SELECT hint FROM cdc_check() WHERE code = 'CDC0303' AND item ~ 'public.t'";
        let line = client.query_opt(query, &[]).expect("at most one line");
        line.map(|line| line.get(0))
    };
    let remedy = unread(&mut client).expect("settings that cannot be read");
    follow(bed, &remedy, "bob");
    bed.source().restart();
    let mut client = database.source();
    client
        .execute("DELETE FROM t WHERE id = 0", &[])
        .expect("a writer");
    database.wait_until_in_kafka();
    assert_eq!(unread(&mut client), None);

    // One right less, while another table is written too.
    client
        .batch_execute("CREATE TABLE u (id int PRIMARY KEY); SELECT cdc_track('u')")
        .expect("another table");
    let seen = wait_for_state(&mut client, "waiting_for_kafka", Some("CDC0303"));
    follow(bed, &seen.hint, "bob");
    database.wait_until_in_kafka();
    let change_right = |action: &str| {
        let arguments = [
            action,
            "--allow-principal",
            "User:bob",
            "--operation",
            "Write",
            "--topic",
            "shop.public.t",
            "--force",
        ];
        bed.kafka()
            .command("org.apache.kafka.tools.AclCommand", &arguments);
    };
    change_right("--remove");
    let told_before = bed.source().log().matches("Write is not allowed").count();
    insert_ids(&mut client, 100..200);
    client
        .batch_execute("INSERT INTO u SELECT generate_series(1, 100)")
        .expect("a writer goes on");
    let seen = wait_until("the right to be missed", TIMEOUT, || {
        let seen = SenderStatus::of(&mut client);
        if seen.error.contains("Write is not allowed") {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    });
    assert_eq!(
        (seen.state.as_str(), seen.code.as_deref()),
        ("waiting_for_kafka", Some("CDC0303"))
    );
    assert!(seen.hint.ends_with("shop.public.t"), "{seen:?}");
    // Positions are written meanwhile, which is no reason to say that all is well, nor to send anything again.
    let (positions, others) = (
        record_count(bed, POSITIONS),
        record_count(bed, "shop.public.u"),
    );
    wait_until("positions to be written", TIMEOUT, || {
        assert_eq!(SenderStatus::of(&mut client), seen);
        match record_count(bed, POSITIONS) - positions {
            written if written >= 10 => Ok(()),
            written => Err(format!("{written}")),
        }
    });
    assert_eq!(record_count(bed, "shop.public.u"), others);
    let told = bed.source().log().matches("Write is not allowed").count() - told_before;
    assert_eq!(told, 1, "it is logged once");
    change_right("--add");
    assert_all_arrived(&database, 200);
    let records = database.records("u");
    let changes = prefix_rule::assert_holds(&records);
    assert_eq!(changes.iter().filter(|e| e.is_row_change()).count(), 100);
    bed.wait_until_streaming("shop");
    bed.source().assert_never_crashed();
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
