//! A shop whose orders are a view, and what that view has to be.

use std::collections::BTreeMap;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::sync::Collection;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::{Database, TestBed, wait_until};
use postgres::Client;
use serde_json::Value;

pub(super) const TIMEOUT: Duration = Duration::from_secs(120);

/// The fields of the view's settings that tests change.
pub(super) const FIELDS: &str = r#"{ "no" = "id", "total" = "total" }"#;

/// Other ones.
pub(super) const OTHER_FIELDS: &str = r#"{ "no" = "id", "amount" = "total" }"#;

/// What the source says that the view is, a document a row.
const EXPECTED: &str = r#"SELECT jsonb_build_object('_id', o.id, 'no', o.id, 'total', o.total,
    'items', coalesce((SELECT jsonb_agg(jsonb_build_object('id', i.id, 'n', i.n,
            'product', (SELECT jsonb_build_object('name', p.name) FROM product p WHERE p.id = i.product_id)) ORDER BY i.n DESC, i.id)
        FROM order_item i WHERE i.order_id = o.id), '[]'),
    'customer', (SELECT jsonb_build_object('name', c.name) FROM customer c WHERE c.id = o.customer_id),
    'customerRef', (SELECT jsonb_build_object('＄ref', 'customers', '＄id', c.id) FROM customer c WHERE c.id = o.customer_id))::text
    FROM orders o"#;

/// A source database with the shop's tables.
pub(super) struct Shop<'b> {
    pub(super) database: Database<'b>,
    pub(super) source: Client,
    /// The view has [`OTHER_FIELDS`].
    pub(super) has_other_fields: bool,
    random: u64,
}

impl Shop<'_> {
    /// One of this name, with a few rows.
    pub(super) fn new(name: &str) -> Shop<'static> {
        let database = TestBed::shared().database(name);
        let mut source = database.source();
        run(
            &mut source,
            &[
                "CREATE TABLE customer (id int PRIMARY KEY, name text)",
                "CREATE TABLE product (id int PRIMARY KEY, name text)",
                "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, total int NOT NULL)",
                "CREATE TABLE order_item (id int PRIMARY KEY, order_id int, product_id int, n int NOT NULL)",
                "SELECT cdc_track(name::regclass) FROM unnest('{customer,product,orders,order_item}'::text[]) AS name",
            ],
        );
        let mut shop = Shop {
            database,
            source,
            has_other_fields: false,
            random: 42,
        };
        for _ in 0..30 {
            shop.change();
        }
        shop
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    /// A transaction of the shop. An order's total is the sum of its items after each.
    pub(super) fn change(&mut self) {
        let (order, other) = (self.below(12), self.below(12));
        let (item, product, customer) = (self.below(40), self.below(6), self.below(5));
        let n = self.below(9);
        let change = match self.below(12) {
            0..=2 => format!(
                "INSERT INTO order_item VALUES ({item}, {order}, {product}, {n})
                 ON CONFLICT (id) DO UPDATE SET order_id = {order}, product_id = {product}, n = {n}"
            ),
            3 => format!("UPDATE order_item SET order_id = {other} WHERE order_id = {order}"),
            4 => format!("DELETE FROM order_item WHERE id = {item}"),
            5 => format!(
                "DELETE FROM order_item WHERE id = {item} + 100;
                 UPDATE order_item SET id = id + 100 WHERE id = {item}"
            ),
            6 | 7 => format!(
                "INSERT INTO orders VALUES ({order}, {customer}, 0) ON CONFLICT (id) DO UPDATE SET customer_id = {customer}"
            ),
            8 => format!(
                "DELETE FROM orders WHERE id = {order} + 100; UPDATE orders SET id = id + 100 WHERE id = {order}"
            ),
            9 => format!("DELETE FROM orders WHERE id = {order} OR id = {other} + 100"),
            10 => format!(
                "INSERT INTO product VALUES ({product}, 'p{n}') ON CONFLICT (id) DO UPDATE SET name = 'p{n}';
                 DELETE FROM product WHERE id = {product} + 1"
            ),
            _ => format!(
                "INSERT INTO customer VALUES ({customer}, 'c{n}') ON CONFLICT (id) DO UPDATE SET name = 'c{n}';
                 DELETE FROM customer WHERE id = {customer} + 1"
            ),
        };
        self.transaction(&change);
    }

    /// Statements, and what makes the totals right again.
    pub(super) fn transaction(&mut self, statements: &str) {
        let transaction = format!(
            "BEGIN; {statements};
             UPDATE orders o SET total = s.total FROM (SELECT o.id, coalesce(sum(i.n), 0)::int AS total
                 FROM orders o LEFT JOIN order_item i ON i.order_id = o.id GROUP BY o.id) s
             WHERE s.id = o.id AND s.total <> o.total; COMMIT"
        );
        self.source
            .batch_execute(&transaction)
            .unwrap_or_else(|error| panic!("{transaction}: {error:?}"));
    }

    /// Settings of the view, besides those that every sink needs.
    pub(super) fn view(fields: &str) -> String {
        format!(
            r#"
kind = "mongo_view"
root = "public.orders"
fields = {fields}
join = [
  {{ table = "public.order_item", on = "order_id = id", as = "items", many = true, fields = {{ "id" = "id", "n" = "n" }}, order_by = "-n", join = [
    {{ table = "public.product", on = "id = product_id", as = "product", fields = {{ "name" = "name" }} }} ] }},
  {{ table = "public.customer", on = "id = customer_id", as = "customer", fields = {{ "name" = "name" }} }},
  {{ table = "public.customer", on = "id = customer_id", as = "customerRef", reference = "customers" }},
]
indexes = [{{ keys = {{ "customer.name" = 1 }} }}]
"#
        )
    }

    /// A companion-sink that has the view, not started.
    pub(super) fn sink(&self, settings: &str) -> CompanionSink {
        let mut plan = self.database.plan_companion_sink();
        plan.more_toml = format!(
            "[sink.orders]\n{settings}topics = [\"{}.public.*\"]\nurl = \"{}\"\ndatabase = \"{}\"\nbatch = {{ rows = 20 }}\n",
            self.database.name(),
            self.database.bed().ferretdb().url(),
            self.views(),
        );
        self.database.bed().companion_sink(plan)
    }

    fn views(&self) -> String {
        format!("{}_views", self.database.name())
    }

    /// A collection of the view's database.
    pub(super) fn collection(&self, name: &str) -> Collection<Document> {
        let client = self.database.bed().ferretdb().client();
        client.database(&self.views()).collection(name)
    }

    /// All documents of a collection of the view's database.
    pub(super) fn documents_in(&self, name: &str) -> Vec<Document> {
        let found = self.collection(name).find(doc! {}).run().expect("find");
        found
            .map(|document| document.expect("a document"))
            .collect()
    }

    /// The documents of the view, without the commits for which they were written.
    pub(super) fn documents(&self) -> BTreeMap<i64, Value> {
        let found = self.collection("orders").find(doc! {}).run().expect("find");
        let found = found.map(|document| {
            let mut document = document.expect("a document");
            document.remove("_version").expect("a version");
            let value = Bson::Document(document).into_relaxed_extjson();
            (value["_id"].as_i64().expect("an id"), value)
        });
        found.collect()
    }

    fn expected(&mut self) -> BTreeMap<i64, Value> {
        let query = match self.has_other_fields {
            true => EXPECTED.replace("'total'", "'amount'"),
            false => EXPECTED.to_owned(),
        };
        let rows = self.source.query(&query, &[]).expect("the source's view");
        let rows = rows.iter().map(|row| {
            let value: Value = serde_json::from_str(row.get(0)).expect("JSON");
            (value["_id"].as_i64().expect("an id"), value)
        });
        rows.collect()
    }

    /// Waits until the view is what the source's tables say.
    pub(super) fn wait_until_equal(&mut self, sink: &CompanionSink) {
        self.database.wait_until_in_kafka();
        let expected = self.expected();
        wait_until("the view to be as the source", TIMEOUT, || {
            let documents = self.documents();
            if documents == expected {
                return Ok(());
            }
            let state = sink.state_of("orders");
            let differs = |id: &&i64| documents.get(id) != expected.get(id);
            let mut ids = expected.keys().chain(documents.keys());
            let first = ids.find(differs).copied().unwrap_or_default();
            Err(format!(
                "{state}: {:?} is not {:?}",
                documents.get(&first),
                expected.get(&first)
            ))
        });
    }
}
