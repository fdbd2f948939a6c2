//! Commands in PostgreSQL, questions to MongoDB: what the one side committed, the other says.

mod commands;
mod domain_events;
mod load;
mod queries;
mod rebuild;
mod sides;
mod system;

use serde_json::json;

use crate::example::{Example, Kind, Look};
use crate::outcomes::Outcomes;
use crate::place::Place;
use system::{DATABASE, ShopCqrs};

/// The example.
pub(crate) const KIND: Kind = Kind {
    name: "shop-cqrs",
    what: "commands in PostgreSQL, domain events, read models in MongoDB: two services that scale apart",
    start: |bed| {
        let shop = ShopCqrs::start(Place::of(bed, "shop-cqrs"));
        have_something_to_look_at(&shop);
        Box::new(shop)
    },
};

/// A few customers, products and orders.
fn have_something_to_look_at(shop: &ShopCqrs) {
    let ann = shop.customer("Ann Meier", "ann@example.org");
    let max = shop.customer("Max Huber", "max@example.org");
    let lamp = shop.product("Lamp", "49.90", 12);
    let chair = shop.product("Chair", "129.00", 3);
    shop.product("Table", "399.50", 25);
    shop.order(ann, &[(lamp, 2), (chair, 1)]);
    shop.order(max, &[(lamp, 1)]);
    shop.wait_for_views();
    shop.wait_for_revenue();
}

impl Example for ShopCqrs {
    fn look(&self) -> Vec<Look> {
        let queries = self
            .queries
            .iter()
            .flatten()
            .next()
            .expect("a query service")
            .url();
        let commands = self.commands.url();
        let script = self.place.script("companion-sink");
        let order = json!({"customerId": 1, "items": [{"productId": 2, "quantity": 2}]});
        let ann = "Authorization: Bearer token-of-ann";
        vec![
            Look::at(
                "orders of a customer",
                format!("{queries}/customers/1/orders"),
            ),
            Look::at("sales of a product", format!("{queries}/products/1/sales")),
            Look::at("products low in stock", format!("{queries}/products/low")),
            Look::at("revenue by day", format!("{queries}/revenue")),
            Look::at(
                "one more order",
                format!("curl -H '{ann}' -d '{order}' {commands}/orders"),
            ),
            Look::at(
                "domain events",
                format!("{script} topic tail {DATABASE}.product-sold -f"),
            ),
            Look::at("a view built anew", format!("{script} rebuild orders")),
            Look::at("what companion-sink does", self.sink.http_url()),
            Look::at(
                "the command side",
                format!(
                    "psql -h 127.0.0.1 -p {} -U postgres {DATABASE}",
                    self.place.bed().source().port()
                ),
            ),
        ]
    }

    fn check(&mut self, outcomes: &mut Outcomes<'_>) {
        outcomes.check(
            "bad commands are 4xx problems and leave nothing behind",
            || commands::are_refused(self),
        );
        outcomes.check(
            "the service's role can write no price, total or event of its own",
            || commands::rights_of_the_service(self),
        );
        outcomes.check(
            "mixed commands while companion-sink is killed: both sides agree",
            || load::mixed(self),
        );
        outcomes.check(
            "50 customers, the last 20 items: never oversold, equal to the cent",
            || load::last_items(self),
        );
        outcomes.check(
            "questions: orders, sales, low in stock, revenue by day",
            || queries::are_answered(self),
        );
        outcomes.check(
            "deletes: refused with orders, else gone; an order gives back its stock",
            || commands::deletes(self),
        );
        outcomes.check(
            "another price and name later leave what was sold as it was",
            || commands::later_price(self),
        );
        outcomes.check(
            "orders is built anew while orders come, and readers always have it",
            || rebuild::under_load(self),
        );
        outcomes.check(
            "a query service is killed and started again; the other one answers",
            || queries::survive_a_kill(self),
        );
        outcomes.check(
            "domain events in order are what was committed; none of rolled back orders",
            || domain_events::are_what_was_committed(self),
        );
        outcomes.check(
            "at the end all documents equal the SQL of the command side",
            || sides::agree(self),
        );
    }
}
