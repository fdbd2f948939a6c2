//! Commands over HTTP, and what they must not do.

use pg_cdc_tests::statements::run;
use serde_json::{Value, json};

use super::system::ShopCqrs;
use crate::service::Answer;

const ANN: (&str, &str) = ("authorization", "Bearer token-of-ann");

impl ShopCqrs {
    /// What the command service answers to Ann.
    pub(super) fn command(&self, method: &str, path: &str, body: &Value) -> Answer {
        match body {
            Value::Null => self.commands.ask(method, path, &[ANN]),
            body => self.commands.ask_with(method, path, &[ANN], body),
        }
    }

    /// As [`ShopCqrs::command`], of one that is carried out; its answer.
    pub(super) fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.command(method, path, body);
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path} {body}: {answer:?}"
        );
        answer.body
    }

    /// A new customer's number.
    pub(super) fn customer(&self, name: &str, email: &str) -> i64 {
        let created = self.done("POST", "/customers", &json!({"name": name, "email": email}));
        created["customerId"].as_i64().expect("a number")
    }

    /// A new product's number.
    pub(super) fn product(&self, name: &str, price: &str, stock: i32) -> i64 {
        let body = json!({"name": name, "price": price, "stock": stock});
        let created = self.done("POST", "/products", &body);
        created["productId"].as_i64().expect("a number")
    }

    /// The answer to an order of so many of each product.
    pub(super) fn try_order(&self, customer: i64, items: &[(i64, i32)]) -> Answer {
        let items = items.iter();
        let items =
            items.map(|(product, quantity)| json!({"productId": product, "quantity": quantity}));
        let body = json!({"customerId": customer, "items": items.collect::<Vec<_>>()});
        self.command("POST", "/orders", &body)
    }

    /// A new order's number.
    pub(super) fn order(&self, customer: i64, items: &[(i64, i32)]) -> i64 {
        let answer = self.try_order(customer, items);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["orderId"].as_i64().expect("a number")
    }

    /// What the command side is, in one text.
    fn command_side(&self) -> String {
        self.asked(
            "SELECT jsonb_build_array((SELECT jsonb_agg(c ORDER BY id) FROM customer c), (SELECT jsonb_agg(p ORDER BY id) FROM product p),
                 (SELECT jsonb_agg(o ORDER BY id) FROM orders o), (SELECT jsonb_agg(i ORDER BY order_id, product_id) FROM order_item i))",
        )
    }
}

pub(super) fn are_refused(shop: &ShopCqrs) -> String {
    let before = shop.command_side();
    let item = |product: i64, quantity: i64| json!({"customerId": 1, "items": [{"productId": product, "quantity": quantity}]});
    let product = |price: Value, stock: i64| json!({"name": "Bed", "price": price, "stock": stock});
    let wrong = [
        (422, "/orders", item(77, 1)),
        (422, "/orders", item(1, 0)),
        (422, "/orders", item(1, -1)),
        (409, "/orders", item(1, 1000)),
        (
            422,
            "/orders",
            json!({"customerId": 77, "items": [{"productId": 1, "quantity": 1}]}),
        ),
        (422, "/orders", json!({"customerId": 1, "items": []})),
        (422, "/orders", json!({"customerId": 1})),
        (
            422,
            "/orders",
            json!({"customerId": 1, "items": [{"productId": 1, "quantity": 1, "price": "0.01"}]}),
        ),
        (422, "/products", product(json!(19.9), 1)),
        (422, "/products", product(json!("19.999"), 1)),
        (422, "/products", product(json!("-1.00"), 1)),
        (422, "/products", product(json!("99999999999.00"), 1)),
        (422, "/products", product(json!("1.00"), -1)),
        (
            422,
            "/customers",
            json!({"name": "", "email": "x@example.org"}),
        ),
        (422, "/customers", json!({"name": "X", "email": "nowhere"})),
        (
            409,
            "/customers",
            json!({"name": "X", "email": "ann@example.org"}),
        ),
        (422, "/products/1/deliveries", json!({"quantity": 0})),
        (404, "/products/77/deliveries", json!({"quantity": 1})),
        (400, "/products/x/deliveries", json!({"quantity": 1})),
    ];
    for (status, path, body) in &wrong {
        let answer = shop.command("POST", path, body);
        assert_eq!(answer.status, *status, "POST {path} {body}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    let nobody = shop.commands.ask_with("POST", "/orders", &[], &item(1, 1));
    assert_eq!(nobody.status, 401, "{nobody:?}");
    for path in ["/orders/77", "/customers/77", "/products/77"] {
        assert_eq!(
            shop.command("DELETE", path, &Value::Null).status,
            404,
            "{path}"
        );
    }
    assert_eq!(before, shop.command_side());
    format!("{} refused", wrong.len() + 4)
}

pub(super) fn rights_of_the_service(shop: &ShopCqrs) -> String {
    let server = shop.place.bed().source();
    let mut service = server.connect_as("shop_commands", shop.database.name());
    let forbidden = [
        "UPDATE orders SET total_price = 0",
        "INSERT INTO orders (customer_id, total_price) VALUES (1, 0)",
        "INSERT INTO order_item (order_id, product_id, quantity, price) VALUES (2, 2, 1, 0)",
        "UPDATE order_item SET quantity = 1",
        "UPDATE product SET stock_status = 'available'",
        "SELECT tell('product-sold', '1', '{}')",
        "SELECT cdc_emit('shop_cqrs.product-sold', '1', '{}')",
        "TRUNCATE order_item",
    ];
    for statement in forbidden {
        assert!(
            service.batch_execute(statement).is_err(),
            "{statement} is allowed"
        );
    }
    // Without place_order as well, the database sells no more than there is, at the product's price.
    let oversold = service.batch_execute(
        "INSERT INTO order_item (order_id, product_id, quantity) VALUES (2, 2, 1000)",
    );
    let oversold = oversold.expect_err("more than there is");
    let constraint = oversold.as_db_error().and_then(|error| error.constraint());
    assert_eq!(constraint, Some("never_oversold"), "{oversold:?}");
    run(
        &mut service,
        &[
            "BEGIN",
            "INSERT INTO order_item (order_id, product_id, quantity) VALUES (2, 2, 2)",
        ],
    );
    let query = "SELECT total_price::text FROM orders WHERE id = 2";
    let total: String = service.query_one(query, &[]).expect(query).get(0);
    assert_eq!(total, "307.90");
    run(&mut service, &["ROLLBACK"]);
    let mut owner = shop.database.source();
    run(&mut owner, &["SET ROLE shop_owner"]);
    let changed = owner.batch_execute("UPDATE order_item SET quantity = 1 WHERE order_id = 1");
    assert!(changed.is_err(), "what was sold was changed");
    format!("{} statements refused", forbidden.len() + 2)
}

pub(super) fn deletes(shop: &ShopCqrs) -> String {
    let customer = shop.customer("Eva", "eva@example.org");
    let product = shop.product("Vase", "15.05", 4);
    let order = shop.order(customer, &[(product, 4)]);
    let path = |of: &str, id: i64| format!("/{of}/{id}");
    let refused = shop.command("DELETE", &path("customers", customer), &Value::Null);
    assert_eq!(refused.status, 409, "{refused:?}");
    let refused = shop.command("DELETE", &path("products", product), &Value::Null);
    assert_eq!(refused.status, 409, "{refused:?}");
    shop.wait_for_views();
    assert_eq!(
        shop.ask(&path("products", product))["stockStatus"],
        "sold out"
    );
    shop.done("DELETE", &path("orders", order), &Value::Null);
    assert_eq!(
        shop.command("DELETE", &path("orders", order), &Value::Null)
            .status,
        404
    );
    shop.wait_for_views();
    assert_eq!(shop.ask(&path("products", product))["stock"], 4);
    assert_eq!(
        shop.ask(&format!("/products/{product}/sales"))["revenue"],
        "0.00"
    );
    assert_eq!(shop.query(&path("orders", order)).status, 404);
    shop.done("DELETE", &path("customers", customer), &Value::Null);
    shop.done("DELETE", &path("products", product), &Value::Null);
    shop.wait_for_views();
    for gone in [path("customers", customer), path("products", product)] {
        assert_eq!(shop.query(&gone).status, 404, "{gone}");
    }
    String::new()
}

pub(super) fn later_price(shop: &ShopCqrs) -> String {
    let customer = shop.customer("Leo", "leo@example.org");
    let product = shop.product("Mirror", "80.00", 5);
    let order = shop.order(customer, &[(product, 2)]);
    let dearer = json!({"name": "Golden mirror", "price": "99.95"});
    shop.done("PUT", &format!("/products/{product}"), &dearer);
    let later = shop.order(customer, &[(product, 1)]);
    shop.wait_for_views();
    assert_eq!(
        shop.ask(&format!("/orders/{order}"))["totalPrice"],
        "160.00"
    );
    assert_eq!(
        shop.ask(&format!("/orders/{order}"))["items"][0]["price"],
        "80.00"
    );
    assert_eq!(shop.ask(&format!("/orders/{later}"))["totalPrice"], "99.95");
    assert_eq!(
        shop.ask(&format!("/products/{product}"))["productPrice"],
        "99.95"
    );
    let sales = shop.ask(&format!("/products/{product}/sales"));
    assert_eq!(sales["revenue"], "259.95", "{sales}");
    let mut names: Vec<&str> = Vec::new();
    for sale in sales["product_sold"].as_array().expect("sales") {
        names.push(sale["productName"].as_str().expect("a name"));
    }
    names.sort_unstable();
    assert_eq!(names, ["Golden mirror", "Mirror"], "{sales}");
    String::new()
}
