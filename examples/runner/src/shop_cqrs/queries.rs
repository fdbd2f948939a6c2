//! Questions over HTTP.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pg_cdc_tests::wait_until;
use serde_json::{Value, json};

use super::system::ShopCqrs;
use crate::service::Answer;

const TIMEOUT: Duration = Duration::from_secs(60);

impl ShopCqrs {
    /// What each query service answers.
    fn answers(&self, path: &str) -> Vec<Answer> {
        let services = self.queries.iter().flatten();
        services
            .map(|service| service.ask("GET", path, &[]))
            .collect()
    }

    /// What the query services answer, which is the same while nothing arrives.
    pub(super) fn query(&self, path: &str) -> Answer {
        let mut answers = self.answers(path);
        let answer = answers.pop().expect("a query service");
        for other in answers {
            assert_eq!(
                (answer.status, &answer.body),
                (other.status, &other.body),
                "{path}"
            );
        }
        answer
    }

    /// As [`ShopCqrs::query`], of something that is there.
    pub(super) fn ask(&self, path: &str) -> Value {
        let answer = self.query(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    }

    /// Waits until the figures are what the command side says; how many days there are.
    pub(super) fn wait_for_revenue(&self) -> usize {
        let query = "SELECT coalesce(jsonb_agg(d ORDER BY period), '[]') FROM (
                SELECT to_char(ordered_at AT TIME ZONE 'Europe/Zurich', 'YYYY-MM-DD') AS period,
                    count(*) AS orders, sum(total_price)::text AS revenue
                FROM orders GROUP BY 1) d";
        let expected: Value = serde_json::from_str(&self.asked(query)).expect("JSON");
        wait_until("the revenue to be as the command side", TIMEOUT, || {
            let answers = self.answers("/revenue");
            match answers.iter().all(|answer| answer.body["rows"] == expected) {
                true => Ok(()),
                false => Err(format!("{answers:?} is not {expected}")),
            }
        });
        expected.as_array().map_or(0, Vec::len)
    }
}

pub(super) fn are_answered(shop: &ShopCqrs) -> String {
    let customer = shop.customer("Zoe", "zoe@example.org");
    let product = shop.product("Rug", "10.10", 9);
    let orders = [1, 2, 4].map(|quantity| shop.order(customer, &[(product, quantity)]));
    shop.owner(&[
        &format!(
            "UPDATE orders SET ordered_at = ordered_at - interval '1 day' WHERE id = {}",
            orders[0]
        ),
        &format!(
            "UPDATE orders SET ordered_at = '2026-02-28 23:30Z' WHERE id = {}",
            orders[1]
        ),
    ]);
    shop.wait_for_views();
    let path = format!("/customers/{customer}/orders");
    let found = shop.ask(&path);
    let numbers = |found: &Value| -> Vec<i64> {
        let found = found["orders"].as_array().expect("orders").iter();
        found
            .map(|order| order["orderId"].as_i64().expect("a number"))
            .collect()
    };
    assert_eq!(numbers(&found), orders);
    assert_eq!(
        found["orders"][1]["customer"],
        json!({"$ref": "customers", "$id": customer})
    );
    let first = shop.ask(&format!("{path}?limit=2"));
    assert_eq!(numbers(&first), orders[..2]);
    let next = first["next"].as_str().expect("a next page");
    let last = shop.ask(&format!("{path}?limit=2&after={next}"));
    assert_eq!(
        (numbers(&last), &last["next"]),
        (orders[2..].to_vec(), &Value::Null)
    );
    let order = shop.ask(&format!("/orders/{}", orders[2]));
    assert_eq!(order["totalPrice"], "40.40");
    assert_eq!(
        order["items"],
        json!([{"productId": product, "quantity": 4, "price": "10.10", "totalPrice": "40.40"}])
    );
    let sales = shop.ask(&format!("/products/{product}/sales?limit=1"));
    assert_eq!(
        (&sales["revenue"], &sales["quantitySold"]),
        (&json!("70.70"), &json!(7))
    );
    let low = shop.ask("/products/low");
    let low = low["products"].as_array().expect("products");
    let expected =
        "SELECT coalesce(jsonb_agg(id ORDER BY stock, id), '[]') FROM product WHERE stock < 10";
    let ids: Vec<&Value> = low.iter().map(|product| &product["productId"]).collect();
    assert_eq!(
        json!(ids).to_string().replace(',', ", "),
        shop.asked(expected)
    );
    let days = shop.wait_for_revenue();
    // It was March in Zurich.
    let march = shop.ask("/revenue?from=2026-03-01&to=2026-03-02");
    assert_eq!(
        march["rows"],
        json!([{"period": "2026-03-01", "orders": 1, "revenue": "20.20"}])
    );
    assert!(days >= 3, "{days}");
    bad_questions_are_problems(shop);
    format!("{} products low, {days} days", low.len())
}

fn bad_questions_are_problems(shop: &ShopCqrs) {
    for (status, wrong) in [
        (400, "/orders?limit=0"),
        (400, "/orders?lmit=1"),
        (400, "/orders/x"),
        (400, "/revenue?from=yesterday"),
        (404, "/nothing"),
    ] {
        let answer = shop.query(wrong);
        assert_eq!(answer.status, status, "{wrong}: {answer:?}");
        assert!(answer.body["detail"].is_string(), "{wrong}: {answer:?}");
    }
}

/// One of the two is killed, while somebody asks the other.
pub(super) fn survive_a_kill(shop: &mut ShopCqrs) -> String {
    let before = shop.ask("/orders?limit=1000");
    let (killed, other) = shop.queries.split_at_mut(1);
    let killed = killed[0].take().expect("a query service");
    let other = other[0].as_ref().expect("the other one");
    let (is_over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(other.ask("GET", "/orders/1", &[]).status, 200);
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        let answered = || answers.load(Ordering::Relaxed);
        let wait_for_more = |than: usize| {
            wait_until("more answers", TIMEOUT, || match answered() > than {
                true => Ok(()),
                false => Err(answered()),
            });
        };
        wait_for_more(0);
        killed.kill();
        wait_for_more(answered() + 10);
        is_over.store(true, Ordering::Relaxed);
        asker.join().expect("answers");
    });
    shop.start_queries(0);
    assert_eq!(shop.ask("/orders?limit=1000"), before);
    format!("{} answers meanwhile", answers.into_inner())
}
