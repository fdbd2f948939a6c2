//! A view that is built anew, while rows are changed and somebody reads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::sync::Collection;
use pg_cdc_tests::wait_until;

use super::shop::{FIELDS, OTHER_FIELDS, Shop, TIMEOUT};

/// Orders that nobody deletes.
const LASTING: std::ops::Range<i32> = 5000..5030;

const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Reads until told otherwise; how often.
fn read_on(orders: &Collection<Document>, is_over: &AtomicBool, reads: &AtomicUsize) {
    while !is_over.load(Ordering::Relaxed) {
        let found = orders
            .find(doc! { "_id": { "$gte": 0 } })
            .run()
            .expect("find");
        let mut lasting = 0;
        for document in found {
            let document = document.expect("a document");
            let total = document
                .get_i32("total")
                .or_else(|_| document.get_i32("amount"));
            let items = document.get_array("items").expect("items").iter();
            let items = items.filter_map(Bson::as_document);
            let sum: i32 = items.map(|item| item.get_i32("n").expect("n")).sum();
            assert_eq!(
                total.expect("a total"),
                sum,
                "half of a transaction: {document}"
            );
            lasting += usize::from(LASTING.contains(&document.get_i32("_id").expect("an id")));
        }
        assert_eq!(lasting, LASTING.len(), "documents are missing");
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_view_is_built_anew_under_load_and_readers_always_have_one() {
    let mut shop = Shop::new("view_rebuild");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    shop.transaction(&format!(
        "INSERT INTO orders SELECT n, 1, 0 FROM generate_series({}, {}) AS n;
         INSERT INTO order_item SELECT n, n, 1, 3 FROM generate_series({}, {}) AS n",
        LASTING.start,
        LASTING.end - 1,
        LASTING.start,
        LASTING.end - 1
    ));
    shop.wait_until_equal(&sink);
    let other = shop.sink(&Shop::view(OTHER_FIELDS));
    let (is_over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let orders = shop.collection("orders");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_on(&orders, &is_over, &reads));
        let rebuild = scope.spawn(|| other.try_command(&["rebuild", "orders"]));
        let mut seen = 0;
        while !rebuild.is_finished() {
            // One change for each look of the reader: FerretDB is to come along with both.
            let now = reads.load(Ordering::Relaxed);
            match now == seen && !reader.is_finished() {
                true => std::thread::sleep(LOOK_INTERVAL),
                false => shop.change(),
            }
            seen = now;
        }
        is_over.store(true, Ordering::Relaxed);
        let rebuilt = rebuild.join().expect("the rebuild's thread");
        assert!(rebuilt.status.success(), "{rebuilt:?}");
        reader.join().expect("a reader that always finds the view");
    });
    assert!(reads.load(Ordering::Relaxed) > 3);
    assert!(!shop.documents_in("orders__old").is_empty());
    assert!(shop.documents_in("orders__new").is_empty());
    // It has the old settings.
    sink.stop();
    shop.has_other_fields = true;
    other.start_only(&["orders"]);
    (0..30).for_each(|_| shop.change());
    shop.wait_until_equal(&other);
    other.run_command(&["rebuild", "orders", "--drop-old"]);
    assert!(shop.documents_in("orders__old").is_empty());
}

#[test]
fn a_rebuild_that_is_killed_harms_nobody_and_a_halted_sink_goes_on_behind_one() {
    let mut shop = Shop::new("view_rebuild_killed");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    shop.wait_until_equal(&sink);
    let rebuild = sink.start_command(&["rebuild", "orders"]);
    wait_until("the rebuild to begin", TIMEOUT, || {
        match shop.documents_in("orders__new_rows").is_empty() {
            true => Err("nothing is there"),
            false => Ok(()),
        }
    });
    drop(rebuild);
    (0..30).for_each(|_| shop.change());
    shop.wait_until_equal(&sink);
    sink.stop();
    let other = shop.sink(&Shop::view(OTHER_FIELDS));
    other.start_only(&["orders"]);
    wait_until("the sink to halt", TIMEOUT, || {
        let state = other.state_of("orders");
        match state["state"] == "halted" {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    other.run_command(&["rebuild", "orders"]);
    shop.has_other_fields = true;
    (0..30).for_each(|_| shop.change());
    shop.wait_until_equal(&other);
    let wrong = other.try_command(&["rebuild", "replica"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
