//! A shop: customers, their orders, and what is in these; and what a view of the orders has to be.

use std::time::Duration;

use pg_cdc_tests::Database;
use pg_cdc_tests::postgres::Postgres;
use postgres::Client;

use crate::account::{self, FULL_ROWS, rows};
use crate::measures::visibility::{self, Load, Round};

/// Orders of the backlog, for a run of full size.
const FULL_ORDERS: i64 = 1_000;
const ORDERS_PER_CUSTOMER: i64 = 10;
/// The name of the view's collection.
pub(super) const COLLECTION: &str = "orders";
/// FerretDB's database in PostgreSQL.
pub(super) const DOCUMENTS: &str = "documents";
const TIMEOUT: Duration = Duration::from_secs(600);

const TABLES: &str = "
    CREATE TABLE customer (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL, city text NOT NULL);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customer, status text NOT NULL,
        total numeric(12, 2) NOT NULL, created timestamptz NOT NULL);
    CREATE TABLE order_item (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, product text NOT NULL,
        quantity int NOT NULL, price numeric(12, 2) NOT NULL);
    CREATE INDEX ON orders (customer_id);
    CREATE INDEX ON order_item (order_id);
    SELECT cdc_track('customer'), cdc_track('orders'), cdc_track('order_item')";

/// Transactions of a shop. Each order comes with three items, and is paid later; one in ten is changed, and after one in fifty its
/// customer moves. `changes` counts rows, `updates` the documents of orders that a commit makes other ones.
const STREAM: &str = "
    CREATE PROCEDURE place(n bigint) LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO orders VALUES (n, 1 + n % (SELECT count(*) FROM customer), 'open', 60 + n % 90, now());
        INSERT INTO order_item SELECT 3 * n + i, n, 'Product ' || (7 * n + i) % 500, i, 10 + n % 15 FROM generate_series(1, 3) AS i;
    END $$;
    CREATE PROCEDURE stream(orders bigint, INOUT changes bigint, INOUT updates bigint) LANGUAGE plpgsql AS $$
    DECLARE buyer bigint;
    BEGIN
        FOR n IN 1 .. orders LOOP
            CALL place(n);
            COMMIT;
            changes := changes + 4; updates := updates + 1;
            CONTINUE WHEN n <= 20;
            UPDATE orders SET status = 'paid' WHERE id = n - 20;
            COMMIT;
            changes := changes + 1; updates := updates + 1;
            IF n % 10 = 0 THEN
                UPDATE order_item SET quantity = quantity + 1 WHERE id = 3 * (n - 10) + 1;
                UPDATE orders SET total = total + 10 WHERE id = n - 10;
                COMMIT;
                changes := changes + 2; updates := updates + 1;
            END IF;
            IF n % 50 = 0 THEN
                UPDATE customer SET city = 'Chur' WHERE id = (SELECT customer_id FROM orders WHERE id = n) RETURNING id INTO buyer;
                COMMIT;
                changes := changes + 1; updates := updates + (SELECT count(*) FROM orders WHERE customer_id = buyer);
            END IF;
        END LOOP;
    END $$";

/// Changes of an order that comes.
const CHANGES_PER_ORDER: i64 = 4;

/// Orders that come while what was there before is in the view: half as many as a view can take that makes so many changes.
pub(super) fn load(changes_per_s: f64) -> Load {
    let orders_per_s = (changes_per_s / CHANGES_PER_ORDER as f64 / 2.0).max(1.0) as u32;
    Load {
        commits_per_second: orders_per_s,
        warm_up: 2 * i64::from(orders_per_s),
        counted: 15 * i64::from(orders_per_s),
    }
}

/// What a backlog is.
#[derive(Clone, Copy)]
pub(super) struct Stream {
    /// Changes of rows: the events.
    pub(super) changes: i64,
    /// Documents that become other ones, commit by commit.
    pub(super) updates: i64,
}

fn orders() -> i64 {
    FULL_ORDERS * rows() / FULL_ROWS
}

pub(super) fn topics(database: &Database<'_>) -> Vec<String> {
    ["customer", "orders", "order_item"]
        .map(|table| database.topic(table))
        .to_vec()
}

/// Makes the tables, and has all that the stream does in Kafka.
pub(super) fn fill(source: &mut Client) -> Stream {
    account::run(source, TABLES);
    account::run(source, STREAM);
    let customers = orders() / ORDERS_PER_CUSTOMER + 1;
    let insert = format!(
        "INSERT INTO customer SELECT n, 'Customer ' || n, 'customer' || n || '@example.org', 'Bern' FROM generate_series(1, {customers}) AS n"
    );
    account::run(source, &insert);
    let call = format!("CALL stream({}, {customers}, 0)", orders());
    let row = source.query_one(&call, &[]).expect("the stream");
    account::run(source, "SELECT cdc_wait('30 min')");
    Stream {
        changes: row.get(0),
        updates: row.get(1),
    }
}

/// The settings of the view.
pub(super) fn view(database: &Database<'_>, url: &str, views: &str) -> String {
    let topics = serde_json::json!(topics(database));
    format!(
        r#"[sink.view]
kind = "mongo_view"
topics = {topics}
url = "{url}"
database = "{views}"
collection = "{COLLECTION}"
root = "public.orders"
join = [
  {{ table = "public.order_item", on = "order_id = id", as = "items", many = true, order_by = "id" }},
  {{ table = "public.customer", on = "id = customer_id", as = "customer" }},
]
"#
    )
}

/// The table in PostgreSQL in which FerretDB has the view's documents.
fn table(server: &mut Client, views: &str) -> String {
    let query = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
        WHERE schemaname = $1 AND tablename ~ ('^' || $2 || '_[0-9a-f]{8}$')";
    let row = server.query_one(query, &[&views, &COLLECTION]);
    row.expect("the collection's table").get(0)
}

/// Waits until the view is as the source is. It is read where FerretDB keeps it, which decodes nothing for that.
///
/// # Panics
/// When it does not come to that.
pub(super) fn wait_until_equal(source: &mut Client, server: &Postgres, views: &str) {
    let expected = "SELECT count(*), md5(string_agg(concat_ws(' ', o.id, o.status, c.city,
            (SELECT sum(quantity) FROM order_item i WHERE i.order_id = o.id)), ',' ORDER BY o.id))
        FROM orders o JOIN customer c ON c.id = o.customer_id";
    let read = |client: &mut Client, query: &str| -> (i64, Option<String>) {
        let row = client.query_one(query, &[]).expect("the view");
        (row.get(0), row.get(1))
    };
    let expected = read(source, expected);
    let mut server = server.connect(DOCUMENTS);
    let found = format!(
        "SELECT count(*), md5(string_agg(concat_ws(' ', _jsonb->>'_id', _jsonb->>'status', _jsonb->'customer'->>'city',
            (SELECT sum((i->>'quantity')::int) FROM jsonb_array_elements(_jsonb->'items') i)), ',' ORDER BY (_jsonb->>'_id')::bigint))
         FROM {}",
        table(&mut server, views)
    );
    pg_cdc_tests::wait_until("the view to be as its source", TIMEOUT, || {
        let found = read(&mut server, &found);
        let told = format!("{found:?}");
        (found == expected).then_some(()).ok_or(told)
    });
}

/// From the commit of an order until its document is there.
pub(super) fn measure_lag(
    load: Load,
    source: &mut Client,
    server: &Postgres,
    views: &str,
) -> Round {
    let mut server = server.connect(DOCUMENTS);
    let question = format!(
        "SELECT (_jsonb->>'_id')::bigint FROM {} WHERE _jsonb->'_id' = ANY (SELECT to_jsonb(id) FROM unnest($1::bigint[]) AS id)",
        table(&mut server, views)
    );
    let question = server.prepare(&question).expect("a question");
    let place = source.prepare("CALL place($1)").expect("a call");
    let change = |n: i64| {
        let id = 1_000_000 + n;
        source.execute(&place, &[&id]).expect("an order");
        id
    };
    let seen = |ids: &[i64]| {
        let rows = server.query(&question, &[&ids]).expect("an answer");
        rows.iter().map(|row| row.get(0)).collect()
    };
    visibility::measure(load, change, seen)
}
