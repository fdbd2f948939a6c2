//! account-service in several instances, companion-sink, and what was published.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::{TestBed, wait_until};
use serde_json::{Value, json};

use crate::bed as run;
use crate::service::{Answer, Service};

pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// Of the first instance; the others follow.
pub(super) const PORT: u16 = 18491;
pub(super) const INSTANCES: usize = 3;

/// Count and sum of the events by day and type.
pub(super) type Figures = BTreeMap<(String, String), (u64, i64)>;

pub(super) struct EventStore {
    pub(super) bed: &'static TestBed,
    pub(super) folder: PathBuf,
    pub(super) sink: CompanionSink,
    pub(super) instances: Vec<Instance>,
    /// How often instances that are started write only to have the topics compacted.
    pub(super) roll_seconds: &'static str,
    /// What was published, for comparison.
    pub(super) published: RefCell<Figures>,
}

/// An instance of the service, which may be down.
pub(super) struct Instance {
    pub(super) port: u16,
    pub(super) folder: PathBuf,
    pub(super) running: Option<Service>,
}

impl EventStore {
    pub(super) fn start(bed: &'static TestBed) -> EventStore {
        let folder = bed.path("event-store");
        let sink_port = run::port("PG_CDC_HTTP_PORT", 18480);
        let figures = folder.join("figures").display().to_string();
        let variables = [
            ("COMPANION_SINK__KAFKA__BROKERS", &*bed.kafka().brokers()),
            ("COMPANION_SINK__SINK__DAILY__STORE", &*figures),
        ];
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../event-store/companion-sink");
        let sink = CompanionSink::copy_of(&folder, &from, &variables, sink_port);
        let mut example = EventStore {
            bed,
            folder,
            sink,
            instances: Vec::new(),
            roll_seconds: "86400",
            published: RefCell::default(),
        };
        for _ in 0..INSTANCES {
            example.add_instance();
        }
        example.sink.start();
        example.wait_until_served();
        example
    }

    /// One more; its number.
    pub(super) fn add_instance(&mut self) -> usize {
        let number = self.instances.len();
        let preferred = PORT + u16::try_from(number).expect("a few");
        self.instances.push(Instance {
            port: run::port(&format!("PG_CDC_ACCOUNTS_PORT_{number}"), preferred),
            folder: self.folder.join(format!("instance-{number}")),
            running: None,
        });
        self.start_instance(number);
        number
    }

    pub(super) fn start_instance(&mut self, number: usize) {
        let brokers = self.bed.kafka().brokers();
        let sink = self.sink.http_url().replace("http://", "");
        let token = self.sink.config_file().with_extension("token");
        let instance = &mut self.instances[number];
        let store = instance.folder.join("store");
        let variables = [
            ("KAFKA_BROKERS", &*brokers),
            ("STORE", &*store.to_string_lossy()),
            ("STATISTICS", &*sink),
            ("ROLL_SECONDS", self.roll_seconds),
            ("STATISTICS_TOKEN_FILE", &*token.to_string_lossy()),
        ];
        let service = Service::start(
            "account-service",
            instance.port,
            &variables,
            &instance.folder,
        );
        instance.running = Some(service);
    }

    pub(super) fn instance(&self, number: usize) -> &Service {
        let instance = &self.instances[number];
        instance.running.as_ref().expect("an instance that runs")
    }

    /// Those that run.
    pub(super) fn running(&self) -> Vec<&Service> {
        let instances = self.instances.iter();
        instances
            .filter_map(|instance| instance.running.as_ref())
            .collect()
    }

    /// What instances say about themselves, together.
    pub(super) fn status(&self) -> Status {
        let mut status = Status::default();
        for service in self.running() {
            let told = service.ask("GET", "/status", &[]).body;
            let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or_default();
            for partition in told["partitions"].as_array().into_iter().flatten() {
                status.partitions += u64::from(partition["serves"] == true);
                status.offsets_to_read += number(partition, "offsets_to_read");
                status.accounts += number(partition, "accounts");
                status.events += number(partition, "events");
            }
            status.bytes_read += number(&told, "bytes_read_from_topics");
            status.events_looked_at += number(&told, "events_looked_at");
        }
        status
    }

    /// Waits until every partition has an owner that serves it.
    pub(super) fn wait_until_served(&self) -> Status {
        wait_until("all partitions", TIMEOUT, || {
            let status = self.status();
            match status.partitions {
                PARTITIONS => Ok(status),
                _ => Err(format!("{status:?}")),
            }
        })
    }

    /// Creates an account through an instance; its tag.
    pub(super) fn create(&self, through: usize, id: &str) -> String {
        let body = json!({"id": id, "name": id, "email": format!("{id}@example.org")});
        let answer = self
            .instance(through)
            .ask_with("POST", "/accounts", &[], &body);
        expect(201, &answer);
        tag(&answer)
    }

    /// Publishes an event of a day through an instance.
    pub(super) fn publish(
        &self,
        through: usize,
        account: &str,
        day: &str,
        kind: &str,
        amount_cents: i64,
    ) {
        let path = format!("/accounts/{account}/events");
        let time = format!("{day}T12:00:00Z");
        let body = json!({"type": kind, "amount_cents": amount_cents, "time": time});
        let answer = self.instance(through).ask_with("POST", &path, &[], &body);
        expect(201, &answer);
        self.note(day, kind, amount_cents);
    }

    /// Something was published once.
    pub(super) fn note(&self, day: &str, kind: &str, amount_cents: i64) {
        let mut published = self.published.borrow_mut();
        let of = published.entry((day.to_owned(), kind.to_owned()));
        let (count, sum) = of.or_default();
        *count += 1;
        *sum += amount_cents;
    }

    /// The ids of all accounts, page by page, as an instance has them.
    pub(super) fn list(&self, through: usize, limit: usize) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/accounts?limit={limit}{after}");
            let answer = self.instance(through).ask("GET", &path, &[]);
            expect(200, &answer);
            let page = answer.body["accounts"].as_array().expect("accounts");
            assert!(page.len() <= limit, "{} of {limit}", page.len());
            ids.extend(page.iter().map(|account| text(&account["id"])));
            match answer.body["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return ids,
            }
        }
    }

    pub(super) fn address(&self) -> String {
        self.instance(0).url()
    }
}

/// As the service makes them.
pub(super) const PARTITIONS: u64 = 6;

#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) partitions: u64,
    pub(super) offsets_to_read: u64,
    pub(super) accounts: u64,
    pub(super) events: u64,
    pub(super) bytes_read: u64,
    pub(super) events_looked_at: u64,
}

pub(super) fn expect(status: u16, answer: &Answer) {
    assert_eq!(answer.status, status, "{answer:?}");
    if status >= 400 {
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.body["detail"].is_string(), "{answer:?}");
    }
}

pub(super) fn tag(answer: &Answer) -> String {
    let tag = answer.headers.get("etag").expect("an ETag");
    tag.to_str().expect("text").to_owned()
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
