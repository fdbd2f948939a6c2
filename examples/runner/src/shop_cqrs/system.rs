//! What runs: the two databases, companion-sink between them, and the services.

use pg_cdc_tests::Database;
use pg_cdc_tests::companion_sink::CompanionSink;
use pg_cdc_tests::statements::run;

use crate::bed;
use crate::place::Place;
use crate::service::Service;

/// The source's database, and that of the read models.
pub(super) const DATABASE: &str = "shop_cqrs";

/// The shop, running.
pub(super) struct ShopCqrs {
    pub(super) place: Place,
    pub(super) database: Database<'static>,
    pub(super) sink: CompanionSink,
    pub(super) commands: Service,
    /// Two of them; none while one is down.
    pub(super) queries: [Option<Service>; 2],
    query_ports: [u16; 2],
}

impl ShopCqrs {
    /// Starts all of it, with nothing in it.
    pub(super) fn start(place: Place) -> ShopCqrs {
        let bed = place.bed();
        let database = place.database(DATABASE);
        for file in ["1-tables.sql", "2-events.sql", "3-commands.sql"] {
            place.run_sql(&mut database.source(), &format!("sql/{file}"));
        }
        let mongo = bed.ferretdb().url();
        let store = place.own("figures").display().to_string();
        let mut variables = vec![("COMPANION_SINK__SINK__REVENUE__STORE", store.as_str())];
        for sink in ["CUSTOMERS", "PRODUCTS", "ORDERS", "PRODUCT_SOLD"] {
            let name: &'static str = format!("COMPANION_SINK__SINK__{sink}__URL").leak();
            variables.push((name, &mongo));
        }
        let http_port = bed::port("PG_CDC_HTTP_PORT", 18480);
        let sink = place.companion_sink("companion-sink", &variables, http_port);
        sink.start();
        let commands_port = bed::port("PG_CDC_SERVICE_PORT", 18080);
        let query_ports = [
            bed::port("PG_CDC_QUERIES_PORT", 18081),
            bed::port("PG_CDC_OTHER_QUERIES_PORT", 18082),
        ];
        let mut shop = ShopCqrs {
            commands: start_commands(place, commands_port),
            queries: [None, None],
            query_ports,
            place,
            database,
            sink,
        };
        shop.start_queries(0);
        shop.start_queries(1);
        shop
    }

    /// Starts, or starts again, one of the two query services.
    pub(super) fn start_queries(&mut self, which: usize) {
        let bed = self.place.bed();
        let token = self.sink.config_file().with_extension("token");
        let variables = [
            ("MONGODB_URL", bed.ferretdb().url()),
            ("MONGODB_DATABASE", DATABASE.to_owned()),
            ("FIGURES_URL", self.sink.http_url()),
            ("FIGURES_TOKEN_FILE", token.display().to_string()),
        ];
        let variables = variables
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let folder = self.place.own("services");
        let service = Service::start("shop-queries", self.query_ports[which], &variables, &folder);
        self.queries[which] = Some(service);
    }

    /// Statements of the tables' owner, each in a transaction of its own.
    pub(super) fn owner(&self, statements: &[&str]) {
        let mut client = self.database.source();
        run(&mut client, &["SET ROLE shop_owner"]);
        run(&mut client, statements);
    }
}

/// The command service, which is the role `shop_commands`.
fn start_commands(place: Place, port: u16) -> Service {
    let server = place.bed().source().port();
    let url = format!(
        "host=127.0.0.1 port={server} user=shop_commands dbname={DATABASE} application_name=shop-commands"
    );
    let tokens = place.file("tokens").display().to_string();
    let variables = [("DATABASE_URL", url.as_str()), ("TOKENS_FILE", &tokens)];
    Service::start("shop-commands", port, &variables, &place.own("services"))
}
