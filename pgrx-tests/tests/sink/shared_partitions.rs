//! Several instances of one sink share the partitions of a replica with `consistency = "row"`: whoever comes, goes, is killed or
//! sleeps, nothing is lost, nothing is done twice, nothing goes back.

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::hand_made_events::{Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::process::send_signal;
use pg_cdc_tests::statements::{one_text, run, wait_for_text};
use pg_cdc_tests::{Database, pgbench, port, replica, wait_until};
use postgres::Client;
use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 3] = [("id", "bigint"), ("city", "varchar(5)"), ("n", "integer")];
/// Notes every step back of an offset, and of a number that only rises at the source.
const WATCH: &str = "CREATE TABLE back (what text);
    CREATE FUNCTION note_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_TABLE_NAME = 'offsets' AND (to_jsonb(NEW)->>'next_offset')::bigint < (to_jsonb(OLD)->>'next_offset')::bigint
            OR TG_TABLE_NAME <> 'offsets' AND (to_jsonb(NEW)->>'n')::bigint < (to_jsonb(OLD)->>'n')::bigint THEN
            INSERT INTO public.back VALUES (format('%s: %s, then %s', TG_TABLE_NAME, OLD, NEW));
        END IF;
        RETURN NEW; END $$";

fn watch(replica: &mut Client, table: &str) {
    // Also for sessions that have triggers off, as the sink has.
    let sql = format!(
        "CREATE TRIGGER back BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note_back();
         ALTER TABLE {table} ENABLE ALWAYS TRIGGER back"
    );
    replica.batch_execute(&sql).expect("a trigger");
}

fn assert_nothing_went_back(replica: &mut Client) {
    let back = one_text(replica, "SELECT string_agg(what, '; ') FROM back");
    assert_eq!(back, "NULL");
    let open = "SELECT (SELECT count(*) FROM companion.parked) || ' ' || (SELECT count(*) FROM companion.barriers)";
    assert_eq!(
        one_text(replica, open),
        "0 0",
        "nothing is parked, nobody waits"
    );
}

fn row(id: u64, city: &str, n: u64) -> Value {
    json!({"id": id, "city": city, "n": n})
}

/// An instance of the sink that `plan` describes, at a port of its own, running.
pub(super) fn start_instance(plan: &Plan) -> CompanionSink {
    let sink = bed().companion_sink(Plan {
        http_port: port::free(),
        ..plan.clone()
    });
    sink.start_only(&["replica"]);
    sink
}

/// Waits until the instances have so many partitions each, in any order.
fn wait_for_shares(sinks: &[&CompanionSink], expected: &[u64]) {
    wait_until("the partitions to be shared out", TIMEOUT, || {
        let statuses: Vec<Value> = sinks.iter().map(|sink| sink.state_of("replica")).collect();
        let shares = statuses.iter().map(|status| status["partitions"].as_u64());
        let mut shares: Vec<Option<u64>> = shares.collect();
        shares.sort_unstable();
        match shares
            .iter()
            .copied()
            .eq(expected.iter().map(|share| Some(*share)))
        {
            true => Ok(()),
            false => Err(format!("{statuses:?}")),
        }
    });
}

fn applied(sink: &CompanionSink) -> u64 {
    sink.state_of("replica")["applied_total"]
        .as_u64()
        .expect("a number")
}

#[test]
fn each_instance_applies_its_share() {
    let mut source = Source::new("shares");
    source.track("t", &COLUMNS, &["id"]);
    let plan = source.plan();
    let send = |source: &mut Source, n: u64| {
        for id in 0..300 {
            let event = match n {
                0 => source.create("t", Some(&id_key(id)), &row(id, "a", 0)),
                _ => source.update(
                    "t",
                    Some(&id_key(id)),
                    &row(id, "a", n - 1),
                    &row(id, "a", n),
                ),
            };
            source.send(&event);
        }
        source.flush();
    };
    let all = |n: u64| format!("300 {n} {n}");
    let content = "SELECT count(*) || ' ' || min(n) || ' ' || max(n) FROM t";
    let mut replica = source.replica();
    send(&mut source, 0);
    let first = start_instance(&plan);
    wait_for_shares(&[&first], &[3]);
    wait_until("the table", TIMEOUT, || {
        replica
            .batch_execute("SELECT FROM t")
            .map_err(|e| e.to_string())
    });
    wait_for_text(&mut replica, content, &all(0));

    let second = start_instance(&plan);
    wait_for_shares(&[&first, &second], &[1, 2]);
    let third = start_instance(&plan);
    wait_for_shares(&[&first, &second, &third], &[1, 1, 1]);
    send(&mut source, 1);
    wait_for_text(&mut replica, content, &all(1));
    for sink in [&first, &second, &third] {
        assert!(applied(sink) > 0, "{}", sink.state_of("replica"));
    }
    // More than there are partitions for.
    let fourth = start_instance(&plan);
    wait_for_shares(&[&first, &second, &third, &fourth], &[0, 1, 1, 1]);
    assert!(fourth.stop().expect("it ran").success());

    // One leaves in order, one is killed: the rest have everything.
    assert!(third.stop().expect("it ran").success());
    wait_for_shares(&[&first, &second], &[1, 2]);
    send(&mut source, 2);
    second.kill();
    wait_for_shares(&[&first], &[3]);
    wait_for_text(&mut replica, content, &all(2));
    // A consistent replica of the same name would write beside them.
    let consistent = start_instance(&Plan {
        consistency: "transaction",
        ..plan
    });
    consistent.wait_for_log("CDC1009");
    let told = first.run_command(&["status"]);
    assert!(told.contains("\"partitions\":3"), "{told}");
}

#[test]
fn an_instance_that_sleeps_in_the_middle_of_a_batch_does_no_harm() {
    let mut source = Source::new("asleep");
    source.track("t", &COLUMNS, &["id"]);
    let plan = source.plan();
    let sinks = [start_instance(&plan), start_instance(&plan)];
    wait_for_shares(&[&sinks[0], &sinks[1]], &[1, 2]);
    let mut replica = source.replica();
    source.wait_until_replica_applied(&sinks[0], "t");
    replica.batch_execute(WATCH).expect("the watch");
    watch(&mut replica, "companion.offsets");
    watch(&mut replica, "t");
    let content = "SELECT string_agg(n || ':' || count, ' ' ORDER BY n) FROM (SELECT n, count(*) FROM t GROUP BY n) s";
    let partition = |id: u64| (id % 3) as i32;
    for id in 0..60 {
        let event = source.create("t", Some(&id_key(id)), &row(id, "a", 1));
        source.send(&event.in_partition(partition(id)));
    }
    source.flush();
    wait_for_text(&mut replica, content, "1:60");

    // Both are in the middle of a batch, and one of them falls asleep there.
    replica
        .batch_execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .expect("a lock");
    for id in 0..60 {
        let event = source.update("t", Some(&id_key(id)), &row(id, "a", 1), &row(id, "a", 2));
        source.send(&event.in_partition(partition(id)));
    }
    source.flush();
    let mut other = source.replica();
    let waiting = "SELECT count(DISTINCT l.pid) FROM pg_locks l WHERE NOT l.granted AND l.relation = 't'::regclass";
    wait_for_text(&mut other, waiting, "2");
    let asleep = &sinks[1];
    let awake = &sinks[0];
    send_signal(asleep.pid(), libc::SIGSTOP);
    replica.batch_execute("COMMIT").expect("the lock is free");

    // A truncate waits for the partitions of the one that sleeps, and what comes behind it as well.
    let truncate = source.truncate("t");
    source.send_control(&truncate);
    for id in 30..90 {
        let event = source.create("t", Some(&id_key(id)), &row(id, "b", 3));
        source.send(&event.in_partition(partition(id)));
    }
    source.flush();
    let waits =
        "SELECT (SELECT count(*) > 0 FROM companion.barriers) AND (SELECT count(*) FROM t) = 60";
    wait_for_text(&mut other, waits, "true");
    // Whoever waits there may be killed as well.
    awake.kill();
    awake.start_only(&["replica"]);
    wait_for_shares(&[awake], &[3]);
    wait_for_text(&mut other, content, "3:60");

    send_signal(asleep.pid(), libc::SIGCONT);
    wait_for_shares(&[&sinks[0], &sinks[1]], &[1, 2]);
    let (before_asleep, before_awake) = (applied(asleep), applied(awake));
    for id in 30..90 {
        let event = source.update("t", Some(&id_key(id)), &row(id, "b", 3), &row(id, "b", 4));
        source.send(&event.in_partition(partition(id)));
    }
    source.flush();
    wait_for_text(&mut other, content, "4:60");
    wait_until("both to have applied some", TIMEOUT, || {
        match applied(asleep) > before_asleep && applied(awake) > before_awake {
            true => Ok(()),
            false => Err(format!(
                "{} {}",
                asleep.state_of("replica"),
                awake.state_of("replica")
            )),
        }
    });
    assert_nothing_went_back(&mut other);
}

#[test]
fn parked_keys_go_with_their_partition() {
    let mut source = Source::new("parked_shared");
    source.track("t", &COLUMNS, &["id"]);
    let plan = source.plan();
    let sinks = [start_instance(&plan), start_instance(&plan)];
    wait_for_shares(&[&sinks[0], &sinks[1]], &[1, 2]);
    let refused = source.create("t", Some(&id_key(1)), &row(1, "too long", 1));
    source.send(&refused.clone().in_partition(0));
    source.wait_until_replica_applied(&sinks[0], "t");
    // The key becomes another, in partitions of both instances: it waits there as well.
    let delete = source
        .delete("t", Some(&id_key(1)), &row(1, "too long", 1))
        .with_header("__debezium.newkey", &id_key(2));
    source.send(&delete.in_partition(0));
    source.wait_until_replica_applied(&sinks[0], "t");
    for (id, partition) in [(2, 1), (3, 2)] {
        let create = source
            .create("t", Some(&id_key(id)), &row(id, "ok", 2))
            .with_header("__debezium.oldkey", &id_key(1));
        source.send(&create.in_partition(partition));
    }
    source.wait_until_replica_applied(&sinks[0], "t");
    let mut replica = source.replica();
    let parked = "SELECT string_agg(convert_from(key, 'UTF8') || coalesce(code, '-'), ' ' ORDER BY version) FROM companion.parked";
    let expected = r#"{"id":1}CDC1007 {"id":1}- {"id":2}- {"id":3}-"#;
    assert_eq!(one_text(&mut replica, parked), expected);

    // Whoever takes the partition over knows the key, and carries out what was decided meanwhile.
    let keys = |sink: &CompanionSink| sink.state_of("replica")["parked_keys"].as_u64();
    wait_until("the keys to be told", TIMEOUT, || {
        let told = (keys(&sinks[0]), keys(&sinks[1]));
        match told {
            (Some(one), Some(other)) if one + other == 3 => Ok(()),
            told => Err(format!("{told:?}")),
        }
    });
    let [killed, other] = match applied(&sinks[0]) {
        0 => [&sinks[1], &sinks[0]],
        _ => [&sinks[0], &sinks[1]],
    };
    killed.kill();
    wait_for_shares(&[other], &[3]);
    let later = source.create("t", Some(&id_key(1)), &row(1, "new", 3));
    source.send(&later.in_partition(0));
    source.wait_until_replica_applied(other, "t");
    assert_eq!(keys(other), Some(3));
    assert_eq!(one_text(&mut replica, "SELECT count(*) FROM t"), "0");
    killed.start_only(&["replica"]);
    wait_for_shares(&[&sinks[0], &sinks[1]], &[1, 2]);
    replica
        .batch_execute("ALTER TABLE t ALTER COLUMN city TYPE text")
        .expect("make the column wider");
    other.run_command(&["dlq", "retry", "--all"]);
    // With the key those are free that waited behind it, whoever has them.
    let rows = "SELECT string_agg(id || city || n, ' ' ORDER BY id) FROM t";
    wait_for_text(&mut replica, rows, "1new3 2ok2 3ok2");
    assert_eq!(
        one_text(&mut replica, "SELECT count(*) FROM companion.parked"),
        "0"
    );
}

/// The load of the last test: numbers that rise, keys that change, a table that is emptied, lines without a key.
const LOAD: &str = "\\set id random(1, 200)
\\set to random(1, 200)
\\set empty random(1, 60)
UPDATE counter SET n = n + 1 WHERE id = :id;
UPDATE moving SET id = id + 1000 WHERE id = :id;
UPDATE moving SET id = id - 1000 WHERE id = 1000 + :to AND NOT EXISTS (SELECT FROM moving m WHERE m.id = :to);
INSERT INTO line (id, n) VALUES (:id, :to);
INSERT INTO scratch (n) VALUES (:id);
\\if :empty = 1
TRUNCATE scratch;
\\endif
";
const TABLES: [&str; 4] = ["counter", "moving", "line", "scratch"];

/// Waits until the instances have applied some more, all together.
fn wait_for_progress(replica: &mut Client) {
    let sum = "SELECT coalesce(sum(next_offset), 0) FROM companion.offsets";
    let next = |client: &mut Client| one_text(client, sum).parse::<i64>().expect("a number");
    let before = next(replica);
    wait_until("the instances to go on", TIMEOUT, || match next(replica) {
        now if now > before + 500 => Ok(()),
        now => Err(format!("{before}, {now}")),
    });
}

/// Waits until the session of an instance that sleeps was ended by another one.
fn wait_until_left(others: &[&CompanionSink], asleep: &CompanionSink) {
    let ended = |sink: &CompanionSink| {
        let log = std::fs::read_to_string(sink.log_file()).expect("the log");
        log.matches("its session is ended").count()
    };
    let before: usize = others.iter().map(|sink| ended(sink)).sum();
    send_signal(asleep.pid(), libc::SIGSTOP);
    wait_until("the others to end its session", TIMEOUT, || {
        let now: usize = others.iter().map(|sink| ended(sink)).sum();
        if now > before { Ok(()) } else { Err(now) }
    });
}

fn prepare(database: &Database<'_>) {
    run(
        &mut database.source(),
        &[
            "CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL)",
            "CREATE TABLE moving (id int PRIMARY KEY, what text NOT NULL)",
            "CREATE TABLE line (id int, n int)",
            "CREATE TABLE scratch (id serial PRIMARY KEY, n int)",
            "INSERT INTO counter SELECT n, 0 FROM generate_series(1, 200) AS n",
            "INSERT INTO moving SELECT n, 'row ' || n FROM generate_series(1, 200) AS n",
            "SELECT cdc_track('counter', snapshot => true)",
            "SELECT cdc_track('moving', snapshot => true)",
            "SELECT cdc_track('line')",
            "SELECT cdc_track('scratch')",
        ],
    );
}

#[test]
fn whoever_comes_and_goes_under_load_the_replica_equals_its_source() {
    // The sender waits for it.
    bed().kafka();
    let database = bed().database("shared_load");
    prepare(&database);
    let plan = Plan {
        consistency: "row",
        more_toml: "batch = { rows = 200 }\n".to_owned(),
        ..database.plan_companion_sink()
    };
    let load = pgbench::start(&database, LOAD, &["-c", "2", "-R", "150", "-T", "3600"]);
    let first = start_instance(&plan);
    let second = start_instance(&plan);
    let mut copy = database.replica();
    wait_until("the tables", TIMEOUT, || {
        copy.batch_execute("SELECT FROM companion.offsets, counter, moving, line, scratch LIMIT 0")
            .map_err(|e| e.to_string())
    });
    copy.batch_execute(WATCH).expect("the watch");
    watch(&mut copy, "companion.offsets");
    watch(&mut copy, "counter");
    wait_for_progress(&mut copy);
    let third = start_instance(&plan);
    wait_for_progress(&mut copy);
    second.kill();
    wait_for_progress(&mut copy);
    let mut source = database.source();
    run(
        &mut source,
        &[
            "ALTER TABLE moving ADD COLUMN city text",
            "UPDATE moving SET city = 'Bern' WHERE id % 2 = 0",
        ],
    );
    second.start_only(&["replica"]);
    wait_for_progress(&mut copy);
    wait_until_left(&[&first, &second], &third);
    run(
        &mut source,
        &[
            "ALTER TABLE counter ADD COLUMN note text",
            "UPDATE counter SET note = 'x', n = n + 1",
        ],
    );
    wait_for_progress(&mut copy);
    send_signal(third.pid(), libc::SIGCONT);
    assert!(first.stop().expect("it ran").success());
    wait_for_progress(&mut copy);
    first.start_only(&["replica"]);
    third.kill();
    wait_for_progress(&mut copy);
    load.stop();

    database.wait_until_in_kafka();
    let topics: Vec<String> = TABLES.iter().map(|table| database.topic(table)).collect();
    second.wait_until_sink_applied("replica", bed().kafka(), &topics);
    for table in TABLES {
        let rows = replica::assert_equal(&mut source, &mut copy, &format!("public.{table}"));
        assert!(rows > 0 || table == "scratch", "{table}");
    }
    assert_nothing_went_back(&mut copy);
    let (one, other) = (applied(&first), applied(&second));
    assert!(one > 0 && other > 0, "{one} {other}");
    bed().source().assert_never_crashed();
}
