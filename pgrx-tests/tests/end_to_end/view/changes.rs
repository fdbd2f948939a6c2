//! What happens to rows and tables of the source.

use mongodb::bson::doc;
use pg_cdc_tests::statements::run;
use pg_cdc_tests::wait_until;

use super::shop::{FIELDS, Shop, TIMEOUT};

#[test]
fn a_view_is_what_its_tables_say_whatever_happens_to_them() {
    let mut shop = Shop::new("view_changes");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    shop.wait_until_equal(&sink);
    for _ in 0..4 {
        (0..60).for_each(|_| shop.change());
        shop.wait_until_equal(&sink);
    }
    // A parent of many.
    shop.transaction(
        "INSERT INTO customer VALUES (90, 'old');
         INSERT INTO orders SELECT n, 90, 0 FROM generate_series(1000, 1299) AS n;
         INSERT INTO order_item SELECT n, n, 1, 2 FROM generate_series(1000, 1299) AS n",
    );
    shop.transaction("UPDATE customer SET name = 'new' WHERE id = 90");
    shop.wait_until_equal(&sink);
    shop.transaction("UPDATE customer SET id = 91 WHERE id = 90");
    shop.wait_until_equal(&sink);
    // A child before its root, and one that its root leaves behind.
    shop.transaction("INSERT INTO order_item VALUES (2000, 2000, 1, 5)");
    shop.transaction("INSERT INTO orders VALUES (2000, 1, 0); DELETE FROM orders WHERE id = 1001");
    shop.wait_until_equal(&sink);
    shop.transaction("TRUNCATE order_item; INSERT INTO order_item VALUES (1, 2000, 1, 7)");
    shop.wait_until_equal(&sink);
    (0..40).for_each(|_| shop.change());
    shop.transaction("TRUNCATE orders, product");
    (0..40).for_each(|_| shop.change());
    shop.wait_until_equal(&sink);
    let rows = shop.collection("orders_rows");
    wait_until("rows that are gone to be forgotten", TIMEOUT, || {
        let gone = rows.count_documents(doc! { "gone": true }).run();
        match gone.map_err(|error| error.to_string())? {
            0 => Ok(()),
            count => Err(count.to_string()),
        }
    });
}

#[test]
fn a_snapshot_brings_rows_and_takes_those_that_are_gone() {
    let mut shop = Shop::new("view_snapshot");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    shop.wait_until_equal(&sink);
    run(
        &mut shop.source,
        &[
            "SET session_replication_role = replica",
            "DELETE FROM order_item WHERE id % 3 = 0",
            "INSERT INTO order_item SELECT n, n - 300, 1, 3 FROM generate_series(300, 310) AS n",
            "UPDATE customer SET name = 'unheard of'",
            "SET session_replication_role = DEFAULT",
            "SELECT cdc_snapshot(name::regclass) FROM unnest('{order_item,customer}'::text[]) AS name",
        ],
    );
    shop.database.wait_until_snapshots_end();
    shop.wait_until_equal(&sink);
}

#[test]
fn definitions_are_followed_as_far_as_the_view_does_not_use_them() {
    let mut shop = Shop::new("view_definitions");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    run(
        &mut shop.source,
        &[
            "ALTER TABLE customer ADD COLUMN city text DEFAULT 'Bern'",
            "ALTER TABLE customer RENAME COLUMN city TO town",
            "ALTER TABLE customer DROP COLUMN town",
            "ALTER TABLE order_item RENAME TO line",
        ],
    );
    run(
        &mut shop.source,
        &["CREATE VIEW order_item AS SELECT * FROM line"],
    );
    (0..20).for_each(|_| shop.change());
    shop.wait_until_equal(&sink);
    run(
        &mut shop.source,
        &["ALTER TABLE customer RENAME COLUMN name TO called"],
    );
    wait_until("the view to halt", TIMEOUT, || {
        let state = sink.state_of("orders");
        let error = state["last_error"]["message"].as_str().unwrap_or_default();
        match state["state"] == "halted" && error.contains("it is called now") {
            true if state["last_error"]["code"] == "CDC1011" => Ok(()),
            _ => Err(state.to_string()),
        }
    });
}

#[test]
fn another_key_wants_a_rebuild_and_a_snapshot() {
    let mut shop = Shop::new("view_key");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    shop.wait_until_equal(&sink);
    let other_key = "ALTER TABLE product DROP CONSTRAINT product_pkey, ADD PRIMARY KEY (id, name), ADD UNIQUE (id)";
    run(&mut shop.source, &[other_key]);
    (0..20).for_each(|_| shop.change());
    wait_until("the view to halt", TIMEOUT, || {
        let state = sink.state_of("orders");
        let error = state["last_error"]["message"].as_str().unwrap_or_default();
        match state["state"] == "halted" && error.contains("public.product has another key") {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
    sink.run_command(&["rebuild", "orders"]);
    sink.reload();
    run(&mut shop.source, &["SELECT cdc_snapshot('product')"]);
    shop.database.wait_until_snapshots_end();
    (0..20).for_each(|_| shop.change());
    shop.wait_until_equal(&sink);
}

#[test]
fn other_settings_want_a_rebuild() {
    let mut shop = Shop::new("view_settings");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    shop.wait_until_equal(&sink);
    sink.stop();
    let sink = shop.sink(&Shop::view(r#"{ "no" = "id" }"#));
    sink.start_only(&["orders"]);
    wait_until("the view to halt", TIMEOUT, || {
        let state = sink.state_of("orders");
        let hint = state["last_error"]["hint"].as_str().unwrap_or_default();
        match state["state"] == "halted" && hint.contains("companion-sink rebuild orders") {
            true => Ok(()),
            false => Err(state.to_string()),
        }
    });
}
