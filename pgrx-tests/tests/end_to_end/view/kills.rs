//! A view whose sink is killed at each of its steps.

use mongodb::bson::doc;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::wait_until;
use postgres::Client;

use super::shop::{FIELDS, Shop, TIMEOUT};

/// What a batch writes, in this order.
const STEPS: [&str; 4] = [
    "companion_views",
    "orders_rows",
    "orders",
    "companion_offsets",
];
/// More than one batch, and in one of them a transaction that is larger than a batch.
const CHANGES: usize = 30;

/// FerretDB keeps a collection in a table of its name, with a number behind it.
fn table_of(server: &mut Client, schema: &str, collection: &str) -> String {
    let query = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname ~ ('^' || $2 || '_[0-9a-f]{8}$')";
    let row = server.query_one(query, &[&schema, &collection]);
    row.unwrap_or_else(|error| panic!("{collection}: {error:?}"))
        .get(0)
}

fn kill_at(shop: &mut Shop<'_>, sink: &CompanionSink, collection: &str) {
    let bed = shop.database.bed();
    let schema = format!("{}_views", shop.database.name());
    let documents = "ferretdb";
    let mut server = bed.target().connect(documents);
    let mut looker = bed.target().connect(documents);
    let table = table_of(&mut server, &schema, collection);
    let mut held = server.transaction().expect("BEGIN");
    // Whoever reads goes on.
    held.batch_execute(&format!("LOCK TABLE {table} IN EXCLUSIVE MODE"))
        .expect("LOCK");
    (0..CHANGES).for_each(|_| shop.change());
    shop.transaction(
        "UPDATE order_item SET n = n + 1; UPDATE order_item SET order_id = (order_id + 1) % 12",
    );
    wait_until("the sink to wait", TIMEOUT, || {
        let waits =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass";
        let row = looker
            .query_one(waits, &[&table])
            .map_err(|e| e.to_string())?;
        match row.get::<_, i64>(0) {
            0 => Err("nobody waits".to_owned()),
            _ => Ok(()),
        }
    });
    sink.kill();
    held.rollback().expect("ROLLBACK");
    sink.start_only(&["orders"]);
    shop.wait_until_equal(sink);
}

#[test]
fn a_kill_at_any_step_leaves_nothing_wrong() {
    let mut shop = Shop::new("view_kills");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    shop.wait_until_equal(&sink);
    for _ in 0..2 {
        for collection in STEPS {
            kill_at(&mut shop, &sink, collection);
        }
    }
}

#[test]
fn kills_under_load_leave_nothing_wrong() {
    let mut shop = Shop::new("view_load");
    let sink = shop.sink(&Shop::view(FIELDS));
    sink.start_only(&["orders"]);
    for _ in 0..8 {
        (0..40).for_each(|_| shop.change());
        let offsets = || shop.collection("companion_offsets").find(doc! {}).run();
        let offsets = || offsets().expect("find").collect::<Result<Vec<_>, _>>();
        let before = offsets().expect("offsets");
        wait_until("the sink to go on", TIMEOUT, || {
            match offsets().expect("offsets") == before {
                true => Err("it does not".to_owned()),
                false => Ok(()),
            }
        });
        sink.kill();
        sink.start_only(&["orders"]);
    }
    shop.wait_until_equal(&sink);
}
