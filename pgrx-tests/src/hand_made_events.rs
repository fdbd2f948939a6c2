//! Events as the extension sends them, made by a test itself: what the sinks do with copies, broken records and every
//! type does not depend on a source server.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use change::event::headers::HeaderName;
use change::event::op::Op;
use change::topic_name;
use postgres::Client;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};

use crate::history::History;
use crate::servers::companion_sink::{CompanionSink, Plan};
use crate::servers::port;
use crate::{TestBed, topic, topic_admin};

/// Of each topic.
pub const PARTITIONS: i32 = 3;
/// How long Kafka and a sink may take.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Kafka, the target server and FerretDB; no source server.
pub fn bed() -> &'static TestBed {
    TestBed::shared_without_servers()
}

/// A made-up source database `name`, with its own topics, history and replica.
pub struct Source {
    /// Its name, which is the database's and the server's.
    pub name: String,
    /// The replica's `consistency`.
    pub consistency: &'static str,
    /// Further settings of the replica.
    pub more_toml: &'static str,
    producer: ThreadedProducer<DefaultProducerContext>,
    next_lsn: u64,
    topics: BTreeSet<String>,
    /// The version of the newest control event that was sent about each topic.
    newest_control: Mutex<HashMap<String, String>>,
}

/// One event, to be changed before it is sent.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it goes.
    pub topic: String,
    /// Which partition; none: where the key says.
    pub partition: Option<i32>,
    /// The record's key.
    pub key: Option<String>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

impl Event {
    /// Its id.
    ///
    /// # Panics
    /// When that was taken away.
    pub fn id(&self) -> String {
        self.header(HeaderName::ID.as_str())
            .expect("an id")
            .to_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A header that every event has, to be changed.
    ///
    /// # Panics
    /// When it has been taken away.
    pub fn header_mut(&mut self, name: HeaderName) -> &mut String {
        let mut headers = self.headers.iter_mut();
        let found = headers.find(|(header, _)| header == name.as_str());
        &mut found.expect("the header").1
    }

    /// The same without a header.
    pub fn without_header(mut self, name: &str) -> Event {
        self.headers.retain(|(header, _)| header != name);
        self
    }

    /// The same with a further header.
    pub fn with_header(mut self, name: &str, value: &str) -> Event {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with another value.
    pub fn with_value(mut self, value: &[u8]) -> Event {
        self.value = Some(value.to_vec());
        self
    }

    /// The same for a partition.
    pub fn in_partition(mut self, partition: i32) -> Event {
        self.partition = Some(partition);
        self
    }
}

impl Source {
    /// One whose replica has `consistency = "row"`.
    ///
    /// # Panics
    /// When Kafka or the target do not work.
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
        let control = topic_name::control(name);
        topic_admin::create(bed().kafka(), &control, 1);
        Source {
            name: name.to_owned(),
            consistency: "row",
            more_toml: "",
            producer,
            next_lsn: 1000,
            topics: BTreeSet::from([control]),
            newest_control: Mutex::default(),
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
        let newest_control = self
            .newest_control
            .lock()
            .expect("the newest control events");
        let ends = self.topics.iter().map(|topic| {
            let offsets = topic::offsets(bed().kafka(), topic).expect("the topic");
            let end: Vec<i64> = offsets.into_values().map(|offsets| offsets.end).collect();
            let mut ends =
                json!({"topic_id": "x", "partitions": end.len(), "end": end, "database": 5});
            if let Some(version) = newest_control.get(topic) {
                let control = topic_name::control(&self.name);
                ends["control"] = json!({"version": version, "topic": control});
            }
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
        self.flush_without_position();
    }

    /// The topic of a table.
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
        self.send_control(&event);
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
            Op::Schema,
            Some(&control_key(&self.topic(table), Op::Schema)),
            &Value::Null,
            &Value::Null,
        );
        let mut value: Value =
            serde_json::from_slice(event.value.as_ref().expect("a value")).expect("JSON");
        let change = json!({"type": kind, "ddl": null, "contents_changed": false, "renames": {},
            "tableChanges": [{"type": kind, "id": format!("\"{}\".\"public\".\"{table}\"", self.name),
                "table": {"primaryKeyColumnNames": key, "columns": columns}}]});
        for (name, more) in change.as_object().expect("an object") {
            value[name] = more.clone();
        }
        event.value = Some(value.to_string().into_bytes());
        event
    }

    /// An insert.
    pub fn create(&mut self, table: &str, key: Option<&str>, after: &Value) -> Event {
        self.event(table, Op::Create, key, &Value::Null, after)
    }

    /// An update.
    pub fn update(
        &mut self,
        table: &str,
        key: Option<&str>,
        before: &Value,
        after: &Value,
    ) -> Event {
        self.event(table, Op::Update, key, before, after)
    }

    /// A delete.
    pub fn delete(&mut self, table: &str, key: Option<&str>, before: &Value) -> Event {
        self.event(table, Op::Delete, key, before, &Value::Null)
    }

    /// A truncate.
    pub fn truncate(&mut self, table: &str) -> Event {
        self.event(
            table,
            Op::Truncate,
            Some(&control_key(&self.topic(table), Op::Truncate)),
            &Value::Null,
            &Value::Null,
        )
    }

    /// A row that a snapshot found.
    pub fn read(&mut self, table: &str, key: Option<&str>, after: &Value) -> Event {
        self.event(table, Op::Read, key, &Value::Null, after)
    }

    /// An event of the application's own: `value` alone, or a tombstone.
    pub fn own(&mut self, table: &str, key: Option<&str>, value: Option<&Value>) -> Event {
        let event = self.event(table, Op::Emit, key, &Value::Null, &Value::Null);
        let value = value.map(|value| value.to_string().into_bytes());
        Event { value, ..event }
    }

    /// The beginning or end of a chunk; `snapshot` is what it says.
    pub fn snapshot(&mut self, table: &str, snapshot: &Value) -> Event {
        let key = control_key(&self.topic(table), Op::Snapshot);
        let mut event = self.event(table, Op::Snapshot, Some(&key), &Value::Null, &Value::Null);
        let value = event.value.as_ref().expect("a value");
        let mut value: Value = serde_json::from_slice(value).expect("JSON");
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
        let version = first
            .header(HeaderName::VERSION.as_str())
            .expect("a version");
        let second = format!("{}0000000002-00", &version[..31]);
        *event.header_mut(HeaderName::VERSION) = second;
        event
    }

    /// The tombstone of a delete.
    pub fn tombstone(delete: &Event) -> Event {
        let mut event = delete.clone();
        event.value = None;
        *event.header_mut(HeaderName::OP) = Op::Tombstone.header().to_owned();
        event
            .header_mut(HeaderName::VERSION)
            .replace_range(42.., "01");
        event.header_mut(HeaderName::ID).push_str(".1");
        event
    }

    fn event(
        &mut self,
        table: &str,
        op: Op,
        key: Option<&str>,
        before: &Value,
        after: &Value,
    ) -> Event {
        let lsn = self.next_lsn;
        self.next_lsn += 1;
        let id = format!("{lsn:032x}-1");
        let value = json!({
            "id": id, "op": op.envelope(), "ts_ms": 1_795_257_600_125_u64, "ts_us": 1_795_257_600_125_311_u64,
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
            (HeaderName::ID, id),
            (
                HeaderName::VERSION,
                format!("0001-00000001-{lsn:016x}-0000000001-00"),
            ),
            (HeaderName::OP, op.header().to_owned()),
            (HeaderName::TABLE, self.topic(table)),
            (HeaderName::TRANSACTION, "1/1".to_owned()),
        ];
        let event = Event {
            topic: self.topic(table),
            partition: None,
            key: key.map(str::to_owned),
            value: Some(value.to_string().into_bytes()),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), value))
                .to_vec(),
        };
        match op.is_about_table() {
            true => Event {
                topic: topic_name::control(&self.name),
                partition: Some(0),
                ..event.with_header(HeaderName::TOPIC.as_str(), &self.topic(table))
            },
            false => event,
        }
    }

    /// Sends an event; records without a key go to partition 0.
    pub fn send(&self, event: &Event) {
        let mut newest = self
            .newest_control
            .lock()
            .expect("the newest control events");
        let mut event = event.clone();
        let version = event.header(HeaderName::VERSION.as_str());
        match event.header(HeaderName::TOPIC.as_str()) {
            Some(topic) => {
                if let Some(version) = version {
                    newest.insert(topic.to_owned(), version.to_owned());
                }
            }
            None => {
                if let Some(control) = newest.get(&event.topic) {
                    event = event.with_header(HeaderName::CONTROL.as_str(), control);
                }
            }
        }
        drop(newest);
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

    /// Sends a control event, and waits until Kafka has it.
    pub fn send_control(&self, event: &Event) {
        self.send(event);
        self.flush();
    }

    /// Waits until Kafka has everything, and writes a position that says so.
    pub fn flush(&self) {
        self.flush_without_position();
        self.write_position();
    }

    /// Waits until Kafka has everything.
    pub fn flush_without_position(&self) {
        self.producer
            .flush(TIMEOUT)
            .expect("Kafka takes the events");
    }

    /// What a companion-sink of it does.
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

    /// Starts a companion-sink as [`Source::plan`] has it.
    pub fn start_sink(&self) -> CompanionSink {
        let sink = bed().companion_sink(self.plan());
        sink.start();
        sink
    }

    /// A new connection to its replica.
    pub fn replica(&self) -> Client {
        bed().target().connect(&format!("{}_replica", self.name))
    }

    /// The history of a table.
    pub fn history(&self, table: &str) -> History {
        History::of(&bed().ferretdb().client(), &self.history_name(), table)
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

/// The key of a control event about a topic.
fn control_key(topic: &str, op: Op) -> String {
    json!({"topic": topic, "event": op.control()}).to_string()
}

/// The JSON key `{"id":…}`.
pub fn id_key(id: u64) -> String {
    format!(r#"{{"id":{id}}}"#)
}
