//! Many people at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pg_cdc_tests::wait_until;
use serde_json::{Value, json};

use super::system::ShopCqrs;
use crate::service::Answer;

const TIMEOUT: Duration = Duration::from_secs(60);

/// People of the mixed load, and commands of each.
const PEOPLE: usize = 8;
const COMMANDS: usize = 40;

/// Customers who want one of the last items, and how many there are.
const CUSTOMERS: usize = 50;
const ITEMS: i32 = 20;

/// Numbers that look like random ones and are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % limit.unsigned_abs()).expect("a small number")
    }
}

/// Random commands by several people; some of them are refused, none fails.
pub(super) fn mixed(shop: &ShopCqrs) -> String {
    for n in 0..6 {
        shop.customer("Customer", &format!("c{n}@example.org"));
        shop.product("Product", &format!("{n}.{n}9"), 60);
    }
    let done = AtomicUsize::new(0);
    let start = Instant::now();
    let refused: usize = std::thread::scope(|scope| {
        let people: Vec<_> = (0..PEOPLE)
            .map(|person| {
                let (done, mut random) = (&done, Random(person as u64));
                scope.spawn(move || {
                    let commands = 0..COMMANDS;
                    let answers = commands.map(|n| {
                        let answer = command(shop, &mut random, &format!("{person}-{n}"));
                        assert!(answer.status < 500, "{answer:?}");
                        done.fetch_add(1, Ordering::Relaxed);
                        usize::from(answer.status >= 400)
                    });
                    answers.sum::<usize>()
                })
            })
            .collect();
        wait_until("half of the commands", TIMEOUT, || {
            let half = PEOPLE * COMMANDS / 2;
            let count = done.load(Ordering::Relaxed);
            let is_over = people.iter().any(|person| person.is_finished());
            if count >= half || is_over {
                Ok(())
            } else {
                Err(count)
            }
        });
        shop.sink.kill();
        shop.sink.start();
        let people = people.into_iter();
        people.map(|person| person.join().expect("a person")).sum()
    });
    let seconds = start.elapsed().as_secs_f64();
    let counts = shop.wait_for_views().join(", ");
    let all = PEOPLE * COMMANDS;
    format!(
        "{all} commands ({refused} refused), {:.0}/s; {counts}",
        all as f64 / seconds
    )
}

fn command(shop: &ShopCqrs, random: &mut Random, name: &str) -> Answer {
    let (customer, product) = (1 + random.below(8), 1 + random.below(9));
    let price = format!("{}.{:02}", random.below(200), random.below(100));
    match random.below(16) {
        0..=8 => {
            let count = 1 + random.below(3);
            let items = (0..count).map(|_| (1 + random.below(8), 1 + random.below(3) as i32));
            shop.try_order(customer, &items.collect::<Vec<_>>())
        }
        9 => {
            let order = 3 + random.below(40);
            shop.command("DELETE", &format!("/orders/{order}"), &Value::Null)
        }
        10 => {
            let body = json!({"name": format!("Product {product}"), "price": price});
            shop.command("PUT", &format!("/products/{product}"), &body)
        }
        11 => {
            let body = json!({"quantity": 1 + random.below(40)});
            shop.command("POST", &format!("/products/{product}/deliveries"), &body)
        }
        12 => {
            let body = json!({"name": name, "email": format!("{name}@example.org")});
            shop.command("PUT", &format!("/customers/{customer}"), &body)
        }
        13 => {
            let body = json!({"name": name, "email": format!("{name}@example.com")});
            shop.command("POST", "/customers", &body)
        }
        14 if random.below(2) == 0 => {
            let body = json!({"name": name, "price": price, "stock": 10});
            shop.command("POST", "/products", &body)
        }
        14 => {
            let path = format!("/products/{}", 9 + random.below(6));
            shop.command("DELETE", &path, &Value::Null)
        }
        _ => {
            let path = format!("/customers/{}", 9 + random.below(9));
            shop.command("DELETE", &path, &Value::Null)
        }
    }
}

/// Each customer wants one of the same product, and one of another of which there is enough; half of them name it first.
pub(super) fn last_items(shop: &ShopCqrs) -> String {
    let rare = shop.product("Rare book", "33.33", ITEMS);
    let other = shop.product("Bookmark", "0.07", 1000);
    let customer = shop.customer("Library", "library@example.org");
    let barrier = Barrier::new(CUSTOMERS);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let customers: Vec<_> = (0..CUSTOMERS)
            .map(|n| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let items = match n % 2 {
                        0 => [(rare, 1), (other, 1)],
                        _ => [(other, 1), (rare, 1)],
                    };
                    barrier.wait();
                    shop.try_order(customer, &items).status
                })
            })
            .collect();
        let customers = customers.into_iter();
        customers
            .map(|one| one.join().expect("a customer"))
            .collect()
    });
    let count = |status: u16| statuses.iter().filter(|one| **one == status).count();
    assert_eq!((count(201), count(409)), (20, 30), "{statuses:?}");
    shop.wait_for_views();
    let product = shop.ask(&format!("/products/{rare}"));
    assert_eq!(
        (&product["stock"], &product["stockStatus"]),
        (&json!(0), &json!("sold out"))
    );
    assert_eq!(shop.ask(&format!("/products/{other}"))["stock"], 980);
    let sales = shop.ask(&format!("/products/{rare}/sales"));
    let query = format!("SELECT sum(total_price) FROM order_item WHERE product_id = {rare}");
    assert_eq!(sales["revenue"], shop.asked(&query));
    assert_eq!(
        (&sales["revenue"], &sales["quantitySold"]),
        (&json!("666.60"), &json!(20))
    );
    remaining_stock_fell_by_one(&sales);
    let query = format!("SELECT sum(total_price) FROM orders WHERE customer_id = {customer}");
    assert_eq!(shop.asked(&query), "668.00");
    let orders = shop.ask(&format!("/customers/{customer}/orders"));
    let orders = orders["orders"].as_array().expect("orders");
    assert!(
        orders.iter().all(|order| order["totalPrice"] == "33.40") && orders.len() == 20,
        "{orders:?}"
    );
    format!("{ITEMS} of {CUSTOMERS} got one, stock 0, 668.00 on both sides")
}

fn remaining_stock_fell_by_one(sales: &Value) {
    let sales = sales["product_sold"].as_array().expect("sales").iter();
    let mut left: Vec<i64> = sales
        .map(|sale| sale["remainingStock"].as_i64().expect("a number"))
        .collect();
    left.sort_unstable();
    assert_eq!(left, (0..i64::from(ITEMS)).collect::<Vec<_>>());
}
