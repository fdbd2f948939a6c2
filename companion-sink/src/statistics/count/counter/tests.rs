//! What is counted, against a fold of the rows.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::*;
use crate::config::{Kind, Loaded};
use crate::statistics::decimal::Decimal;
use crate::statistics::kept::store::{Mark, Store};
use crate::statistics::question::Question;

const DEFINITION: &str = r#"{"tableChanges":[{"table":{"primaryKeyColumnNames":["id"],"columns":[
    {"name":"id","typeName":"bigint"},{"name":"at","typeName":"timestamp with time zone"},
    {"name":"account","typeName":"text"},{"name":"amount","typeName":"numeric(10,2)"}]}}]}"#;

/// A counter with its store, as the sink has them.
struct Bench {
    counter: Counter,
    store: Store,
    lsn: u64,
}

impl Bench {
    fn new(toml: &str) -> Bench {
        let text = format!(
            "kafka.brokers = \"b\"\n[sink.f]\nkind = \"statistics\"\ntopics = [\"*\"]\n{toml}"
        );
        let config = Loaded::parse("f.toml", &text, std::iter::empty()).unwrap();
        let Kind::Statistics(settings) = &config.sinks["f"].kind else {
            panic!("figures");
        };
        let mut bench = Bench {
            counter: Counter::new(Design::new(settings).unwrap()),
            store: Store::in_memory(),
            lsn: 1000,
        };
        for topic in ["t", "u"] {
            let definition = bench.event(topic, "schema", None, DEFINITION);
            bench.count(&[definition]).unwrap();
        }
        bench
    }

    fn event(&mut self, topic: &str, op: &str, key: Option<&str>, value: &str) -> Record {
        self.lsn += 1;
        let version = format!("0001-00000001-{:016x}-0000000001-00", self.lsn);
        let headers = [
            ("cdc.id", "n-1"),
            ("cdc.version", version.as_str()),
            ("cdc.op", op),
            ("cdc.table", "d.public.t"),
        ];
        let headers = headers.map(|(name, value)| (name, Some(value.as_bytes())));
        let (key, value) = (key.map(str::as_bytes), Some(value.as_bytes()));
        Record::new(topic.into(), 0, 0, key, value, headers.into_iter())
    }

    fn row(&mut self, topic: &str, op: &str, id: u64, before: &Json, after: &Json) -> Record {
        let key = format!("{{\"id\":{id}}}");
        let body = json!({"source": {"ts_us": 1_795_257_600_123_456_i64, "schema": "public", "table": "t"},
            "before": before, "after": after});
        self.event(topic, op, Some(&key), &body.to_string())
    }

    /// Counts events as one batch; the reasons of those that are refused.
    fn count(&mut self, records: &[Record]) -> Result<Vec<String>> {
        let mut changes = Changes::new(self.store.snapshot()?);
        let mut refused = Vec::new();
        for record in records {
            match self.counter.count(&mut changes, record, None) {
                Ok(()) => {}
                Err(NotApplied::Refused(failure)) => refused.push(failure.message),
                Err(NotApplied::Failed(error)) => return Err(error),
            }
        }
        self.write(changes)?;
        Ok(refused)
    }

    fn write(&mut self, changes: Changes) -> Result<()> {
        let mark = Mark {
            next_offset: 0,
            read_at_ms: 0,
        };
        self.store.write(&changes.finish(), mark)?;
        // As after a restart.
        self.counter.topics = Topics::read(&self.store.snapshot()?)?;
        Ok(())
    }

    fn snapshot(&mut self, value: &Json) {
        let body = json!({"source": {"schema": "public", "table": "t"}, "snapshot": value});
        let record = self.event("t", "snapshot", None, &body.to_string());
        let mut changes = Changes::new(self.store.snapshot().unwrap());
        self.counter.note_snapshot(&mut changes, &record).unwrap();
        self.write(changes).unwrap();
    }

    fn ask(&self, parameters: &[(&str, &str)]) -> Vec<Map<String, Json>> {
        let design = &self.counter.design;
        let question = Question::parse(design, parameters.iter().copied()).unwrap();
        let page = question
            .ask(design, &self.store.snapshot().unwrap())
            .unwrap();
        page.rows
    }
}

const MEASURES: &str = "time = \"after.at\"\ntime_zone = \"Europe/Zurich\"\ngroup_by = [\"after.account\"]\n\
    measures = [\"count()\", \"count(after.amount) as given\", \"sum(after.amount) as total\", \"min(after.amount) as low\", \
    \"max(after.amount) as high\", \"avg(after.amount) as mean\", \"distinct(after.amount) as different\"]\n";

/// A row, in small numbers so that they meet: hours since the end of a summer time, account, hundredths.
type Small = (i64, u8, Option<i64>);

fn json_of((hour, account, cents): Small, id: u64) -> Json {
    let us = (1_792_792_800 + hour * 3600) * 1_000_000;
    let amount = cents.map(|cents| format!("{}.{:02}", cents / 100, cents % 100));
    json!({"id": id, "at": crate::timestamp::rfc3339(us), "account": format!("a{account}"), "amount": amount})
}

/// The same figures, made of all rows.
fn fold(rows: &BTreeMap<(bool, u64), Small>) -> BTreeMap<(String, String), Vec<Json>> {
    let mut cells: BTreeMap<(String, String), Vec<Option<i64>>> = BTreeMap::new();
    for (hour, account, cents) in rows.values() {
        // 2026-10-25 has 25 hours in Zurich, from 22:00 UTC of the day before on; the first hour is 22:00 of the 23rd.
        let day = match *hour {
            hour if hour < 24 => 24,
            hour if hour < 24 + 25 => 25,
            _ => 26,
        };
        let key = (format!("2026-10-{day}"), format!("a{account}"));
        cells.entry(key).or_default().push(*cents);
    }
    let figures = |values: Vec<Option<i64>>| {
        let given: Vec<i64> = values.iter().flatten().copied().collect();
        let decimal = |cents: i64| Decimal::parse(&format!("{cents}e-2")).unwrap();
        let text = |cents: Option<i64>| cents.map(|cents| decimal(cents).to_string());
        let (count, total) = (given.len() as u64, given.iter().sum());
        let mean = (count > 0).then(|| decimal(total).divided_by(count).to_string());
        let different: BTreeSet<i64> = given.iter().copied().collect();
        vec![
            json!(values.len()),
            json!(count),
            json!(text((count > 0).then_some(total))),
            json!(text(given.iter().min().copied())),
            json!(text(given.iter().max().copied())),
            json!(mean),
            json!(different.len()),
        ]
    };
    cells
        .into_iter()
        .map(|(key, values)| (key, figures(values)))
        .collect()
}

fn answer(bench: &Bench) -> BTreeMap<(String, String), Vec<Json>> {
    let rows = bench.ask(&[]).into_iter().map(|row| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let names = [
            "count",
            "given",
            "total",
            "low",
            "high",
            "mean",
            "different",
        ];
        let figures = names.map(|name| row[name].clone());
        ((text("period"), text("account")), figures.to_vec())
    });
    rows.collect()
}

#[derive(Debug, Clone)]
enum Step {
    Put(bool, u64, Small),
    Delete(bool, u64),
    Truncate(bool),
    /// A snapshot of the topic `t` that finds all rows but this one, which is gone.
    Snapshot(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let small = || (0i64..60, 0u8..3, proptest::option::of(0i64..500));
    let step = prop_oneof![
        20 => (any::<bool>(), 0u64..12, small()).prop_map(|(topic, id, row)| Step::Put(topic, id, row)),
        6 => (any::<bool>(), 0u64..12).prop_map(|(topic, id)| Step::Delete(topic, id)),
        1 => any::<bool>().prop_map(Step::Truncate),
        1 => (0u64..12).prop_map(Step::Snapshot),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn figures_are_those_of_the_rows_as_they_are(steps in steps(), batch in 1usize..7) {
        let mut bench = Bench::new(MEASURES);
        let mut rows: BTreeMap<(bool, u64), Small> = BTreeMap::new();
        let mut open = Vec::new();
        let name = |topic: bool| if topic { "t" } else { "u" };
        for step in steps {
            match step {
                Step::Put(topic, id, row) => {
                    let known = rows.insert((topic, id), row);
                    let op = if known.is_some() { "u" } else { "c" };
                    let before = known.map_or(Json::Null, |known| json_of(known, id));
                    let event = bench.row(name(topic), op, id, &before, &json_of(row, id));
                    open.push(event.clone());
                    // A later copy.
                    open.push(event);
                }
                Step::Delete(topic, id) => {
                    if let Some(known) = rows.remove(&(topic, id)) {
                        let event = bench.row(name(topic), "d", id, &json_of(known, id), &Json::Null);
                        open.push(event);
                    }
                }
                Step::Truncate(topic) => {
                    bench.count(&std::mem::take(&mut open)).unwrap();
                    rows.retain(|(of, _), _| *of != topic);
                    let event = bench.event(name(topic), "t", None, "{}");
                    let mut changes = Changes::new(bench.store.snapshot().unwrap());
                    bench.counter.empty(&mut changes, &event).unwrap();
                    bench.write(changes).unwrap();
                }
                Step::Snapshot(gone) => {
                    bench.count(&std::mem::take(&mut open)).unwrap();
                    rows.remove(&(true, gone));
                    bench.snapshot(&json!({"id": 1, "chunk": 1, "event": "chunk_begin"}));
                    // One of them was changed before, and is named instead of read.
                    let mut found: Vec<_> = rows.iter().filter(|((topic, _), _)| *topic).map(|((_, id), row)| (*id, *row)).collect();
                    let left_out: Vec<Json> = found.pop().into_iter().map(|(id, _)| json!({"id": id})).collect();
                    for (id, row) in found {
                        let event = bench.row("t", "r", id, &Json::Null, &json_of(row, id));
                        bench.count(&[event]).unwrap();
                    }
                    bench.snapshot(&json!({"id": 1, "chunk": 1, "event": "chunk_end", "from": null, "to": null, "partial": false, "changed": left_out}));
                }
            }
            if open.len() >= batch {
                prop_assert_eq!(bench.count(&std::mem::take(&mut open)).unwrap(), Vec::<String>::new());
            }
        }
        bench.count(&open).unwrap();
        prop_assert_eq!(answer(&bench), fold(&rows));
    }
}

#[test]
fn what_cannot_be_read_is_refused_and_its_row_counts_no_more() {
    let mut bench = Bench::new(MEASURES);
    let good = json_of((1, 1, Some(500)), 1);
    let mut bad = good.clone();
    bad["amount"] = "much".into();
    let first = bench.row("t", "c", 1, &Json::Null, &good);
    let other = bench.row("t", "c", 2, &Json::Null, &good);
    let second = bench.row("t", "u", 1, &good, &bad);
    let refused = bench.count(&[first, other, second]).unwrap();
    assert_eq!(refused, ["after.amount is no number that can be added"]);
    assert_eq!(bench.ask(&[])[0]["count"], 1);
    let third = bench.row("t", "u", 1, &bad, &good);
    assert!(bench.count(&[third]).unwrap().is_empty());
    assert_eq!(bench.ask(&[])[0]["count"], 2);
    let mut late = good.clone();
    late["at"] = "infinity".into();
    let fourth = bench.row("t", "u", 1, &good, &late);
    let refused = bench.count(&[fourth]).unwrap();
    assert_eq!(refused, ["after.at is no time of the calendar"]);
    late["at"] = Json::Null;
    let fifth = bench.row("t", "u", 1, &good, &late);
    bench.count(&[fifth]).unwrap();
    assert_eq!(bench.ask(&[])[0]["period"], Json::Null);
    assert_eq!(bench.ask(&[("to", "2027-01-01")]).len(), 1);
}

#[test]
fn conditions_and_groups_choose() {
    let mut bench = Bench::new(
        "where = \"after.amount > 1 && op != 'd'\"\ngroup_by = [\"after.account\"]\nperiod = \"month\"\n",
    );
    for (id, cents) in [(1, 50), (2, 150), (3, 250)] {
        let row = json_of((1, (id % 2) as u8, Some(cents)), id);
        let event = bench.row("t", "c", id, &Json::Null, &row);
        bench.count(&[event]).unwrap();
    }
    let rows = bench.ask(&[("group", "account=a1")]);
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["count"], &rows[0]["period"]),
        (&json!(1), &json!("2026-11"))
    );
    // The row falls out of the condition.
    let (before, after) = (json_of((1, 1, Some(250)), 3), json_of((1, 1, Some(20)), 3));
    let event = bench.row("t", "u", 3, &before, &after);
    bench.count(&[event]).unwrap();
    assert!(bench.ask(&[("group", "account=a1")]).is_empty());
    assert_eq!(bench.ask(&[("from", "2026-12")]).len(), 0);
    assert_eq!(
        bench.ask(&[("from", "2026-11"), ("to", "2026-12")]).len(),
        1
    );
    let wrong = Question::parse(&bench.counter.design, [("group", "acount=x")].into_iter());
    assert!(
        wrong
            .unwrap_err()
            .message
            .contains("did you mean \"account\"?")
    );
}

#[test]
fn answers_come_in_pages() {
    let mut bench = Bench::new("time = \"after.at\"\nperiod = \"hour\"\n");
    for id in 0..10 {
        for topic in ["t", "u"] {
            let event = bench.row(
                topic,
                "c",
                id,
                &Json::Null,
                &json_of((id as i64, 1, None), id),
            );
            bench.count(&[event]).unwrap();
        }
    }
    let (design, store) = (&bench.counter.design, bench.store.snapshot().unwrap());
    let mut after: Option<String> = None;
    let mut periods = Vec::new();
    loop {
        let next = after.iter().map(|after| ("after", after.as_str()));
        let question = Question::parse(design, [("limit", "3")].into_iter().chain(next)).unwrap();
        let page = question.ask(design, &store).unwrap();
        assert!(page.rows.iter().all(|row| row["count"] == 2));
        periods.extend(page.rows.iter().map(|row| row["period"].to_string()));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(periods.len(), 10);
    assert!(periods.is_sorted());
}

#[test]
fn own_events_and_rows_without_a_key_count_once() {
    let mut bench = Bench::new(
        "time = \"value.at\"\ngroup_by = [\"value.user.id\"]\nmeasures = [\"count()\", \"sum(value.n)\"]\n",
    );
    let payload = json!({"at": "2026-11-21T10:00:00Z", "user": {"id": 7}, "n": 3}).to_string();
    let events = [1, 2].map(|_| bench.event("t", "emit", Some("42"), &payload));
    bench.count(&events).unwrap();
    let rows = bench.ask(&[]);
    assert_eq!(
        (&rows[0]["count"], &rows[0]["sum_n"], &rows[0]["id"]),
        (&json!(2), &json!("6"), &json!("7"))
    );

    let mut bench = Bench::new(MEASURES);
    let row = json_of((1, 1, Some(500)), 1);
    let body = |before: &Json, after: &Json| json!({"before": before, "after": after}).to_string();
    let insert = bench.event("t", "c", None, &body(&Json::Null, &row));
    let twin = bench.event("t", "c", None, &body(&Json::Null, &row));
    let delete = bench.event("t", "d", None, &body(&row, &Json::Null));
    bench.count(&[insert, twin, delete.clone()]).unwrap();
    assert_eq!(bench.ask(&[])[0]["count"], 1);
    bench.count(&[delete.clone(), delete]).unwrap();
    assert_eq!((bench.ask(&[]).len(), bench.counter.unknown_rows), (0, 1));
}

#[test]
fn a_snapshot_changes_nothing_of_rows_that_are_known() {
    let mut bench = Bench::new("period = \"hour\"\n");
    let row = json_of((1, 1, Some(500)), 1);
    let event = bench.row("t", "c", 1, &Json::Null, &row);
    bench.count(&[event]).unwrap();
    let before = bench.ask(&[]);
    let body =
        json!({"source": {"ts_us": 1_795_357_600_123_456_i64}, "before": null, "after": row});
    let read = bench.event("t", "r", Some("{\"id\":1}"), &body.to_string());
    bench.count(&[read]).unwrap();
    assert_eq!(bench.ask(&[]), before);
}
