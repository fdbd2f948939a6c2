//! Events as the extension sends them (form of the interface's section 3), made by the test itself: what the sinks do
//! with copies, broken records and every type does not depend on a source server.

#![allow(dead_code)] // Each test program uses a part.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::{TestBed, port, topic, topic_admin, wait_until};
use postgres::Client;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};

pub const PARTITIONS: i32 = 3;
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Kafka, the target server and FerretDB; no source server.
pub fn bed() -> &'static TestBed {
    static BED: OnceLock<TestBed> = OnceLock::new();
    extern "C" fn remove() {
        if let Some(bed) = BED.get() {
            bed.discard();
        }
    }
    BED.get_or_init(|| {
        // SAFETY: the handler does not unwind, and what it uses is a static.
        unsafe { libc::atexit(remove) };
        TestBed::prepare(pg_cdc_tests::bed::Ports::free(), &[], &[])
    })
}

/// A made-up source database `name`, with its own topics, history and replica.
pub struct Source {
    pub name: String,
    /// The replica's `consistency`.
    pub consistency: &'static str,
    /// Further settings of the replica.
    pub more_toml: &'static str,
    producer: ThreadedProducer<DefaultProducerContext>,
    next_lsn: u64,
    topics: BTreeSet<String>,
}

/// One event, to be changed before it is sent.
#[derive(Clone, Debug)]
pub struct Event {
    pub topic: String,
    pub partition: Option<i32>,
    pub key: Option<String>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, String)>,
}

impl Event {
    pub fn id(&self) -> String {
        self.header("cdc.id").expect("cdc.id").to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn without_header(mut self, name: &str) -> Event {
        self.headers.retain(|(header, _)| header != name);
        self
    }

    pub fn with_header(mut self, name: &str, value: &str) -> Event {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn with_value(mut self, value: &[u8]) -> Event {
        self.value = Some(value.to_vec());
        self
    }

    pub fn in_partition(mut self, partition: i32) -> Event {
        self.partition = Some(partition);
        self
    }
}

impl Source {
    pub fn new(name: &str) -> Source {
        let producer = bed()
            .kafka()
            .client_config()
            .set("partitioner", "murmur2")
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.messages", "1000000")
            .set("message.max.bytes", "100000000")
            .create()
            .expect("a producer");
        bed().target().create_database(&format!("{name}_replica"));
        topic_admin::create(bed().kafka(), &format!("{name}.cdc_positions"), 1);
        Source {
            name: name.to_owned(),
            consistency: "row",
            more_toml: "",
            producer,
            next_lsn: 1000,
            topics: BTreeSet::new(),
        }
    }

    /// One whose replica is consistent by transactions: it goes on where [`Source::flush`] was called.
    pub fn consistent(name: &str) -> Source {
        Source {
            consistency: "transaction",
            ..Source::new(name)
        }
    }

    /// One of each consistency of the replica.
    pub fn of_each_consistency(name: &str) -> [Source; 2] {
        [
            Source::new(&format!("{name}_rows")),
            Source::consistent(&format!("{name}_transactions")),
        ]
    }

    /// Says that everything that was made until now is in Kafka.
    fn write_position(&self) {
        let ends = self.topics.iter().map(|topic| {
            let offsets = topic::offsets(bed().kafka(), topic).expect("the topic");
            let end: Vec<i64> = offsets.into_values().map(|offsets| offsets.end).collect();
            let ends = json!({"topic_id": "x", "partitions": end.len(), "end": end});
            (topic.clone(), ends)
        });
        let ends: serde_json::Map<String, Value> = ends.collect();
        let lsn = format!("0/{:X}", self.next_lsn - 1);
        let position = json!({
            "format": 1, "record": "full", "source": "s", "name": self.name, "generation": 1, "epoch": 1, "timeline": 1,
            "timeline_start": "0/0", "commit_lsn": lsn, "restart_lsn": lsn, "nonce": "", "events": {"done": 1, "of": 1},
            "effective_ts_us": 1_795_257_600_123_456_u64, "sent_ts_us": 1_795_257_600_123_456_u64, "heartbeat_ms": 10_000,
            "node": "db1", "cluster_id": "k", "ends": ends, "mac": "",
        });
        let topic = format!("{}.cdc_positions", self.name);
        let key = json!({"record": "full", "source": "s"}).to_string();
        let payload = position.to_string();
        let record = BaseRecord::to(&topic).key(&key).payload(&payload);
        self.producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("send a position");
        self.flush_producer();
    }

    pub fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.name)
    }

    /// Makes the table's topic.
    pub fn create_topic(&mut self, table: &str) {
        topic_admin::create(bed().kafka(), &self.topic(table), PARTITIONS);
        self.topics.insert(self.topic(table));
    }

    /// Makes the topic and tells the table's columns (name, type), of which `key` are the primary key.
    pub fn track(&mut self, table: &str, columns: &[(&str, &str)], key: &[&str]) {
        self.create_topic(table);
        let event = self.schema(table, "CREATE", columns, key);
        self.send_everywhere(&event);
    }

    /// A schema event.
    pub fn schema(
        &mut self,
        table: &str,
        kind: &str,
        columns: &[(&str, &str)],
        key: &[&str],
    ) -> Event {
        let columns: Vec<Value> = columns
            .iter()
            .enumerate()
            .map(|(place, (name, type_name))| {
                json!({"name": name, "position": place + 1, "typeName": type_name, "typeExpression": type_name,
                    "optional": !key.contains(name), "generated": false, "defaultValueExpression": null})
            })
            .collect();
        let mut event = self.event(
            table,
            "schema",
            Some(r#"{"__cdc":"schema"}"#),
            &Value::Null,
            &Value::Null,
        );
        let mut value: Value =
            serde_json::from_slice(event.value.as_ref().expect("a value")).expect("JSON");
        value["op"] = json!("m");
        value["schema_change"] = json!({"type": kind, "ddl": null, "contents_changed": false, "renames": {},
            "tableChanges": [{"type": kind, "id": format!("\"{}\".\"public\".\"{table}\"", self.name),
                "table": {"primaryKeyColumnNames": key, "columns": columns}}]});
        event.value = Some(value.to_string().into_bytes());
        event
    }

    pub fn create(&mut self, table: &str, key: Option<&str>, after: &Value) -> Event {
        self.event(table, "c", key, &Value::Null, after)
    }

    pub fn update(
        &mut self,
        table: &str,
        key: Option<&str>,
        before: &Value,
        after: &Value,
    ) -> Event {
        self.event(table, "u", key, before, after)
    }

    pub fn delete(&mut self, table: &str, key: Option<&str>, before: &Value) -> Event {
        self.event(table, "d", key, before, &Value::Null)
    }

    pub fn truncate(&mut self, table: &str) -> Event {
        self.event(
            table,
            "t",
            Some(r#"{"__cdc":"truncate"}"#),
            &Value::Null,
            &Value::Null,
        )
    }

    /// A row that a snapshot found.
    pub fn read(&mut self, table: &str, key: Option<&str>, after: &Value) -> Event {
        self.event(table, "r", key, &Value::Null, after)
    }

    /// The beginning or end of a chunk; `snapshot` is what it says.
    pub fn snapshot(&mut self, table: &str, snapshot: &Value) -> Event {
        let key = Some(r#"{"__cdc":"snapshot"}"#);
        let mut event = self.event(table, "snapshot", key, &Value::Null, &Value::Null);
        let value = event.value.as_ref().expect("a value");
        let mut value: Value = serde_json::from_slice(value).expect("JSON");
        value["op"] = json!("m");
        value["snapshot"] = snapshot.clone();
        event.value = Some(value.to_string().into_bytes());
        event
    }

    /// The event that `make` makes, as the next one in the transaction of `first`.
    pub fn in_transaction_of(
        &mut self,
        first: &Event,
        make: impl FnOnce(&mut Source) -> Event,
    ) -> Event {
        let mut event = make(self);
        let place = &first.header("cdc.version").expect("cdc.version")[..31];
        for (name, value) in &mut event.headers {
            if name == "cdc.version" {
                *value = format!("{place}0000000002-00");
            }
        }
        event
    }

    /// The tombstone of a delete.
    pub fn tombstone(delete: &Event) -> Event {
        let mut event = delete.clone();
        event.value = None;
        for (name, value) in &mut event.headers {
            match name.as_str() {
                "cdc.op" => *value = "tombstone".to_owned(),
                "cdc.version" => value.replace_range(42.., "01"),
                "cdc.id" => value.push_str(".1"),
                _ => {}
            }
        }
        event
    }

    fn event(
        &mut self,
        table: &str,
        op: &str,
        key: Option<&str>,
        before: &Value,
        after: &Value,
    ) -> Event {
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        let id = format!("{lsn:032x}-1");
        let value = json!({
            "id": id, "op": op, "ts_ms": 1_795_257_600_125_u64, "ts_us": 1_795_257_600_125_311_u64,
            "source": {"version": "1.0.0", "connector": "postgresql", "name": self.name, "snapshot": "false",
                "db": self.name, "ts_us": 1_795_257_600_123_456_u64, "schema": "public", "table": table,
                "txId": 812, "lsn": lsn, "xmin": null},
            "transaction": {"id": format!("812:{lsn}"), "total_order": 1, "data_collection_order": 1, "event_count": 1},
            "audit": {"actor": "ann", "reason": "moved", "request_id": "r-17", "session_user": "web",
                "current_user": "app_rw", "application_name": "crm", "client_addr": "10.0.0.7", "pid": 4711,
                "transaction_ts_us": 1_795_257_600_120_001_u64, "statement_ts_us": 1_795_257_600_121_870_u64,
                "context": {"app.tenant": "t1"}},
            "before": before, "after": after,
        });
        let headers = [
            ("cdc.id", id),
            (
                "cdc.version",
                format!("0001-00000001-{lsn:016x}-0000000001-00"),
            ),
            ("cdc.op", op.to_owned()),
            ("cdc.table", self.topic(table)),
            ("cdc.schema", "9e12ab04".to_owned()),
            ("cdc.tx", "1/1".to_owned()),
        ];
        Event {
            topic: self.topic(table),
            partition: None,
            key: key.map(str::to_owned),
            value: Some(value.to_string().into_bytes()),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec(),
        }
    }

    /// Sends an event; records without a key go to partition 0.
    pub fn send(&self, event: &Event) {
        let mut headers = OwnedHeaders::new();
        for (name, value) in &event.headers {
            headers = headers.insert(Header {
                key: name,
                value: Some(value),
            });
        }
        let mut record = BaseRecord::<str, [u8]>::to(&event.topic).headers(headers);
        record.key = event.key.as_deref();
        record.payload = event.value.as_deref();
        record.partition = event.partition.or_else(|| event.key.is_none().then_some(0));
        self.producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("send an event");
    }

    /// Sends a copy to every partition, as truncates and schema events go.
    pub fn send_everywhere(&self, event: &Event) {
        for partition in 0..PARTITIONS {
            self.send(&event.clone().in_partition(partition));
        }
        self.flush();
    }

    /// Waits until Kafka has everything, and writes the position that a consistent replica waits for.
    pub fn flush(&self) {
        self.flush_producer();
        if self.consistency == "transaction" {
            self.write_position();
        }
    }

    fn flush_producer(&self) {
        self.producer
            .flush(TIMEOUT)
            .expect("Kafka takes the events");
    }

    pub fn plan(&self) -> Plan {
        Plan {
            name: format!("companion_{}", self.name),
            brokers: bed().kafka().brokers(),
            source: self.name.clone(),
            topics: vec![format!("{}.public.*", self.name)],
            mongo_url: bed().ferretdb().url(),
            mongo_database: self.history_name(),
            replica_url: bed().target().url(&format!("{}_replica", self.name)),
            http_port: port::free(),
            kafka_config_file: None,
            http_token_file: None,
            consistency: self.consistency,
            more_toml: self.more_toml.to_owned(),
        }
    }

    pub fn start_sink(&self) -> CompanionSink {
        let sink = bed().companion_sink(self.plan());
        sink.start();
        sink
    }

    pub fn replica(&self) -> Client {
        bed().target().connect(&format!("{}_replica", self.name))
    }

    pub fn history(&self, table: &str) -> pg_cdc_tests::history::History {
        pg_cdc_tests::history::History::of(&bed().ferretdb().client(), &self.history_name(), table)
    }

    /// The name of the history's database.
    pub fn history_name(&self) -> String {
        format!("{}_history", self.name)
    }

    /// Waits until both sinks have applied everything of `table`.
    pub fn wait_until_applied(&self, sink: &CompanionSink, table: &str) {
        self.flush();
        sink.wait_until_applied(bed().kafka(), &[self.topic(table)]);
    }

    /// Waits until the replica has everything of `table`, whichever instance applied it.
    pub fn wait_until_replica_applied(&self, sink: &CompanionSink, table: &str) {
        self.flush();
        sink.wait_until_sink_applied("replica", bed().kafka(), &[self.topic(table)]);
    }
}

/// The JSON key `{"id":…}`.
pub fn id_key(id: u64) -> String {
    format!(r#"{{"id":{id}}}"#)
}

/// Waits until companion-sink's log has a text.
pub fn wait_for_log(sink: &CompanionSink, text: &str) {
    wait_until("the log", TIMEOUT, || {
        let log = std::fs::read_to_string(sink.log_file()).expect("the log");
        if log.contains(text) { Ok(()) } else { Err(log) }
    });
}

/// The first row of `query`, as text.
pub fn one_text(client: &mut Client, query: &str) -> String {
    let row = client
        .query_one(&format!("SELECT ({query})::text"), &[])
        .expect(query);
    row.get::<_, Option<String>>(0)
        .unwrap_or_else(|| "NULL".to_owned())
}

/// Waits until the first row of `query` is `expected`, as text.
pub fn wait_for_text(client: &mut Client, query: &str, expected: &str) {
    wait_until(query, TIMEOUT, || match one_text(client, query) {
        text if text == expected => Ok(()),
        text => Err(text),
    });
}
