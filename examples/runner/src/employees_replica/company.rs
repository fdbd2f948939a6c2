//! The company: its employees in the source, their replica in the target, and instances of companion-sink between.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::postgres::Postgres;
use pg_cdc_tests::replica::Content;
use pg_cdc_tests::statements::text;
use pg_cdc_tests::{Database, TestBed, replica, topic, wait_until};
use postgres::{Client, Config};

/// How long something may take that is to happen.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// Employees before anything was tracked, as source.sql has them.
pub(super) const FIRST_EMPLOYEES: i64 = 10_000;
/// The employees of whom the load breaks a rule, and those of play.sql.
const MOST_HELD: usize = 54;

const TABLE: &str = "public.employees";
/// What the rules of companion-sink.toml reject, as SQL.
const AGAINST_RULES: &str = "dob > '2007-12-31' OR salary > 10000 OR emp_id < 0";

/// Both databases and what is between them.
pub(super) struct Company<'a> {
    database: Database<'a>,
    instances: AtomicU32,
}

impl<'a> Company<'a> {
    /// Makes databases, roles, the table and its first rows by the SQL files, and tracks it.
    pub(super) fn found(bed: &'a TestBed) -> Company<'a> {
        std::thread::scope(|scope| {
            scope.spawn(|| bed.kafka());
            scope.spawn(|| bed.target());
            bed.source();
        });
        run_file(bed.source(), "postgres", "postgres", "source.sql");
        run_file(bed.target(), "postgres", "postgres", "target.sql");
        Company {
            database: Database::of(bed, "hr"),
            instances: AtomicU32::new(0),
        }
    }

    pub(super) fn bed(&self) -> &'a TestBed {
        self.database.bed()
    }

    /// The topic of the employees.
    pub(super) fn topic(&self) -> String {
        self.database.topic("employees")
    }

    /// How the table's owner connects to the source.
    pub(super) fn source_config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.bed().source().port());
        config.user("hr").dbname("hr").connect_timeout(TIMEOUT);
        config
    }

    /// A connection to the source, of the table's owner.
    pub(super) fn source(&self) -> Client {
        self.bed().source().connect_as("hr", "hr")
    }

    /// A connection to the replica, of its owner.
    pub(super) fn replica(&self) -> Client {
        self.bed().target().connect_as("hr_replica", "hr_replica")
    }

    /// Plays the scene of a visitor, in psql.
    pub(super) fn play(&self) {
        run_file(self.bed().source(), "hr", "hr", "play.sql");
    }

    /// An instance of companion-sink with the example's configuration, running.
    pub(super) fn start_instance(&self, http_port: u16) -> CompanionSink {
        let number = self.instances.fetch_add(1, Ordering::Relaxed);
        let bed = self.bed();
        let url = |role: &str, port: u16, database: &str| {
            format!("postgres://{role}@127.0.0.1:{port}/{database}")
        };
        let instance = CompanionSink::copy_of(
            &bed.path(&format!("employees-replica-{number}")),
            &folder().join("companion-sink"),
            &[
                ("COMPANION_SINK__KAFKA__BROKERS", &bed.kafka().brokers()),
                (
                    "COMPANION_SINK__SOURCE__URL",
                    &url("hr_monitor", bed.source().port(), "hr"),
                ),
                (
                    "COMPANION_SINK__SINK__REPLICA__URL",
                    &url("hr_replica", bed.target().port(), "hr_replica"),
                ),
            ],
            http_port,
        );
        instance.start();
        instance
    }

    /// Waits until all that is committed now was read by the sink: applied, or held by a rule.
    pub(super) fn wait_until_applied(&self) {
        self.database.wait_until_in_kafka();
        let topic = self.topic();
        let ends = topic::offsets(self.bed().kafka(), &topic).expect("the topic");
        let mut replica = self.replica();
        let query = "SELECT coalesce(max(next_offset), 0) FROM companion.offsets
            WHERE sink = 'employees.replica' AND topic = $1 AND partition = $2";
        for (partition, offsets) in ends {
            wait_until("the sink to read the topic", TIMEOUT, || {
                let next = replica.query_one(query, &[&topic, &partition]);
                match next.map(|row| row.get::<_, i64>(0)) {
                    Ok(next) if next >= offsets.end => Ok(()),
                    next => Err(format!("{partition}: {next:?} of {}", offsets.end)),
                }
            });
        }
    }

    /// Waits until the instances, all together, have read some records more.
    pub(super) fn wait_for_progress(&self) {
        let mut replica = self.replica();
        let query = "SELECT coalesce(sum(next_offset), 0)::bigint FROM companion.offsets WHERE partition >= 0";
        let mut next = || -> i64 { replica.query_one(query, &[]).expect(query).get(0) };
        let before = next();
        wait_until("the sink to go on", TIMEOUT, || match next() {
            now if now >= before + 100 => Ok(()),
            now => Err(format!("{before}, {now}")),
        });
    }

    /// The rows that the snapshot has sent, and that both sides are equal.
    pub(super) fn assert_snapshot(&self) -> String {
        self.wait_until_applied();
        let records = topic::read(self.bed().kafka(), &self.topic());
        let found = records.iter().filter(|record| record.op() == "r").count();
        assert_eq!(found as i64, FIRST_EMPLOYEES, "events of the snapshot");
        format!("{} rows", self.assert_equal())
    }

    /// That every row is in both databases with the same values; how many there are.
    pub(super) fn assert_equal(&self) -> usize {
        self.wait_until_applied();
        replica::assert_equal(&mut self.source(), &mut self.replica(), TABLE)
    }

    /// That every row but those held is in both databases with the same values; and that just those are held which must be.
    pub(super) fn assert_equal_but_held(&self) -> String {
        self.wait_until_applied();
        let (mut source, mut replica) = (self.source(), self.replica());
        let held = held_keys(&mut replica);
        let against = format!("SELECT emp_id FROM employees WHERE {AGAINST_RULES}");
        let ids = |client: &mut Client| -> Vec<i32> {
            let rows = client.query(&against, &[]).expect("rows against the rules");
            rows.iter().map(|row| row.get(0)).collect()
        };
        let free: Vec<i32> = ids(&mut source);
        let free: Vec<&i32> = free.iter().filter(|id| !held.contains(id)).collect();
        assert!(free.is_empty(), "against the rules and not held: {free:?}");
        assert_eq!(
            ids(&mut replica),
            [0_i32; 0],
            "against the rules, and there"
        );

        let list: Vec<String> = held.iter().map(i32::to_string).collect();
        let but_held = format!(
            "(SELECT * FROM employees WHERE emp_id <> ALL ('{{{}}}')) AS e",
            list.join(",")
        );
        let columns = replica::columns(&mut source, TABLE);
        let here = Content::read(&mut source, &but_held, &columns);
        let there = Content::read(&mut replica, &but_held, &columns);
        let (missing, too_many) = (here.except_all(&there), there.except_all(&here));
        assert!(
            missing.is_empty() && too_many.is_empty(),
            "only in the source: {missing:?}; only in the replica: {too_many:?}"
        );
        format!(
            "{} rows equal, sha256 {}…, {} held",
            here.row_count(),
            &here.sha256()[..12],
            held.len()
        )
    }
}

/// The employees of whom an event is held, or waits behind one.
fn held_keys(replica: &mut Client) -> BTreeSet<i32> {
    let codes = "SELECT string_agg(DISTINCT code, ' ') FROM companion.parked";
    let codes = text(replica, codes);
    assert!(
        codes.is_none_or(|codes| codes == "CDC1006"),
        "not by a rule"
    );
    let query = "SELECT DISTINCT (convert_from(key, 'UTF8')::jsonb->>'emp_id')::integer FROM companion.parked";
    let rows = replica.query(query, &[]).expect(query);
    let held: BTreeSet<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert!(held.len() <= MOST_HELD, "{held:?}");
    held
}

/// The folder of the example.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../employees-replica")
}

fn run_file(server: &Postgres, role: &str, database: &str, file: &str) {
    let file = folder().join(file);
    let file = file.to_str().expect("a path in UTF-8");
    server.program("psql", &["-q", "-X", "-U", role, "-f", file, database]);
}
