//! The domain events, one after the other, come to what the tables are.

use std::collections::BTreeMap;

use pg_cdc_tests::statements::run;
use pg_cdc_tests::topic::{self, Record};
use serde_json::Value;

use super::system::{DATABASE, ShopCqrs};

/// Each is a topic.
const EVENTS: [&str; 9] = [
    "product-created",
    "product-updated",
    "product-sold",
    "product-deleted",
    "customer-created",
    "customer-updated",
    "customer-deleted",
    "order-created",
    "order-deleted",
];

/// What the events say that there is, by number.
#[derive(Default)]
struct Told {
    customers: BTreeMap<i64, Value>,
    products: BTreeMap<i64, Value>,
    orders: BTreeMap<i64, Value>,
    /// Sales of orders that are not told of yet: their events come first.
    sold: BTreeMap<i64, Vec<Value>>,
}

impl Told {
    fn tell(&mut self, event_type: &str, it: &Value) {
        let id = |name: &str| {
            it[name]
                .as_i64()
                .unwrap_or_else(|| panic!("{event_type} without {name}: {it}"))
        };
        match event_type {
            "customer-created" => is_new(self.customers.insert(id("customerId"), it.clone()), it),
            "customer-updated" => {
                was_there(self.customers.insert(id("customerId"), it.clone()), it)
            }
            "customer-deleted" => was_there(self.customers.remove(&id("customerId")), it),
            "product-created" => is_new(self.products.insert(id("productId"), it.clone()), it),
            "product-updated" => was_there(self.products.insert(id("productId"), it.clone()), it),
            "product-deleted" => was_there(self.products.remove(&id("productId")), it),
            "product-sold" => {
                self.add_stock(it, -id("quantitySold"));
                let product = &self.products[&id("productId")];
                for (of_sale, of_product) in [
                    ("remainingStock", "stock"),
                    ("stockStatus", "stockStatus"),
                    ("productPrice", "productPrice"),
                    ("productName", "productName"),
                ] {
                    assert_eq!(it[of_sale], product[of_product], "{it} beside {product}");
                }
                self.sold.entry(id("orderId")).or_default().push(it.clone());
            }
            "order-created" => {
                let sold = self.sold.remove(&id("orderId")).unwrap_or_default();
                let of_sales =
                    |name: &str| -> Vec<&Value> { sold.iter().map(|sale| &sale[name]).collect() };
                let items = it["items"].as_array().expect("items");
                let of_items =
                    |name: &str| -> Vec<&Value> { items.iter().map(|item| &item[name]).collect() };
                assert_eq!(of_sales("productId"), of_items("productId"), "{it}");
                assert_eq!(of_sales("quantitySold"), of_items("quantity"), "{it}");
                assert_eq!(
                    of_sales("productTotalPrice"),
                    of_items("totalPrice"),
                    "{it}"
                );
                is_new(self.orders.insert(id("orderId"), it.clone()), it);
            }
            "order-deleted" => {
                was_there(self.orders.remove(&id("orderId")), it);
                for item in it["items"].as_array().expect("items") {
                    self.add_stock(item, item["quantity"].as_i64().expect("a number"));
                }
            }
            other => panic!("{other} is no event of the shop"),
        }
    }

    fn add_stock(&mut self, of: &Value, quantity: i64) {
        let id = of["productId"].as_i64().expect("a product");
        let product = self
            .products
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no product: {of}"));
        let stock = product["stock"].as_i64().expect("a number") + quantity;
        assert!(stock >= 0, "{of} sold more than there is: {product}");
        product["stock"] = stock.into();
        product["stockStatus"] = match stock {
            0 => "sold out",
            1..=9 => "low",
            _ => "available",
        }
        .into();
    }
}

fn is_new(before: Option<Value>, event: &Value) {
    assert!(before.is_none(), "{event} comes twice");
}

fn was_there(before: Option<Value>, event: &Value) {
    assert!(
        before.is_some(),
        "{event} is of something that is not there"
    );
}

pub(super) fn are_what_was_committed(shop: &ShopCqrs) -> String {
    let rolled_back = roll_back(shop);
    let events = in_order(shop);
    let mut told = Told::default();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (event_type, record) in &events {
        let value = record.json();
        // One without a value takes a sale back: the event order-deleted says the same.
        if value.is_null() {
            continue;
        }
        assert_eq!(value["eventType"], *event_type, "{value}");
        assert_eq!(
            value.as_object().map(serde_json::Map::len),
            Some(2),
            "{value}"
        );
        let payload = &value["payload"];
        assert_ne!(
            payload["orderId"].as_i64(),
            Some(rolled_back),
            "{value} was rolled back"
        );
        assert_eq!(record.header("cdc.actor").unwrap_or("ann"), "ann");
        told.tell(event_type, payload);
        *counts.entry(event_type).or_default() += 1;
    }
    assert!(
        told.sold.is_empty(),
        "sales without an order: {:?}",
        told.sold
    );
    assert_eq!(counts.len(), EVENTS.len(), "{counts:?}");
    for (name, told, query) in [
        (
            "customers",
            told.customers,
            "SELECT jsonb_build_object('customerId', id, 'customerName', name, 'customerEmail', email) FROM customer ORDER BY id",
        ),
        (
            "products",
            told.products,
            "SELECT jsonb_build_object('productId', id, 'productName', name, 'productPrice', price::text, 'stock', stock, 'stockStatus', stock_status) FROM product ORDER BY id",
        ),
        (
            "orders",
            without_moved_days(told.orders),
            "SELECT jsonb_build_object('orderId', id, 'customerId', customer_id, 'totalPrice', total_price::text, 'items',
                 (SELECT jsonb_agg(jsonb_build_object('productId', i.product_id, 'quantity', i.quantity, 'price', i.price::text, 'totalPrice', i.total_price::text) ORDER BY i.product_id)
                     FROM order_item i WHERE i.order_id = o.id)) FROM orders o ORDER BY id",
        ),
    ] {
        let told: Vec<Value> = told.into_values().collect();
        let all = shop.asked(&format!("SELECT coalesce(jsonb_agg(r.it), '[]') FROM ({query}) AS r(it)"));
        let tables: Vec<Value> = serde_json::from_str(&all).expect("JSON");
        assert_eq!(told, tables, "{name}");
    }
    let count = |event_type: &str| counts[event_type];
    format!(
        "{} events: {} sold, {} orders created, {} deleted",
        counts.values().sum::<usize>(),
        count("product-sold"),
        count("order-created"),
        count("order-deleted")
    )
}

/// An order's day was set by hand meanwhile, of which no event tells.
fn without_moved_days(mut orders: BTreeMap<i64, Value>) -> BTreeMap<i64, Value> {
    for order in orders.values_mut() {
        order
            .as_object_mut()
            .expect("an object")
            .remove("orderedAt")
            .expect("a day");
    }
    orders
}

/// Places an order in a transaction that is rolled back, and one that PostgreSQL refuses at its last item; the number of the former.
fn roll_back(shop: &ShopCqrs) -> i64 {
    let customer = shop.customer("Undecided", "undecided@example.org");
    let (many, one) = (
        shop.product("Nail", "0.01", 500),
        shop.product("Clock", "5.00", 1),
    );
    let server = shop.place.bed().source();
    let mut service = server.connect_as("shop_commands", DATABASE);
    run(&mut service, &["BEGIN"]);
    let place = format!(
        r#"SELECT id FROM place_order({customer}, '[{{"productId": {many}, "quantity": 1}}]')"#
    );
    let id = service.query_one(&place, &[]).expect(&place).get(0);
    run(&mut service, &["ROLLBACK"]);
    let refused = shop.try_order(customer, &[(many, 1), (one, 2)]);
    assert_eq!(refused.status, 409, "{refused:?}");
    id
}

/// In each partition the versions ascend; what is not newer than all before it is a copy of one of them.
fn ascend(records: &[Record]) {
    for partition in records.chunk_by(|one, other| one.partition == other.partition) {
        let mut seen = BTreeMap::new();
        for record in partition {
            let newest = seen.last_key_value().map(|(version, _)| *version);
            let is_newer = newest.is_none_or(|newest| record.version() > newest);
            let copied = seen.insert(record.version(), record.id());
            assert!(
                is_newer || copied == Some(record.id()),
                "out of order: {record:?}"
            );
        }
    }
}

/// All events of all topics in the order of their versions, each once.
fn in_order(shop: &ShopCqrs) -> Vec<(&'static str, Record)> {
    shop.database.wait_until_in_kafka();
    let kafka = shop.place.bed().kafka();
    let mut events: Vec<(&'static str, Record)> = std::thread::scope(|scope| {
        let topics = EVENTS.map(|event_type| {
            let topic = format!("{DATABASE}.{event_type}");
            (event_type, scope.spawn(move || topic::read(kafka, &topic)))
        });
        let read = topics.into_iter().flat_map(|(event_type, records)| {
            let records = records.join().expect("the topic's records");
            ascend(&records);
            records.into_iter().map(move |record| (event_type, record))
        });
        read.collect()
    });
    events.sort_by(|(_, one), (_, other)| one.version().cmp(other.version()));
    events.dedup_by(|(_, one), (_, other)| one.id() == other.id());
    events
}
