//! Everything together: a source server with pg_cdc, Kafka, and, from their first use on, a target server, FerretDB
//! and companion-sinks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::Client;
use tempfile::TempDir;

use crate::companion_sink::{CompanionSink, Plan};
use crate::ferretdb::FerretDb;
use crate::history::History;
use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::statements::run;
use crate::topic::{self, Record};
use crate::{port, prefix_rule, wait_until};

/// How long the sender may take to reach Kafka after a start.
const SENDER_TIMEOUT: Duration = Duration::from_secs(60);

/// The ports of a bed, on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The source server.
    pub source: u16,
    /// The server of replicas and of FerretDB's documents.
    pub target: u16,
    /// Kafka.
    pub kafka: u16,
    /// FerretDB.
    pub ferretdb: u16,
}

impl Ports {
    /// Free ports.
    pub fn free() -> Ports {
        Ports {
            source: port::free(),
            target: port::free(),
            kafka: port::free(),
            ferretdb: port::free(),
        }
    }
}

/// Real servers for a test. Everything is stopped and removed when it is dropped, and when the program ends in any
/// other way the kernel ends the servers.
#[derive(Debug)]
pub struct TestBed {
    // Dropped in this order.
    ferretdb: OnceLock<FerretDb>,
    source: OnceLock<Postgres>,
    target: OnceLock<Postgres>,
    kafka: OnceLock<Kafka>,
    ports: Ports,
    source_settings: Vec<(String, String)>,
    kafka_settings: Vec<(String, String)>,
    sinks: AtomicU32,
    folder: TempDir,
}

impl TestBed {
    /// The bed that all tests of this program share. Stopped and removed when the program ends. Use a database of
    /// your own ([`TestBed::database`]), and a bed of your own if you stop or kill a server of it.
    pub fn shared() -> &'static TestBed {
        let bed = TestBed::shared_without_servers();
        bed.start_source_and_kafka();
        bed
    }

    /// As [`TestBed::shared`], with each server started at its first use: for tests without a source.
    pub fn shared_without_servers() -> &'static TestBed {
        static SHARED: OnceLock<TestBed> = OnceLock::new();
        extern "C" fn remove() {
            if let Some(bed) = SHARED.get() {
                bed.discard();
            }
        }
        SHARED.get_or_init(|| {
            // SAFETY: the handler does not unwind, and what it uses is a static.
            unsafe { libc::atexit(remove) };
            TestBed::prepare(Ports::free(), &[], &[])
        })
    }

    /// A new bed with the source server and Kafka running.
    pub fn start() -> TestBed {
        TestBed::start_with(&[])
    }

    /// As [`TestBed::start`], with further settings of the source server.
    pub fn start_with(source_settings: &[(&str, &str)]) -> TestBed {
        let bed = TestBed::prepare(Ports::free(), source_settings, &[]);
        bed.start_source_and_kafka();
        bed
    }

    fn start_source_and_kafka(&self) {
        std::thread::scope(|scope| {
            scope.spawn(|| self.kafka());
            self.source();
        });
    }

    /// A new bed with nothing running: each server starts at its first use.
    pub fn prepare(
        ports: Ports,
        source_settings: &[(&str, &str)],
        kafka_settings: &[(&str, &str)],
    ) -> TestBed {
        let owned = |settings: &[(&str, &str)]| {
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        TestBed {
            ferretdb: OnceLock::new(),
            source: OnceLock::new(),
            target: OnceLock::new(),
            kafka: OnceLock::new(),
            ports,
            source_settings: owned(source_settings),
            kafka_settings: owned(kafka_settings),
            sinks: AtomicU32::new(0),
            folder: temporary_folder(),
        }
    }

    /// The server with pg_cdc preloaded. `cdc.brokers` names the bed's Kafka, whether that runs or not.
    pub fn source(&self) -> &Postgres {
        self.source.get_or_init(|| {
            let brokers = format!("127.0.0.1:{}", self.ports.kafka);
            let mut settings = vec![
                ("shared_preload_libraries", "pg_cdc"),
                ("wal_level", "replica"),
                ("cdc.brokers", &brokers),
                ("cdc.allow_single_replica", "on"),
                ("cdc.topic_replication_factor", "1"),
            ];
            settings.extend(
                self.source_settings
                    .iter()
                    .map(|(n, v)| (n.as_str(), v.as_str())),
            );
            let server = Postgres::create(&self.path("source"), self.ports.source, &settings);
            server.start();
            server
        })
    }

    /// Kafka.
    pub fn kafka(&self) -> &Kafka {
        self.kafka.get_or_init(|| {
            let settings: Vec<(&str, &str)> = self
                .kafka_settings
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let kafka = Kafka::create(
                &self.path("kafka"),
                self.ports.kafka,
                port::free(),
                &settings,
            );
            kafka.start();
            kafka
        })
    }

    /// The server that holds replicas and FerretDB's documents: an ordinary PostgreSQL.
    pub fn target(&self) -> &Postgres {
        self.target.get_or_init(|| {
            let server = Postgres::create(&self.path("target"), self.ports.target, &[]);
            server.start();
            server
        })
    }

    /// FerretDB.
    pub fn ferretdb(&self) -> &FerretDb {
        self.ferretdb.get_or_init(|| {
            let ferretdb = FerretDb::create(
                &self.path("ferretdb"),
                self.ports.ferretdb,
                self.target(),
                "ferretdb",
            );
            ferretdb.start();
            ferretdb
        })
    }

    /// A new database in the source server with the extension created, and the sender ready.
    ///
    /// # Panics
    /// When there is one of that name, or the sender does not become ready.
    pub fn database(&self, name: &str) -> Database<'_> {
        let database = self.database_without_extension(name);
        database
            .source()
            .batch_execute("CREATE EXTENSION pg_cdc")
            .expect("CREATE EXTENSION pg_cdc");
        self.wait_until_streaming(name);
        database
    }

    /// As [`TestBed::database`], with a tracked table `t` of these columns, and a connection.
    ///
    /// # Panics
    /// When the table cannot be made or tracked.
    pub fn tracked_table(&self, name: &str, columns: &str) -> (Database<'_>, Client) {
        let database = self.database(name);
        let mut client = database.source();
        let table = format!("CREATE TABLE t ({columns})");
        run(&mut client, &[&table, "SELECT cdc_track('t')"]);
        (database, client)
    }

    /// A new database in the source server, with nothing in it.
    ///
    /// # Panics
    /// When there is one of that name.
    pub fn database_without_extension(&self, name: &str) -> Database<'_> {
        self.source().create_database(name);
        Database::of(self, name)
    }

    /// Waits until `cdc_status().state` is `streaming`.
    ///
    /// # Panics
    /// When that takes longer than a minute, with the state instead.
    pub fn wait_until_streaming(&self, database: &str) {
        let mut client = self.source().connect(database);
        wait_until("the sender to stream", SENDER_TIMEOUT, || {
            let query = "SELECT state, waiting_for, error_code, error_message FROM cdc_status()";
            let row = client.query_one(query, &[]).map_err(|e| format!("{e:?}"))?;
            match row.get::<_, &str>("state") {
                "streaming" => Ok(()),
                state => Err(format!(
                    "{state}, waiting for {:?}, {:?} {:?}",
                    row.get::<_, Option<&str>>("waiting_for"),
                    row.get::<_, Option<&str>>("error_code"),
                    row.get::<_, Option<&str>>("error_message"),
                )),
            }
        });
    }

    /// A companion-sink with a folder of its own in the bed, not started.
    pub fn companion_sink(&self, plan: Plan) -> CompanionSink {
        let number = self.sinks.fetch_add(1, Ordering::Relaxed);
        CompanionSink::create(&self.path(&format!("companion-sink-{number}")), plan)
    }

    /// A folder of the bed's own, for what a test needs besides.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Stops everything in an orderly way, in the order in which nobody misses anybody.
    ///
    /// # Panics
    /// When a server does not stop in time.
    pub fn stop(&self) {
        if let Some(ferretdb) = self.ferretdb.get() {
            ferretdb.stop();
        }
        if let Some(source) = self.source.get() {
            source.stop();
        }
        if let Some(target) = self.target.get() {
            target.stop();
        }
        if let Some(kafka) = self.kafka.get() {
            kafka.stop();
        }
    }

    /// Ends everything at once and removes the folder, for a bed in a static, which is never dropped.
    pub fn discard(&self) {
        for server in [self.source.get(), self.target.get()].into_iter().flatten() {
            server.stop_immediately();
        }
        if let Some(ferretdb) = self.ferretdb.get() {
            ferretdb.stop();
        }
        if let Some(kafka) = self.kafka.get() {
            kafka.discard();
        }
        // What cannot be removed is left to whoever cleans the temporary folder.
        let _ = std::fs::remove_dir_all(self.folder.path());
    }
}

/// One database of the source server, and what becomes of its changes.
#[derive(Debug)]
pub struct Database<'a> {
    bed: &'a TestBed,
    name: String,
}

impl<'a> Database<'a> {
    /// One that is there already.
    pub fn of(bed: &'a TestBed, name: &str) -> Database<'a> {
        Database {
            bed,
            name: name.to_owned(),
        }
    }

    /// Its name, which is the prefix of its topics too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bed it is in.
    pub fn bed(&self) -> &'a TestBed {
        self.bed
    }

    /// A new connection to it, as superuser.
    pub fn source(&self) -> Client {
        self.bed.source().connect(&self.name)
    }

    /// The topic of a table of the schema `public`.
    pub fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.name)
    }

    /// Waits until all that is committed now is in Kafka (`cdc_wait()`).
    ///
    /// # Panics
    /// When that takes longer than a minute, with the sender's state.
    pub fn wait_until_in_kafka(&self) {
        let mut client = self.source();
        if let Err(error) = client.query("SELECT cdc_wait('1 min')", &[]) {
            let status = client.query_one("SELECT cdc_status()::text", &[]);
            let status = status.map(|row| row.get::<_, String>(0));
            panic!("cdc_wait: {error:?}; cdc_status: {status:?}");
        }
    }

    /// Waits until no snapshot is under way, nor has failed: pg_cdc asks for some by itself, and they take locks.
    ///
    /// # Panics
    /// When that takes longer than a minute, with the snapshots that are left.
    pub fn wait_until_snapshots_end(&self) {
        let mut client = self.source();
        let query = "SELECT string_agg(to_jsonb(s)::text, '; ') FROM cdc_snapshots s WHERE state NOT IN ('done', 'cancelled')";
        wait_until("the snapshots", SENDER_TIMEOUT, || {
            let row = client.query_one(query, &[]).map_err(|e| format!("{e:?}"))?;
            row.get::<_, Option<String>>(0).map_or(Ok(()), Err)
        });
    }

    /// All records of a table's topic, after [`Database::wait_until_in_kafka`].
    pub fn records(&self, table: &str) -> Vec<Record> {
        self.wait_until_in_kafka();
        self.records_of_topic(&self.topic(table))
    }

    /// What a topic has now, and the control events about it in front, as of the partition [`topic::CONTROL`].
    pub fn records_of_topic(&self, topic: &str) -> Vec<Record> {
        let mut records = topic::read_control(self.bed.kafka(), &self.name, topic);
        records.extend(topic::read(self.bed.kafka(), topic));
        records
    }

    /// The ids of the rows whose insert is in a table's topic now.
    pub fn ids_in_topic(&self, table: &str) -> BTreeSet<i64> {
        let records = topic::read(self.bed.kafka(), &self.topic(table));
        prefix_rule::inserted_ids(&records).into_iter().collect()
    }

    /// As [`Database::ids_in_topic`], after [`Database::wait_until_in_kafka`].
    pub fn inserted_ids(&self, table: &str) -> BTreeSet<i64> {
        self.wait_until_in_kafka();
        self.ids_in_topic(table)
    }

    /// The events of a table in the order of their versions, each once, with the control events about it and without tombstones.
    pub fn events(&self, table: &str) -> Vec<Record> {
        self.events_of_topic(&self.topic(table))
    }

    /// As [`Database::events`], of any topic.
    pub fn events_of_topic(&self, topic: &str) -> Vec<Record> {
        self.wait_until_in_kafka();
        let mut records = self.records_of_topic(topic);
        records.retain(|record| record.op() != "tombstone");
        records.sort_by(|one, other| one.version().cmp(other.version()));
        records.dedup_by(|one, other| one.id() == other.id());
        records
    }

    /// Starts a companion-sink for this database, as [`Database::plan_companion_sink`] has it.
    pub fn start_companion_sink(&self) -> CompanionSink {
        let sink = self.bed.companion_sink(self.plan_companion_sink());
        sink.start();
        sink
    }

    /// What a companion-sink for this database does: a history in the Mongo database [`Database::history_name`], and a
    /// replica in the target server's database [`Database::replica_name`], which is created if missing.
    pub fn plan_companion_sink(&self) -> Plan {
        let exists = "SELECT 1 FROM pg_database WHERE datname = $1";
        let found = self
            .bed
            .target()
            .connect("postgres")
            .query_opt(exists, &[&self.replica_name()]);
        if found.expect("look for the replica's database").is_none() {
            self.bed.target().create_database(&self.replica_name());
        }
        Plan {
            name: format!("companion_{}", self.name),
            brokers: self.bed.kafka().brokers(),
            source: "pg".to_owned(),
            topics: vec![format!("{}.public.*", self.name)],
            mongo_url: self.bed.ferretdb().url(),
            mongo_database: self.history_name(),
            replica_url: self.bed.target().url(&self.replica_name()),
            http_port: port::free(),
            kafka_config_file: None,
            http_token_file: None,
            consistency: "transaction",
            more_toml: String::new(),
        }
    }

    /// The name of the replica's database in the target server.
    pub fn replica_name(&self) -> String {
        format!("{}_replica", self.name)
    }

    /// The name of the history's database in FerretDB.
    pub fn history_name(&self) -> String {
        format!("{}_history", self.name)
    }

    /// A new connection to the replica.
    pub fn replica(&self) -> Client {
        self.bed.target().connect(&self.replica_name())
    }

    /// Waits until the history of a sink, asked for `table`, has everything that the source has sent until now, and knows
    /// that.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn wait_until_history_is_complete(&self, sink: &CompanionSink, table: &str) {
        self.wait_until_in_kafka();
        let query = "SELECT lpad(to_hex((sent_lsn - '0/0')::bigint), 16, '0') FROM cdc_status()";
        let sent = self.source().query_one(query, &[]).expect("cdc_status");
        sink.wait_until_history_is_complete_up_to(sent.get(0), table);
    }

    /// The history of a table.
    pub fn history(&self, table: &str) -> History {
        History::of(&self.bed.ferretdb().client(), &self.history_name(), table)
    }
}

/// A folder that everybody may enter (PostgreSQL runs as another user), removed when dropped.
///
/// # Panics
/// When it cannot be made.
pub fn temporary_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new()
        .prefix("pg_cdc_")
        .tempdir()
        .expect("a temporary folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("open the temporary folder");
    check_short(folder.path());
    folder
}

/// A socket's path has at most 107 bytes.
fn check_short(folder: &Path) {
    assert!(
        folder.as_os_str().len() < 70,
        "{} is too long for a socket in it: set TMPDIR",
        folder.display()
    );
}
