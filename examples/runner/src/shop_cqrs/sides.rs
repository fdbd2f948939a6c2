//! What both sides say, and that it is the same.

use std::collections::BTreeMap;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::sync::Collection;
use pg_cdc_tests::wait_until;
use serde_json::Value;

use super::system::{DATABASE, ShopCqrs};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A query per view: what each document has to be, as one JSON object with its `_id`.
const VIEWS: [(&str, &str); 4] = [
    (
        "customers",
        "SELECT jsonb_build_object('_id', id, 'customerId', id, 'customerName', name, 'customerEmail', email)::text
             FROM customer",
    ),
    (
        "products",
        "SELECT jsonb_build_object('_id', id, 'productId', id, 'productName', name, 'productPrice', price::text,
                 'stock', stock, 'stockStatus', stock_status)::text
             FROM product",
    ),
    (
        "orders",
        r#"SELECT jsonb_build_object('_id', o.id, 'orderId', o.id, 'customerId', o.customer_id,
                 'orderedAt', to_char(o.ordered_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                 'totalPrice', o.total_price::text,
                 'items', (SELECT jsonb_agg(jsonb_build_object('productId', i.product_id, 'quantity', i.quantity,
                         'price', i.price::text, 'totalPrice', i.total_price::text) ORDER BY i.product_id)
                     FROM order_item i WHERE i.order_id = o.id),
                 'customer', jsonb_build_object('＄ref', 'customers', '＄id', o.customer_id))::text
             FROM orders o"#,
    ),
    (
        // The tables do not know what was left in stock, nor what a product was called then: the events do.
        "product_sold",
        "SELECT jsonb_build_object('_id', i.order_id || '-' || i.product_id, 'productId', i.product_id,
                 'productPrice', i.price::text, 'quantitySold', i.quantity, 'orderId', i.order_id,
                 'customerId', o.customer_id, 'productTotalPrice', i.total_price::text)::text
             FROM order_item i JOIN orders o ON o.id = i.order_id",
    ),
];

/// What a sale's document has besides.
const ONLY_IN_EVENTS: [&str; 3] = ["productName", "remainingStock", "stockStatus"];

impl ShopCqrs {
    /// A collection of the query side.
    pub(super) fn collection(&self, name: &str) -> Collection<Document> {
        let client = self.place.bed().ferretdb().client();
        client.database(DATABASE).collection(name)
    }

    /// The documents of a view, by their `_id`.
    pub(super) fn documents(&self, view: &str) -> BTreeMap<String, Value> {
        let found = self.collection(view).find(doc! {}).run().expect("find");
        let found = found.map(|document| {
            let mut document = document.expect("a document");
            document.remove("_version").expect("a version");
            let value = Bson::Document(document).into_relaxed_extjson();
            (value["_id"].to_string(), value)
        });
        found.collect()
    }

    /// What the command side says of a view, by the same.
    fn expected(&self, query: &str) -> BTreeMap<String, Value> {
        let rows = self.database.source().query(query, &[]).expect(query);
        let rows = rows.iter().map(|row| {
            let value: Value = serde_json::from_str(row.get(0)).expect("JSON");
            (value["_id"].to_string(), value)
        });
        rows.collect()
    }

    /// Waits until a view is what the command side says now; how many documents it has.
    pub(super) fn wait_for_view(&self, view: &str, query: &str) -> usize {
        let expected = self.expected(query);
        let what = format!("{view} to be as the command side");
        wait_until(&what, TIMEOUT, || {
            let mut documents = self.documents(view);
            if view == "product_sold" {
                for document in documents.values_mut() {
                    let fields = document.as_object_mut().expect("an object");
                    for name in ONLY_IN_EVENTS {
                        fields
                            .remove(name)
                            .unwrap_or_else(|| panic!("a sale without {name}"));
                    }
                }
            }
            let mut ids = expected.keys().chain(documents.keys());
            match ids.find(|id| documents.get(*id) != expected.get(*id)) {
                None => Ok(()),
                Some(id) => Err(format!(
                    "{}: {:?} is not {:?}",
                    self.sink.state_of(view),
                    documents.get(id),
                    expected.get(id)
                )),
            }
        });
        expected.len()
    }

    /// Waits until all views are what the command side says now.
    pub(super) fn wait_for_views(&self) -> Vec<String> {
        self.database.wait_until_in_kafka();
        let views = VIEWS.iter();
        let views =
            views.map(|(view, query)| format!("{} {view}", self.wait_for_view(view, query)));
        views.collect()
    }

    /// The first column of the only row of a query to the command side, as text.
    pub(super) fn asked(&self, query: &str) -> String {
        pg_cdc_tests::statements::one_text(&mut self.database.source(), query)
    }
}

/// All documents of all views.
pub(super) fn agree(shop: &ShopCqrs) -> String {
    let counts = shop.wait_for_views().join(", ");
    shop.wait_for_revenue();
    let total = "SELECT sum(total_price) FROM order_item";
    assert_eq!(
        shop.asked("SELECT sum(total_price) FROM orders"),
        shop.asked(total)
    );
    format!("{counts}; {} in all", shop.asked(total))
}
