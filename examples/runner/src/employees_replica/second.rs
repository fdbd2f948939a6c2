//! How long a change takes from one database into the other.
//!
//! Each change is a transaction of its own, and the only one of its row. Its time begins just before its statement is sent,
//! so it has the commit in it, and ends where a client of the replica gets the notification of a trigger there, which
//! PostgreSQL sends after the commit, when everybody sees the row. Both are read from one clock. So what is measured is a
//! little too much, never too little.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use super::company::{Company, FIRST_EMPLOYEES, TIMEOUT};

const CHANGES: i32 = 10_000;
const PER_SECOND: u32 = 1000;
const WRITERS: i32 = 4;
const ALLOWED: Duration = Duration::from_secs(1);

/// Also for sessions that have triggers off, as a replica's may have.
const NOTIFY: &str = "
    CREATE FUNCTION notify_seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_notify('seen', coalesce(NEW.emp_id, OLD.emp_id)::text);
        RETURN NULL;
    END $$;
    CREATE TRIGGER seen AFTER INSERT OR UPDATE OR DELETE ON employees FOR EACH ROW EXECUTE FUNCTION notify_seen();
    ALTER TABLE employees ENABLE ALWAYS TRIGGER seen;
    LISTEN seen";

/// Makes the changes and says how long they took: p50, p99 and the largest.
pub(super) fn measure(company: &Company<'_>) -> String {
    let mut replica = company.replica();
    replica.batch_execute(NOTIFY).expect("a trigger");
    let (sent, seen) = thread::scope(|scope| {
        let seen = scope.spawn(|| listen(&mut replica));
        let begin = Instant::now();
        let writers = (0..WRITERS).map(|writer| {
            let client = company.source();
            scope.spawn(move || write(client, writer, begin))
        });
        let writers: Vec<_> = writers.collect();
        let sent = writers
            .into_iter()
            .flat_map(|w| w.join().expect("a writer"));
        let sent: Vec<(i32, Instant)> = sent.collect();
        (sent, seen.join().expect("who listens"))
    });
    replica
        .batch_execute("DROP TRIGGER seen ON employees; DROP FUNCTION notify_seen()")
        .expect("the trigger goes");
    company.assert_equal();
    let mut took: Vec<Duration> = sent
        .iter()
        .map(|(employee, at)| match seen.get(employee) {
            Some(seen) => seen.duration_since(*at),
            None => panic!(
                "the change of employee {employee} did not come; {} did",
                seen.len()
            ),
        })
        .collect();
    took.sort_unstable();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let largest = took[took.len() - 1];
    let text = format!(
        "p50 {:.1} ms, p99 {:.1} ms, largest {:.0} ms of {}, {PER_SECOND} a second",
        milliseconds(took[took.len() / 2]),
        milliseconds(took[took.len() * 99 / 100]),
        milliseconds(largest),
        took.len()
    );
    assert!(largest < ALLOWED, "{text}");
    text
}

/// When a change of each employee was seen first, until all were.
fn listen(replica: &mut Client) -> HashMap<i32, Instant> {
    let mut seen = HashMap::new();
    let mut notifications = replica.notifications();
    let mut coming = notifications.timeout_iter(TIMEOUT);
    while seen.len() < CHANGES as usize {
        let Some(notification) = coming.next().expect("a notification") else {
            break;
        };
        let employee = notification.payload().parse().expect("a number");
        seen.entry(employee).or_insert_with(Instant::now);
    }
    seen
}

/// Makes one writer's share of the changes, at a steady rate; which employees, and when.
fn write(mut client: Client, writer: i32, begin: Instant) -> Vec<(i32, Instant)> {
    let mut prepare = |sql: &str| client.prepare(sql).expect(sql);
    let insert =
        prepare("INSERT INTO employees VALUES ($1, 'Lea', 'Graf', '1985-04-12', 'Zug', 6100)");
    let update = prepare("UPDATE employees SET city = 'Aarau' WHERE emp_id = $1");
    let delete = prepare("DELETE FROM employees WHERE emp_id = $1");
    let mine = (0..CHANGES).filter(|n| n % WRITERS == writer);
    mine.map(|n| {
        let planned = begin + Duration::from_secs(1) / PER_SECOND * n.unsigned_abs();
        thread::sleep(planned.saturating_duration_since(Instant::now()));
        // Of the employees that are there the first half is updated, the other one deleted.
        let (statement, employee) = match n % 3 {
            0 => (&insert, FIRST_EMPLOYEES as i32 + 1 + n / 3),
            1 => (&update, 1 + n / 3),
            _ => (&delete, FIRST_EMPLOYEES as i32 / 2 + 1 + n / 3),
        };
        let at = Instant::now();
        let changed = client.execute(statement, &[&employee]);
        assert_eq!(changed.expect("a change"), 1, "employee {employee}");
        (employee, at)
    })
    .collect()
}
