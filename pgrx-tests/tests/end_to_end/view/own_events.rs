//! Views of applications' own events: documents are what was emitted, whatever happens to the sink.

use std::collections::BTreeMap;

use mongodb::bson::{Bson, Document, doc};
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, topic, wait_until};
use postgres::Client;
use serde_json::{Value, json};

use super::shop::TIMEOUT;

/// Products, and an application that sells them.
struct Sales<'b> {
    database: Database<'b>,
    source: Client,
    /// What was sold last under each id: product and pieces.
    sold: BTreeMap<i64, (i64, i64)>,
    random: u64,
}

impl Sales<'_> {
    fn new(name: &str) -> Sales<'static> {
        let database = TestBed::shared().database(name);
        let mut source = database.source();
        run(
            &mut source,
            &[
                "CREATE TABLE product (id int PRIMARY KEY, name text)",
                "SELECT cdc_track('product')",
            ],
        );
        Sales {
            database,
            source,
            sold: BTreeMap::new(),
            random: 7,
        }
    }

    fn topic(&self) -> String {
        format!("{}.product-sold", self.database.name())
    }

    fn below(&mut self, limit: i64) -> i64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = self.random.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as i64 % limit
    }

    fn emit(&self, key: &str, payload: Option<&Value>) -> String {
        let payload = payload.map_or("NULL".to_owned(), |value| format!("'{value}'"));
        format!("SELECT cdc_emit('{}', '{key}', {payload})", self.topic())
    }

    /// A sale, of whichever type of event.
    fn sale(&self, sale: i64, product: i64, pieces: i64, kind: &str) -> String {
        let payload = json!({"saleId": sale, "productId": product, "n": pieces});
        let value = json!({"eventType": kind, "payload": payload});
        self.emit(&format!("p{product}"), Some(&value))
    }

    /// A transaction: products change, things are sold, or all sales of a product are forgotten.
    fn change(&mut self) {
        let (sale, product, pieces) = (self.below(30), self.below(6), 1 + self.below(9));
        let statements = match self.below(8) {
            0 => format!(
                "INSERT INTO product VALUES ({product}, 'p{pieces}') ON CONFLICT (id) DO UPDATE SET name = 'p{pieces}'"
            ),
            1 => format!("DELETE FROM product WHERE id = {product}"),
            2 => {
                // The key of a sale is that of its newest event.
                self.sold.retain(|_, (of, _)| *of != product);
                self.emit(&format!("p{product}"), None)
            }
            3 => self.sale(sale, product, pieces, "product-returned"),
            _ => {
                self.sold.insert(sale, (product, pieces));
                let returned = self.sale(sale, product, 99, "product-returned");
                let sold = self.sale(sale, product, pieces, "product-sold");
                format!("{returned}; {sold}")
            }
        };
        let transaction = format!("BEGIN; SET LOCAL cdc.actor = 'ann'; {statements}; COMMIT");
        let done = self.source.batch_execute(&transaction);
        done.unwrap_or_else(|error| panic!("{transaction}: {error:?}"));
    }

    fn sink(&self, sinks: &[(&str, &str)]) -> CompanionSink {
        let mut plan = self.database.plan_companion_sink();
        let sinks = sinks.iter().map(|(name, settings)| {
            format!(
                "[sink.{name}]\nkind = \"mongo_view\"\nroot_topic = \"{}\"\ntopics = [\"{}.*\"]\nurl = \"{}\"\ndatabase = \"{}\"\nbatch = {{ rows = 10 }}\n{settings}\n",
                self.topic(),
                self.database.name(),
                self.database.bed().ferretdb().url(),
                self.views(),
            )
        });
        plan.more_toml = sinks.collect();
        self.database.bed().companion_sink(plan)
    }

    fn views(&self) -> String {
        format!("{}_views", self.database.name())
    }

    /// The documents of a collection by their ids, without the commits for which they were written.
    fn documents(&self, name: &str) -> BTreeMap<String, Value> {
        let client = self.database.bed().ferretdb().client();
        let collection = client.database(&self.views()).collection::<Document>(name);
        let found = collection.find(doc! {}).run().expect("find");
        let found = found.map(|document| {
            let mut document = document.expect("a document");
            document.remove("_version").expect("a version");
            let value = Bson::Document(document).into_relaxed_extjson();
            (value["_id"].to_string(), value)
        });
        found.collect()
    }

    /// The documents that the settings [`SOLD`] make.
    fn expected(&mut self) -> BTreeMap<String, Value> {
        let products = self.source.query("SELECT id, name FROM product", &[]);
        let products: BTreeMap<i64, String> = products
            .expect("the products")
            .iter()
            .map(|row| (i64::from(row.get::<_, i32>(0)), row.get(1)))
            .collect();
        let sold = self.sold.iter().map(|(sale, (product, pieces))| {
            let name = products.get(product);
            let document = json!({"_id": sale, "productId": product, "n": pieces, "by": "ann",
                "product": name.map(|name| json!({"name": name}))});
            (sale.to_string(), document)
        });
        sold.collect()
    }

    fn wait_until_equal(&mut self, sink: &CompanionSink) {
        self.wait_until_view_is_equal(sink, "sold");
    }

    fn wait_until_view_is_equal(&mut self, sink: &CompanionSink, view: &str) {
        self.database.wait_until_in_kafka();
        let expected = self.expected();
        wait_until("the view to be as the events", TIMEOUT, || {
            let documents = self.documents(view);
            if documents == expected {
                return Ok(());
            }
            let differs = |id: &&String| documents.get(*id) != expected.get(*id);
            let first = expected.keys().chain(documents.keys()).find(differs);
            let first = first.cloned().unwrap_or_default();
            Err(format!(
                "{}: {:?} is not {:?}",
                sink.state_of(view),
                documents.get(&first),
                expected.get(&first)
            ))
        });
    }
}

const SOLD: &str = r#"
id = "value.payload.saleId"
where = "value.eventType == 'product-sold'"
fields = { "productId" = "value.payload.productId", "n" = "value.payload.n", "by" = "audit.actor" }
join = [{ table = "public.product", on = "id = value.payload.productId", as = "product", fields = { "name" = "name" } }]
"#;

#[test]
fn documents_are_what_was_emitted_last_under_their_ids() {
    let mut sales = Sales::new("view_own");
    // Two views of the same topics know nothing of each other.
    let sink = sales.sink(&[("sold", SOLD), ("twin", SOLD)]);
    (0..40).for_each(|_| sales.change());
    sink.start_only(&["sold", "twin"]);
    sales.wait_until_equal(&sink);
    for _ in 0..4 {
        (0..30).for_each(|_| sales.change());
        sink.kill();
        (0..10).for_each(|_| sales.change());
        sink.start_only(&["sold", "twin"]);
    }
    sales.wait_until_equal(&sink);
    // What was rolled back never was.
    let undone = sales.sale(1000, 1, 1, "product-sold");
    sales
        .source
        .batch_execute(&format!("BEGIN; {undone}; ROLLBACK"))
        .expect("a transaction");
    (0..10).for_each(|_| sales.change());
    sales.wait_until_equal(&sink);
    let rebuilt = sink.try_command(&["rebuild", "sold"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    assert!(!sales.documents("sold__old").is_empty());
    sales.wait_until_equal(&sink);
    (0..10).for_each(|_| sales.change());
    sales.wait_until_equal(&sink);
    sales.wait_until_view_is_equal(&sink, "twin");
}

#[test]
fn a_view_without_an_id_goes_by_keys_and_has_whole_events() {
    let mut sales = Sales::new("view_own_keys");
    let sink = sales.sink(&[("latest", "")]);
    sink.start_only(&["latest"]);
    let statements = [
        sales.emit("a", Some(&json!({"n": 1, "of": {"x": [1, "y"]}}))),
        sales.emit("b", Some(&json!({"n": 2}))),
        sales.emit("c", Some(&json!({"n": 3}))),
        // Others are dead letters.
        sales.emit("d", Some(&json!([1]))),
        sales.emit("e", Some(&json!({"_id": 1}))),
        sales.emit("b", Some(&json!({"n": 4}))),
        sales.emit("c", None),
    ];
    for statement in &statements {
        run(&mut sales.source, &[statement.as_str()]);
    }
    sales.database.wait_until_in_kafka();
    let expected = BTreeMap::from([
        (
            "\"a\"".to_owned(),
            json!({"_id": "a", "n": 1, "of": {"x": [1, "y"]}}),
        ),
        ("\"b\"".to_owned(), json!({"_id": "b", "n": 4})),
    ]);
    wait_until("the documents", TIMEOUT, || {
        let documents = sales.documents("latest");
        match documents == expected {
            true => Ok(()),
            false => Err(format!("{documents:?} {}", sink.state_of("latest"))),
        }
    });
    let dlq = format!("{}.dlq", sales.topic());
    let letters = topic::read(sales.database.bed().kafka(), &dlq);
    assert_eq!(letters.len(), 2, "{letters:?}");
}

#[test]
fn mistakes_of_a_view_of_own_events_are_told() {
    let sales = Sales::new("view_own_mistakes");
    for (settings, told) in [
        ("root = \"public.product\"\n", "root is set as well"),
        (
            "id = \"after.id\"\n",
            "id: \"after.id\" is nothing of an own event",
        ),
        ("id = \"valeu.id\"\n", "did you mean \"value\"?"),
        ("where = \"valeu.id == 1\"\n", "where: "),
        ("feilds = {}\n", "did you mean \"fields\"?"),
        ("fields = { \"n\" = \"n\" }\n", "fields.n: "),
        (
            "join = [{ table = \"public.product\", on = \"id = productId\", as = \"product\" }]\n",
            "join.on: ",
        ),
    ] {
        let sink = sales.sink(&[("sold", settings)]);
        let checked = sink.try_command(&["check", "--offline"]);
        let output = [checked.stdout, checked.stderr].concat();
        let output = String::from_utf8_lossy(&output);
        assert!(
            !checked.status.success() && output.contains(told),
            "{told}: {output}"
        );
    }
    // The topic of a table.
    let mut sales = Sales::new("view_own_table");
    let topic = sales.database.topic("product");
    let sink = sales.sink(&[("sold", "")]);
    let file = sink.config_file();
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let text = text.replace(&sales.topic(), &topic);
    std::fs::write(&file, text).expect("the configuration");
    run(
        &mut sales.source,
        &["INSERT INTO product VALUES (1, 'pen')"],
    );
    sink.start_only(&["sold"]);
    wait_until("the view to halt", TIMEOUT, || {
        let state = sink.state_of("sold");
        let error = state["last_error"]["message"].as_str().unwrap_or_default();
        match state["state"] == "halted" && error.contains("has rows of table") {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
}
