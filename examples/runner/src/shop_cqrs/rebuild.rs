//! A view that is built anew under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mongodb::bson::doc;

use super::system::ShopCqrs;

/// Orders that stay.
const LASTING: usize = 15;

/// Looks of the reader for an order of the buyer.
const LOOKS: usize = 4;

const LOOK_INTERVAL: Duration = Duration::from_millis(5);

pub(super) fn under_load(shop: &ShopCqrs) -> String {
    let customer = shop.customer("Regular", "regular@example.org");
    let product = shop.product("Pencil", "0.35", 100_000);
    let lasting: Vec<i64> = (0..LASTING)
        .map(|_| shop.order(customer, &[(product, 3)]))
        .collect();
    shop.wait_for_views();
    let (is_over, reads, placed) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_on(shop, &lasting, &is_over, &reads));
        let buyer = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                shop.order(customer, &[(product, 1)]);
                placed.fetch_add(1, Ordering::Relaxed);
                // So many looks of the reader for an order: FerretDB is to come along with both, and the rebuild.
                let enough = reads.load(Ordering::Relaxed) + LOOKS;
                while reads.load(Ordering::Relaxed) < enough && !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK_INTERVAL);
                }
            }
        });
        let rebuilt = shop.sink.try_command(&["rebuild", "orders"]);
        is_over.store(true, Ordering::Relaxed);
        reader.join().expect("a reader who always finds the view");
        buyer.join().expect("a buyer");
        assert!(rebuilt.status.success(), "{rebuilt:?}");
    });
    shop.wait_for_views();
    let old = shop
        .collection("orders__old")
        .count_documents(doc! {})
        .run();
    assert!(
        old.expect("a count") > 0,
        "nothing was kept of the old view"
    );
    shop.sink.run_command(&["rebuild", "orders", "--drop-old"]);
    // One of domain events as well.
    shop.sink.run_command(&["rebuild", "product_sold"]);
    shop.sink
        .run_command(&["rebuild", "product_sold", "--drop-old"]);
    shop.wait_for_views();
    format!(
        "{} orders and {} reads meanwhile",
        placed.into_inner(),
        reads.into_inner()
    )
}

/// Reads until told otherwise: the lasting orders over HTTP and in the collection, each whole.
fn read_on(shop: &ShopCqrs, lasting: &[i64], is_over: &AtomicBool, reads: &AtomicUsize) {
    let orders = shop.collection("orders");
    let [first, .., last] = lasting else {
        panic!("no orders");
    };
    let mut turn = 0;
    while !is_over.load(Ordering::Relaxed) {
        let filter = doc! { "_id": { "$gte": *first, "$lte": *last } };
        let found = orders.find(filter).run().expect("find");
        let found = found.map(|order| order.expect("a document"));
        let whole = found.filter(|order| order.get_str("totalPrice") == Ok("1.05"));
        assert_eq!(whole.count(), lasting.len(), "documents are missing");
        let order = shop.query(&format!("/orders/{}", lasting[turn % lasting.len()]));
        assert_eq!(
            (order.status, &order.body["totalPrice"]),
            (200, &"1.05".into()),
            "{order:?}"
        );
        turn += 1;
        reads.fetch_add(1, Ordering::Relaxed);
    }
}
