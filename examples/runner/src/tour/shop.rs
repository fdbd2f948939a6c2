//! The shop: its table, the four scenes that are played on it, and what must have become of them.

use std::time::{Duration, Instant};

use mongodb::bson::Document;
use pg_cdc_tests::history::History;
use pg_cdc_tests::topic::{self, Record};
use pg_cdc_tests::{Database, wait::wait_for};
use postgres::{Client, NoTls};

use crate::screen::Screen;
use crate::tour::tail::Tail;

/// Customers that are there before Eva (number 42) comes.
const FIRST_CUSTOMERS: u64 = 11;
/// The balance that was rolled back.
const ROLLED_BACK_BALANCE: &str = "1000000.00";
/// How long a change may take to arrive everywhere.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The shop's database and the places where its changes arrive.
pub(crate) struct Shop {
    database: Database<'static>,
    history: History,
    events: u64,
}

/// How long after its commit began a change was where it should be.
struct Arrival {
    kafka: Duration,
    history: Duration,
    replica: Duration,
}

impl Arrival {
    fn text(&self) -> String {
        format!(
            "in Kafka {:.1} ms   history {:.0} ms   replica {:.0} ms",
            milliseconds(self.kafka),
            milliseconds(self.history),
            milliseconds(self.replica)
        )
    }
}

impl Shop {
    /// The shop in a database without anything in it.
    pub(crate) fn new(database: Database<'static>, history: History) -> Shop {
        Shop {
            database,
            history,
            events: 0,
        }
    }

    /// Makes the table and the role of the application, without tracking.
    pub(crate) fn create(&self) {
        let mut admin = self.database.source();
        admin
            .batch_execute(
                "CREATE ROLE app_rw LOGIN;
                 CREATE TABLE customer (
                     id bigint PRIMARY KEY, name text NOT NULL, city text, balance numeric(12, 2), note text);
                 GRANT SELECT, INSERT, UPDATE, DELETE ON customer TO app_rw",
            )
            .expect("create the table customer");
        // So that the psql command that is shown works for whoever runs the demo.
        let me = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        for server in [self.database.bed().source(), self.database.bed().target()] {
            let role = format!(
                "CREATE ROLE \"{}\" SUPERUSER LOGIN",
                me.replace('"', "\"\"")
            );
            if me != "postgres" {
                server
                    .connect("postgres")
                    .batch_execute(&role)
                    .expect("create a role for you");
            }
        }
    }

    /// `CREATE EXTENSION` and `cdc_track`.
    pub(crate) fn track(&self, screen: &Screen) {
        let mut admin = self.database.source();
        admin
            .batch_execute("CREATE EXTENSION pg_cdc")
            .expect("CREATE EXTENSION pg_cdc");
        screen.wait("pg_cdc's sender", || {
            self.database
                .bed()
                .wait_until_streaming(self.database.name())
        });
        let tracked = admin
            .query_one("SELECT cdc_track('customer')", &[])
            .expect("cdc_track('customer')");
        screen.line(format!(
            " shop=# {}{:>20}-> topic {}",
            screen.paint(
                "1",
                "CREATE EXTENSION pg_cdc;  SELECT cdc_track('customer');"
            ),
            "",
            tracked.get::<_, &str>(0)
        ));
    }

    /// Plays everything.
    pub(crate) fn play(&mut self, screen: &Screen) {
        let mut tail = Tail::of(
            self.database.bed().kafka(),
            &self.database.topic("customer"),
        );
        self.import_first_customers(screen, &mut tail);
        screen.scene(
            "1 ann  BEGIN; SELECT cdc_context('ann', 'new customer', 'r-16'); INSERT … 'Eva', 'Basel'; COMMIT",
            || {
                let mut app = self.connect("app_rw");
                app.batch_execute(
                    "BEGIN; SELECT cdc_context('ann', 'new customer', 'r-16');
                     INSERT INTO customer VALUES (42, 'Eva', 'Basel', 10.50, NULL)",
                )
                .expect("ann's insert");
                self.commit(&mut app, &mut tail, 1, Some(42)).text()
            },
        );
        screen.scene(
            "2 ann  UPDATE … city = 'Bern'              (reason: moved to Bern, r-17)",
            || {
                let mut app = self.connect("app_rw");
                app.batch_execute(
                    "BEGIN; SELECT cdc_context('ann', 'moved to Bern', 'r-17');
                     UPDATE customer SET city = 'Bern' WHERE id = 42",
                )
                .expect("ann's update");
                self.commit(&mut app, &mut tail, 1, Some(42)).text()
            },
        );
        screen.scene(
            "3 eve  BEGIN; UPDATE … balance = 1000000; ROLLBACK",
            || {
                let mut app = self.connect("app_rw");
                app.batch_execute(
                    "BEGIN; SELECT cdc_context('eve', 'nobody will see', 'r-18');
                 UPDATE customer SET balance = 1000000 WHERE id = 42; ROLLBACK",
                )
                .expect("eve's rollback");
                self.database.wait_until_in_kafka();
                match self.rolled_back_records(&self.records()) {
                    0 => "nothing sent, as it should be".to_owned(),
                    n => panic!("{n} events of a transaction that was rolled back are in Kafka"),
                }
            },
        );
        screen.scene(
            "4 bob  BEGIN; SAVEPOINT s; DELETE …; ROLLBACK TO s; UPDATE … balance = 25, note = 'VIP'; COMMIT",
            || {
                let mut admin = self.connect("postgres");
                admin
                    .batch_execute(
                        "BEGIN; SELECT cdc_context('bob', 'goodwill'); SAVEPOINT s;
                         DELETE FROM customer WHERE id = 42; ROLLBACK TO s;
                         UPDATE customer SET balance = 25, note = 'VIP' WHERE id = 42",
                    )
                    .expect("bob's savepoint");
                self.commit(&mut admin, &mut tail, 1, Some(42)).text()
            },
        );
    }

    fn import_first_customers(&mut self, screen: &Screen, tail: &mut Tail) {
        screen.wait("the first customers", || {
            let mut app = self.connect("app_rw");
            app.batch_execute("BEGIN; SELECT cdc_context(reason => 'first import')").expect("begin");
            let insert = "INSERT INTO customer SELECT n, 'Customer ' || n, 'Basel', n, NULL FROM generate_series(1, 11) n";
            app.batch_execute(insert).expect(insert);
            self.commit(&mut app, tail, FIRST_CUSTOMERS, Some(1));
        });
        screen.line(format!(
            " shop=# {}",
            screen.paint(
                "1",
                &format!("INSERT INTO customer …  ({FIRST_CUSTOMERS} rows in one statement)")
            )
        ));
    }

    /// All records of the topic, as they are in Kafka now.
    pub(crate) fn records(&self) -> Vec<Record> {
        topic::read(
            self.database.bed().kafka(),
            &self.database.topic("customer"),
        )
    }

    /// All documents of the history.
    pub(crate) fn documents(&self) -> Vec<Document> {
        self.history.all()
    }

    /// Records that carry what was rolled back: eve's balance, bob's delete.
    pub(crate) fn rolled_back_records(&self, records: &[Record]) -> usize {
        records
            .iter()
            .filter(|r| is_rolled_back(r.op(), r.value_text()))
            .count()
    }

    /// Documents of the history that carry what was rolled back.
    pub(crate) fn rolled_back_documents(&self, documents: &[Document]) -> usize {
        let rolled_back =
            |d: &&Document| is_rolled_back(d.get_str("op").unwrap_or_default(), &d.to_string());
        documents.iter().filter(rolled_back).count()
    }

    /// The shop's database.
    pub(crate) fn database(&self) -> &Database<'static> {
        &self.database
    }

    /// Commits, and measures until the `events` of the transaction are everywhere. `customer`: a row of it.
    fn commit(
        &mut self,
        client: &mut Client,
        tail: &mut Tail,
        events: u64,
        customer: Option<i64>,
    ) -> Arrival {
        self.events += events;
        let expected = self.events;
        // Before the commit: afterwards another transaction's view could differ.
        let row = "SELECT ROW(c.*)::text FROM customer c WHERE id = $1";
        let wanted: String = client
            .query_one(row, &[&customer])
            .expect("the row as it will be")
            .get(0);
        let mut replica = self.database.replica();
        let start = Instant::now();
        client.batch_execute("COMMIT").expect("COMMIT");
        let history = &self.history;
        std::thread::scope(|scope| {
            let in_history = scope.spawn(move || {
                wait_for(
                    "the history",
                    TIMEOUT,
                    || history.count(),
                    |count| *count >= expected,
                );
                start.elapsed()
            });
            let in_replica = scope.spawn(move || {
                // Until the first transaction is applied there is no table.
                let look = || {
                    let found = replica.query_opt(row, &[&customer]);
                    found.ok().flatten().map(|row| row.get::<_, String>(0))
                };
                wait_for("the replica", TIMEOUT, look, |seen| {
                    seen.as_ref() == Some(&wanted)
                });
                start.elapsed()
            });
            let in_kafka = tail.wait_for_count(expected, TIMEOUT) - start;
            Arrival {
                kafka: in_kafka,
                history: in_history.join().expect("the history's watcher"),
                replica: in_replica.join().expect("the replica's watcher"),
            }
        })
    }

    fn connect(&self, role: &str) -> Client {
        let port = self.database.bed().source().port();
        let url = format!(
            "host=127.0.0.1 port={port} dbname={} user={role} application_name=crm",
            self.database.name()
        );
        Client::connect(&url, NoTls).unwrap_or_else(|e| panic!("connect as {role}: {e}"))
    }
}

/// Nothing that was committed has this balance, is a delete, or is eve's.
fn is_rolled_back(op: &str, text: &str) -> bool {
    matches!(op, "d" | "delete" | "tombstone")
        || text.contains(ROLLED_BACK_BALANCE)
        || text.contains("nobody will see")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
