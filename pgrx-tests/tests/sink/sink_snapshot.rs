//! Snapshots as the sinks see them: rows that are gone at the source are deleted in the replica, and get one inferred delete
//! in the history, whatever is killed and read twice; what a snapshot cannot know stays.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::{Bson, Document, doc};
use mongodb::sync::Collection;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::hand_made_events::{Event, PARTITIONS, Source, TIMEOUT, bed, id_key};
use pg_cdc_tests::process::send_signal;
use pg_cdc_tests::{history, wait_until};
use postgres::Client;
use serde_json::{Value, json};

const COLUMNS: [(&str, &str); 2] = [("id", "bigint"), ("n", "integer")];

fn row(id: u64, n: u64) -> Value {
    json!({"id": id, "n": n})
}

fn create(source: &mut Source, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        let event = source.create("t", Some(&id_key(id)), &row(id, 1));
        source.send(&event);
    }
}

fn read(source: &mut Source, ids: impl IntoIterator<Item = u64>, n: u64) {
    for id in ids {
        let event = source.read("t", Some(&id_key(id)), &row(id, n));
        source.send(&event);
    }
}

fn begin(source: &mut Source, snapshot: i64, chunk: u64) {
    let begin = begin_event(source, snapshot, chunk);
    source.send_control(&begin);
}

fn begin_event(source: &mut Source, snapshot: i64, chunk: u64) -> Event {
    let begin = json!({"id": snapshot, "chunk": chunk, "event": "chunk_begin", "sinks": null});
    source.snapshot("t", &begin)
}

/// The end of a chunk, of the last one where `to` is none.
fn end_event(source: &mut Source, snapshot: i64, to: Option<u64>, changed: &[u64]) -> Event {
    let changed: Vec<Value> = changed.iter().map(|id| json!({"id": id})).collect();
    let end = json!({"id": snapshot, "chunk": 1, "event": "chunk_end", "from": null,
        "to": to.map(|id| json!({"id": id})), "partial": false, "rows": 0, "changed": changed, "sinks": null});
    source.snapshot("t", &end)
}

fn end(source: &mut Source, snapshot: i64, to: Option<u64>, changed: &[u64]) {
    let end = end_event(source, snapshot, to, changed);
    source.send_control(&end);
}

fn documents(source: &Source) -> Vec<Document> {
    source.history("t").all()
}

fn keys(ids: &[u64]) -> BTreeSet<String> {
    ids.iter().map(|id| id_key(*id)).collect()
}

/// The rows that have an inferred delete; none may have two.
fn inferred(documents: &[Document]) -> BTreeSet<String> {
    let all = history::inferred_deletes(documents);
    let count = all.len();
    let inferred: BTreeSet<String> = all.into_iter().collect();
    assert_eq!(inferred.len(), count);
    inferred
}

fn there(documents: &[Document]) -> BTreeSet<String> {
    history::rows(documents).into_keys().collect()
}

fn assert_history_is_replica(source: &Source) {
    let rows = source
        .replica()
        .query("SELECT id, n FROM t", &[])
        .expect("the replica");
    let replica: BTreeMap<String, Document> = rows
        .iter()
        .map(|row| {
            let (id, n): (i64, i32) = (row.get(0), row.get(1));
            (format!("{{\"id\":{id}}}"), doc! {"id": id as i32, "n": n})
        })
        .collect();
    assert_eq!(history::rows(&documents(source)), replica);
}

fn collection(source: &Source, name: &str) -> Collection<Document> {
    let database = bed().ferretdb().client().database(&source.history_name());
    database.collection(name)
}

/// The collections in which companion-sink notes what a snapshot has met.
fn notes(source: &Source) -> Vec<String> {
    let database = bed().ferretdb().client().database(&source.history_name());
    let mut names = database.list_collection_names().run().expect("collections");
    names.retain(|name| name.starts_with("companion_seen_"));
    names
}

/// Rows 0 to 39 of which 0 was deleted, and a snapshot up to its end, which is returned and not sent. In it 10 to 19 are
/// met as they are, 20 to 24 with another content; 26 is deleted, 27 changed and 50 created meanwhile; 30 and 31 were changed by
/// somebody whom the snapshot did not see. Gone are 1 to 9, 25, 28, 29, 32 to 39.
fn whole_snapshot(source: &mut Source) -> (Event, BTreeSet<String>) {
    source.track("t", &COLUMNS, &["id"]);
    create(source, 0..40);
    let delete = source.delete("t", Some(&id_key(0)), &row(0, 1));
    source.send(&delete);
    begin(source, 7, 1);
    read(source, 10..15, 1);
    end(source, 7, Some(14), &[30]);
    begin(source, 7, 2);
    let delete = source.delete("t", Some(&id_key(26)), &row(26, 1));
    source.send(&delete);
    read(source, 15..20, 1);
    read(source, 20..25, 2);
    // What is changed behind a row that was met does not make that row another one.
    let update = source.update("t", Some(&id_key(12)), &row(12, 1), &row(12, 3));
    source.send(&update);
    let update = source.update("t", Some(&id_key(27)), &row(27, 1), &row(27, 3));
    source.send(&update);
    create(source, [50]);
    source.flush();
    let gone: Vec<u64> = (1..10).chain([25, 28, 29]).chain(32..40).collect();
    (end_event(source, 7, None, &[31]), keys(&gone))
}

/// Locks a collection until it is dropped, in a mode of PostgreSQL: SHARE keeps writers out, ACCESS EXCLUSIVE everybody.
struct Lock {
    client: Client,
    other: Client,
}

impl Lock {
    fn of(source: &Source, name: &str, mode: &str) -> Lock {
        let mut client = bed().target().connect("ferretdb");
        let query = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
            WHERE schemaname = $1 AND tablename LIKE $2 || '%'";
        let table: String = client
            .query_one(query, &[&source.history_name(), &name])
            .expect("the collection's table")
            .get(0);
        client
            .batch_execute(&format!("BEGIN; LOCK {table} IN {mode} MODE"))
            .expect("the lock");
        let other = bed().target().connect("ferretdb");
        Lock { client, other }
    }

    /// Waits until somebody waits for the lock.
    fn wait_for_waiter(&mut self) {
        let query =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND $1 = ANY (pg_blocking_pids(pid))";
        let holder = self.holder();
        wait_until("somebody to wait", TIMEOUT, || {
            match self
                .other
                .query_one(query, &[&holder])
                .expect("locks")
                .get::<_, i64>(0)
            {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        });
    }

    /// Ends the writers that wait: what they were to write is lost with whom sent it. Then lets go.
    fn drop_writers(mut self) {
        let query = "SELECT pg_terminate_backend(pid) FROM pg_locks
            WHERE NOT granted AND $1 = ANY (pg_blocking_pids(pid))";
        let holder = self.holder();
        self.other.query(query, &[&holder]).expect("their end");
    }

    fn holder(&mut self) -> i32 {
        let row = self.client.query_one("SELECT pg_backend_pid()", &[]);
        row.expect("a process id").get(0)
    }
}

/// Sends `event` while nobody can write into a collection, and kills companion-sink where it wants to.
fn kill_at(source: &Source, sink: &CompanionSink, name: &str, event: &Event) {
    let mut lock = Lock::of(source, name, "SHARE");
    source.send_control(event);
    lock.wait_for_waiter();
    sink.kill();
    lock.drop_writers();
}

#[test]
fn rows_that_are_gone_get_one_inferred_delete() {
    let mut source = Source::new("gone");
    let (end, gone) = whole_snapshot(&mut source);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    assert_eq!(inferred(&documents(&source)), keys(&[]));
    assert_eq!(notes(&source).len(), 1);
    source.send_control(&end);
    // It is back, and was gone all the same.
    create(&mut source, [5]);
    source.wait_until_applied(&sink, "t");
    let written = documents(&source);
    assert_eq!(inferred(&written), gone);
    assert_history_is_replica(&source);
    assert_eq!(notes(&source), [] as [&str; 0]);
    let five: Vec<_> = written
        .iter()
        .filter(|document| document.get("key") == Some(&Bson::Document(doc! { "id": 5 })))
        .collect();
    let [_, deleted, _] = five[..] else {
        panic!("{five:?}");
    };
    assert_eq!(
        deleted.get_str("_id").expect("_id"),
        format!("{}:gone.public.t:{{\"id\":5}}", end.id())
    );
    assert_eq!(deleted.get_str("version").ok(), end.header("cdc.version"));
    assert!(deleted.is_null("after"));
    assert_eq!(
        deleted.get_document("before").expect("before").get_i32("n"),
        Ok(1)
    );
    let who = deleted.get_document("who").expect("who");
    assert_eq!(who.get_str("current_user"), Ok("app_rw"));
    let shown = sink.run_command(&["history", "t", "5", "--format", "csv"]);
    let ops: Vec<&str> = shown
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').nth(2))
        .collect();
    assert_eq!(ops, ["create", "inferred_delete", "create"], "{shown}");

    // The next snapshot says nothing new of them.
    begin(&mut source, 8, 1);
    for (key, after) in history::rows(&written) {
        let after = Bson::Document(after).into_relaxed_extjson();
        let event = source.read("t", Some(&key), &after);
        source.send(&event);
    }
    self::end(&mut source, 8, None, &[]);
    source.wait_until_applied(&sink, "t");
    source.history("t").assert_is(&written);
}

#[test]
fn a_kill_between_all_steps_of_a_snapshots_end_writes_no_second_one() {
    let mut source = Source::new("gone_killed");
    let (end, gone) = whole_snapshot(&mut source);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let first = source.history("t").count();
    // All is written, and the end is not noted.
    kill_at(&source, &sink, "companion_snapshots", &end);
    let written = documents(&source);
    assert_eq!(inferred(&written), gone);
    // As if it had ended while they were written.
    let half = gone.len() / 2;
    let some: Vec<&str> = written[first as usize..][..half]
        .iter()
        .map(|document| document.get_str("_id").expect("_id"))
        .collect();
    let deleted = collection(&source, "t_history")
        .delete_many(doc! { "_id": { "$in": some } })
        .run();
    assert_eq!(deleted.expect("deleted").deleted_count, half as u64);
    // Again, up to the offsets.
    let mut lock = Lock::of(&source, "companion_offsets", "SHARE");
    sink.start();
    lock.wait_for_waiter();
    sink.kill();
    lock.drop_writers();
    assert_eq!(notes(&source), [] as [&str; 0]);
    sink.start();
    source.wait_until_applied(&sink, "t");
    source.history("t").assert_is(&written);
    // And between the offsets of two partitions.
    for partition in 0..PARTITIONS {
        assert!(sink.stop().expect("it ran").success());
        sink.rewind_history(partition);
        sink.start();
        source.wait_until_applied(&sink, "t");
        source.history("t").assert_is(&written);
    }
    create(&mut source, [60]);
    source.wait_until_applied(&sink, "t");
    assert_history_is_replica(&source);
}

#[test]
fn an_instance_that_comes_back_to_a_snapshots_end_takes_nothing_for_gone() {
    let mut source = Source::new("gone_fenced");
    let (end, gone) = whole_snapshot(&mut source);
    let first = source.start_sink();
    source.wait_until_applied(&first, "t");
    // It is at the end, and has read nothing yet.
    let mut lock = Lock::of(&source, "t_history", "ACCESS EXCLUSIVE");
    source.send_control(&end);
    lock.wait_for_waiter();
    send_signal(first.pid(), libc::SIGSTOP);
    drop(lock);
    let second = source.start_sink();
    second.wait_until_sink_applied("history", bed().kafka(), &[source.topic("t")]);
    let written = documents(&source);
    assert_eq!(inferred(&written), gone);
    assert_eq!(notes(&source), [] as [&str; 0]);
    // What the snapshot met is forgotten.
    send_signal(first.pid(), libc::SIGCONT);
    first.wait_for_log("another instance went on with the snapshot");
    source.history("t").assert_is(&written);
    assert!(second.stop().expect("it ran").success());
    create(&mut source, [60]);
    source.wait_until_applied(&first, "t");
    assert_eq!(inferred(&documents(&source)), gone);
    assert_history_is_replica(&source);
}

#[test]
fn events_that_are_read_twice_make_the_same_documents() {
    let mut source = Source::new("gone_twice");
    let (end, gone) = whole_snapshot(&mut source);
    source.send_control(&end);
    // What a truncate has emptied is not known any more.
    let truncate = source.truncate("t");
    source.send_control(&truncate);
    begin(&mut source, 8, 1);
    read(&mut source, [12, 13], 1);
    self::end(&mut source, 8, None, &[]);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let written = documents(&source);
    assert_eq!(
        inferred(&written),
        gone,
        "a truncate leaves no row to be missed"
    );
    assert_history_is_replica(&source);
    assert_eq!(there(&written), keys(&[12, 13]));
    for forgets in [false, true] {
        assert!(sink.stop().expect("it ran").success());
        (0..PARTITIONS).for_each(|partition| sink.rewind_history(partition));
        if forgets {
            let state = collection(&source, "companion_snapshots")
                .delete_many(doc! {})
                .run();
            assert_eq!(state.expect("deleted").deleted_count, 1);
        }
        sink.start();
        source.wait_until_applied(&sink, "t");
        source.history("t").assert_is(&written);
    }
}

#[test]
fn what_a_snapshot_cannot_know_stays() {
    let mut source = Source::new("not_gone");
    source.track("t", &COLUMNS, &["id"]);
    create(&mut source, 0..20);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    let nothing = |source: &Source, what: &str| {
        source.wait_until_applied(&sink, "t");
        assert_eq!(inferred(&documents(source)), keys(&[]), "{what}");
        assert_history_is_replica(source);
    };

    // With a filter, in any of its chunks.
    for partial_chunk in [1, 2] {
        for chunk in [1, 2] {
            begin(&mut source, 1, chunk);
            let to = (chunk == 1).then_some(3);
            let end = end_event(&mut source, 1, to, &[]);
            let partial = format!("\"partial\":{}", chunk == partial_chunk);
            let value = String::from_utf8(end.value.clone().expect("a value")).expect("UTF-8");
            let value = value.replace("\"partial\":false", &partial);
            source.send_control(&end.with_value(value.as_bytes()));
        }
    }
    nothing(&source, "a partial snapshot");

    for other in ["[\"another\"]", "[]"] {
        let begin = begin_event(&mut source, 2, 1).with_header("cdc.sinks", other);
        source.send_control(&begin);
        let end = end_event(&mut source, 2, None, &[]).with_header("cdc.sinks", other);
        source.send_control(&end);
    }
    nothing(&source, "for other sinks");

    // Cancelled, after it had met some rows; what follows begins anew.
    begin(&mut source, 3, 1);
    read(&mut source, 0..5, 1);
    end(&mut source, 3, Some(4), &[]);
    source.wait_until_applied(&sink, "t");
    let first = notes(&source);
    begin(&mut source, 4, 1);
    read(&mut source, [19], 1);
    source.wait_until_applied(&sink, "t");
    let second = notes(&source);
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    // Its first chunk is read again.
    begin(&mut source, 4, 1);
    end(&mut source, 3, None, &[]);
    nothing(&source, "the end of another snapshot");
    read(&mut source, 0..20, 1);
    end(&mut source, 4, None, &[]);
    nothing(&source, "a snapshot that met all rows");

    end(&mut source, 5, None, &[]);
    nothing(&source, "no beginning");
    create(&mut source, [100]);

    // What the first chunk met before it was read again may have gone meanwhile.
    begin(&mut source, 7, 1);
    read(&mut source, [19], 1);
    begin(&mut source, 7, 1);
    read(&mut source, (0..19).chain([100]), 1);
    end(&mut source, 7, None, &[]);
    source.wait_until_applied(&sink, "t");
    assert_eq!(inferred(&documents(&source)), keys(&[19]));
    assert_history_is_replica(&source);
}

#[test]
fn rows_that_are_refused_are_there() {
    let mut source = Source::new("gone_refused");
    source.track("t", &COLUMNS, &["id"]);
    create(&mut source, 0..6);
    begin(&mut source, 1, 1);
    // Met, and changed behind the snapshot, but unreadable.
    let broken = source.read("t", Some(&id_key(1)), &Value::Null);
    source.send(&broken);
    let broken = source.create("t", Some(&id_key(2)), &Value::Null);
    source.send(&broken);
    end(&mut source, 1, None, &[]);
    let sink = source.start_sink();
    source.wait_until_applied(&sink, "t");
    assert_eq!(inferred(&documents(&source)), keys(&[0, 3, 4, 5]));
    assert_history_is_replica(&source);
    // Nobody knows which row it was.
    begin(&mut source, 2, 1);
    let broken = source.read("t", Some(&id_key(1)), &row(1, 1));
    source.send(&broken.without_header("cdc.version"));
    end(&mut source, 2, None, &[]);
    source.wait_until_applied(&sink, "t");
    assert_eq!(there(&documents(&source)), keys(&[1, 2]));
}
