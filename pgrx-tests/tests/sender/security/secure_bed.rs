//! A bed whose Kafka and whose PostgreSQL serve TLS, and what has arrived in its topics.

use std::collections::BTreeSet;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use pg_cdc_tests::bed::Ports;
use pg_cdc_tests::certificates::Authority;
use pg_cdc_tests::secure_listeners::SecureListeners;
use pg_cdc_tests::sender_status::SenderStatus;
use pg_cdc_tests::{Database, TestBed, prefix_rule, topic, wait_until};
use postgres::Client;
use postgres_openssl::MakeTlsConnector;

pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const POSITIONS: &str = "pg.cdc_positions";

/// A bed whose Kafka has secure listeners, and whose PostgreSQL serves TLS.
pub(super) struct SecureBed {
    pub(super) bed: TestBed,
    pub(super) listeners: SecureListeners,
    /// Who issued PostgreSQL's certificate.
    authority: Authority,
}

impl SecureBed {
    pub(super) fn start() -> SecureBed {
        SecureBed::start_with(&[])
    }

    pub(super) fn start_with(kafka_settings: &[(&str, &str)]) -> SecureBed {
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
    pub(super) fn database(&self, brokers: &str, properties: &str) -> (Database<'_>, Client) {
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
    pub(super) fn connect(&self) -> Client {
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
    pub(super) fn configure(&self, brokers: &str, properties: &str) -> String {
        let server = self.bed.source();
        let path = server.write_file("kafka.properties", properties.as_bytes(), 0o600);
        server.set("cdc.kafka_config_file", &path);
        server.set("cdc.brokers", brokers);
        server.reload();
        path
    }

    /// As [`SecureBed::configure`], and waits until a sender reads WAL because of it.
    pub(super) fn configure_and_wait(&self, brokers: &str, properties: &str) {
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
    pub(super) fn starts(&self) -> usize {
        self.bed.source().log().matches("sender reads from").count()
    }

    /// Properties that trust the brokers' certificate.
    pub(super) fn properties(&self, protocol: &str, more: &str) -> String {
        format!(
            "# made by a test\nsecurity.protocol = {protocol}\nssl.ca.location={}\nbroker.address.family=v4\n\n{more}\n",
            self.bed.path("kafka/authority.pem").display()
        )
    }

    pub(super) fn plain(&self, user: &str, password: &str) -> String {
        let more = format!("sasl.mechanism=PLAIN\nsasl.username={user}\nsasl.password={password}");
        self.properties("SASL_SSL", &more)
    }

    pub(super) fn scram(&self, user: &str, password: &str) -> String {
        let more =
            format!("sasl.mechanism=SCRAM-SHA-512\nsasl.username={user}\nsasl.password={password}");
        self.properties("SASL_SSL", &more)
    }

    pub(super) fn set_scram_password(&self, user: &str, password: &str) {
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
    pub(super) fn certificate(&self, authority: &Authority) -> String {
        let client = authority.issue("erin", &[]);
        let server = self.bed.source();
        let certificate = server.write_file("erin.crt", client.certificate_pem().as_bytes(), 0o600);
        let key = server.write_file("erin.key", client.key_pem().as_bytes(), 0o600);
        let more = format!("ssl.certificate.location={certificate}\nssl.key.location={key}");
        self.properties("SSL", &more)
    }

    /// Writes a signed token; the properties that name its file.
    pub(super) fn token(&self, life_s: u64) -> String {
        let token = self.listeners.issuer.token("frank", life_s);
        let path = self
            .bed
            .source()
            .write_file("frank.token", token.as_bytes(), 0o600);
        let more = format!("sasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.config=token_file={path}");
        self.properties("SASL_SSL", &more)
    }

    pub(super) fn unsigned_token(&self, life_s: u64) -> String {
        let more = format!(
            "sasl.mechanism=OAUTHBEARER\nenable.sasl.oauthbearer.unsecure.jwt=true\nsasl.oauthbearer.config=principal=dave lifeSeconds={life_s}"
        );
        self.properties("SASL_SSL", &more)
    }

    /// Asserts that the texts are nowhere where anybody could read them: log, views, settings, topics.
    pub(super) fn assert_nowhere(&self, secrets: &[&str]) {
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
pub(super) fn assert_all_arrived(database: &Database<'_>, rows: i32) {
    let records = database.records("t");
    let ids = prefix_rule::inserted_ids(&records);
    let unique: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "each row once, copies aside");
    assert_eq!(unique, (0..i64::from(rows)).collect());
}

/// The number of records that a topic has.
pub(super) fn record_count(bed: &TestBed, name: &str) -> i64 {
    topic::offsets(bed.kafka(), name).map_or(0, |offsets| {
        offsets.values().map(|range| range.end - range.start).sum()
    })
}
