//! A shop, and a companion-sink with a sink of every kind, for all tests of this program.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pg_cdc_tests::browser::{Browser, BrowserLook};
use pg_cdc_tests::companion_sink::{CompanionSink, Plan};
use pg_cdc_tests::statements::run;
use pg_cdc_tests::webhook_receiver::{Reply, WebhookReceiver};
use pg_cdc_tests::{TestBed, wait_until};
use postgres::Client;
use serde_json::Value;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// The database, and so what all topics begin with.
pub(crate) const NAME: &str = "shop";
/// What must nowhere be more than a text.
pub(crate) const HOSTILE: &str =
    "<script>document.title='hacked'</script>\"'><img src=x onerror=alert(1)>";

/// What there is to see.
pub(crate) struct Scene {
    pub(crate) bed: &'static TestBed,
    pub(crate) sink: CompanionSink,
    /// Refuses for now what comes from customers whose name begins with `Q`.
    pub(crate) receiver: WebhookReceiver,
    browsers: AtomicU32,
}

/// The scene; made when it is first asked for.
pub(crate) fn scene() -> &'static Scene {
    static SCENE: OnceLock<Arc<Scene>> = OnceLock::new();
    extern "C" fn end() {
        if let Some(scene) = SCENE.get() {
            scene.sink.stop();
        }
    }
    SCENE.get_or_init(|| {
        let scene = Scene::new();
        // Before the bed's own, which was registered earlier.
        // SAFETY: the handler does not unwind but for a failure, and what it uses is a static.
        unsafe { libc::atexit(end) };
        Arc::new(scene)
    })
}

impl Scene {
    fn new() -> Scene {
        let bed = TestBed::shared();
        let database = bed.database(NAME);
        let mut source = database.source();
        tables(&mut source);
        history_of(&mut source);
        let receiver = WebhookReceiver::start();
        receiver.answer(|request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            match (body.contains("\"name\":\"Q"), body.contains("\"name\":\"Z")) {
                (true, _) => Reply::Status(503),
                (_, true) => Reply::Status(400),
                _ => Reply::Status(200),
            }
        });
        let store = bed.path("pages-figures");
        let plan = database.plan_companion_sink();
        let plan = Plan {
            more_toml: more_sinks(bed, &receiver, &store),
            ..plan
        };
        let sink = bed.companion_sink(plan);
        sink.start();
        database.wait_until_in_kafka();
        let scene = Scene {
            bed,
            sink,
            receiver,
            browsers: AtomicU32::new(0),
        };
        scene.wait_until_applied();
        scene
    }

    /// A new connection to the source.
    pub(crate) fn source(&self) -> Client {
        self.bed.source().connect(NAME)
    }

    /// Waits until no sink has anything to do.
    pub(crate) fn wait_until_applied(&self) {
        wait_until("the sinks", 2 * TIMEOUT, || {
            let answer = self.sink.get("/v1/status");
            let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
            let status: Value = serde_json::from_str(body).expect("JSON");
            let sinks = status["sinks"].as_object().expect("sinks");
            let is_done =
                |sink: &Value| sink["state"] == "running" && sink["apply_lag_events"] == 0;
            match sinks.values().all(is_done)
                && sinks.values().any(|sink| sink["applied_total"] != 0)
            {
                true => Ok(()),
                false => Err(body.to_owned()),
            }
        });
    }

    /// A browser of its own.
    pub(crate) fn browser(&self, look: BrowserLook) -> Browser {
        let number = self.browsers.fetch_add(1, Ordering::Relaxed);
        Browser::start(&self.bed.path(&format!("browser-{number}")), look)
    }

    /// A browser of somebody who is logged in as `ann`.
    pub(crate) fn logged_in(&self, look: BrowserLook) -> Browser {
        let browser = self.browser(look);
        self.log_in(&browser);
        browser
    }

    /// Logs in with the link that the command prints.
    pub(crate) fn log_in(&self, browser: &Browser) {
        let link = self.sink.run_command(&["page"]);
        browser.go(link.trim());
        browser.fill("input[name=person]", "ann");
        browser.click("button.primary");
        browser.wait_for("h1", "Flow");
    }

    /// An address.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("{}{path}", self.sink.http_url())
    }

    /// Goes to a page, and waits for its heading.
    pub(crate) fn open(&self, browser: &Browser, path: &str, heading: &str) {
        browser.go(&self.address(path));
        browser.wait_for("h1", heading);
    }

    /// The refused event of a customer.
    pub(crate) fn refused_event(&self, customer: i32) -> String {
        let key = format!("{{\"id\":{customer}}}");
        let found = wait_until("the refused event", TIMEOUT, || {
            let answer = self.sink.get("/v1/dlq?sink=history");
            let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
            let listed: Value = serde_json::from_str(body).expect("JSON");
            let events = listed["events"].as_array().expect("events").clone();
            let found = events
                .into_iter()
                .find(|event| event["key"].as_str() == Some(&key));
            found.ok_or(body.to_owned())
        });
        found["event"].as_str().expect("an id").to_owned()
    }

    /// The event of a customer whose request waits.
    pub(crate) fn waiting_effect(&self, customer: i32) -> String {
        let key = format!("{{\"id\":{customer}}}");
        let found = wait_until("the effect to wait", TIMEOUT, || {
            let output = self.sink.run_command(&["effects", "list", "--json"]);
            let mut effects = output
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("an object"));
            let found = effects.find(|effect| {
                effect["key"].as_str() == Some(&key) && effect["state"] == "retrying"
            });
            found.ok_or(output.clone())
        });
        found["id"].as_str().expect("an id").to_owned()
    }

    /// The folder for what pages look like.
    pub(crate) fn screenshots(&self) -> PathBuf {
        let folder = std::env::var_os("PG_CDC_SCREENSHOTS").map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| self.bed.path("screenshots"));
        std::fs::create_dir_all(&folder).expect("the folder of the screenshots");
        folder
    }
}

fn tables(source: &mut Client) {
    run(
        source,
        &[
            "CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, city text, credit numeric(10,2) NOT NULL DEFAULT 0)",
            "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, ordered_at timestamptz NOT NULL, country text NOT NULL, total numeric(10,2) NOT NULL)",
            "CREATE TABLE order_item (id int PRIMARY KEY, order_id int, product text NOT NULL, quantity int NOT NULL, price numeric(10,2) NOT NULL)",
            "CREATE TABLE \"<script>alert(1)</script>\" (id text PRIMARY KEY, note text)",
            "SELECT cdc_track(name::regclass) FROM unnest('{customer,orders,order_item}'::text[]) AS name",
            "SELECT cdc_track('\"<script>alert(1)</script>\"'::regclass)",
        ],
    );
}

/// Customers who move, orders of thirty days, and what nobody should write.
fn history_of(source: &mut Client) {
    let hostile = HOSTILE.replace('\'', "''");
    run(
        source,
        &[
            "SET cdc.actor = 'ann'; SET cdc.reason = 'signed up'",
            "INSERT INTO customer VALUES (1, 'Eva Keller', 'Basel', 100), (2, 'Luca Rossi', 'Bern', 0), (3, 'Maya Frei', 'Zürich', 250.50)",
            "INSERT INTO customer SELECT n, 'Customer ' || n, (ARRAY['Basel', 'Bern', 'Chur', 'Genève'])[1 + n % 4], n * 10 FROM generate_series(100, 170) n",
            "SET cdc.actor = 'bob'; SET cdc.reason = 'moved'; SET cdc.request_id = 'r-17'",
            "UPDATE customer SET city = 'Bern' WHERE id = 1",
            "UPDATE customer SET city = 'Genève', credit = 120 WHERE id = 1",
            "SET cdc.actor = 'eva'; SET cdc.reason = 'married'; SET cdc.request_id = ''",
            "UPDATE customer SET name = 'Eva Frei' WHERE id = 1",
            "UPDATE customer SET credit = 99.95 WHERE id = 1",
            "INSERT INTO orders SELECT n, 1 + n % 3, timestamptz '2026-11-01 08:00+00' + n * interval '5 hours', (ARRAY['CH', 'DE', 'FR'])[1 + n % 3], 20 + (n * 37) % 180 + 0.95 FROM generate_series(1, 140) n",
            "INSERT INTO order_item SELECT n, 1 + n % 140, (ARRAY['Pen', 'Lamp', 'Chair'])[1 + n % 3], 1 + n % 4, 19.90 FROM generate_series(1, 300) n",
            &format!("SET cdc.actor = '{hostile}'; SET cdc.reason = '{hostile}'"),
            &format!("INSERT INTO customer VALUES (9, '{hostile}', '{hostile}', 1)"),
            &format!("INSERT INTO \"<script>alert(1)</script>\" VALUES ('{hostile}', '{hostile}')"),
            "SET cdc.actor = 'ann'; SET cdc.reason = 'signed up'",
            // What the rule rejects, and what the receiver does not take now, or never.
            "INSERT INTO customer VALUES (21, 'One', 'bad', 1), (22, 'Two', 'bad', 1), (23, 'Three', 'bad', 1), (24, 'Four', 'bad', 1)",
            "INSERT INTO customer VALUES (31, 'Quinn', 'Bern', 1), (32, 'Quentin', 'Chur', 1), (33, 'Queenie', 'Basel', 1), (34, 'Zoe', 'Basel', 1)",
            "RESET cdc.actor; RESET cdc.reason",
        ],
    );
}

fn more_sinks(bed: &TestBed, receiver: &WebhookReceiver, store: &Path) -> String {
    let text = |value: &str| Value::from(value).to_string();
    let (mongo, hook, source) = (bed.ferretdb().url(), receiver.url(), bed.source().url(NAME));
    format!(
        r#"[sink.orders]
kind = "mongo_view"
topics = ["{NAME}.public.orders", "{NAME}.public.order_item", "{NAME}.public.customer"]
url = {mongo}
database = "{NAME}_views"
root = "public.orders"
fields = {{ "orderedAt" = "ordered_at", "country" = "country", "total" = "total" }}
join = [
    {{ table = "public.customer", on = "id = customer_id", as = "customer", fields = {{ "name" = "name", "city" = "city" }} }},
    {{ table = "public.order_item", on = "order_id = id", as = "items", many = true, fields = {{ "product" = "product", "quantity" = "quantity", "price" = "price" }} }},
]

[sink.clients]
kind = "mongo_view"
topics = ["{NAME}.public.customer"]
url = {mongo}
database = "{NAME}_views"
root = "public.customer"

[sink.sales]
kind = "statistics"
topics = ["{NAME}.public.orders"]
store = {store}
time = "after.ordered_at"
time_zone = "Europe/Zurich"
group_by = ["after.country"]
measures = ["count()", "sum(after.total) as revenue", "avg(after.total) as average", "max(after.total) as largest"]

[sink.welcome]
kind = "webhook"
topics = ["{NAME}.public.customer"]
url = {hook}
begin = "beginning"
on = ["c"]
retry = {{ initial = "1h", max = "2h" }}

[[rule]]
topic = "{NAME}.public.customer"
name = "city"
reject_if = "after.city == 'bad'"
sinks = ["history"]

[source]
url = {source}
"#,
        mongo = text(&mongo),
        hook = text(&hook),
        store = text(&store.to_string_lossy()),
        source = text(&source),
    )
}
