//! What is read of a file, and what is told of mistakes in it.

use super::*;
use crate::config::effect::MailSettings;
use crate::config::file::Kafka;
use crate::config::sink::Kind;
use crate::config::{
    DEFAULT_FILE, IndexSettings, JoinSettings, MongoHistorySettings, MongoViewSettings, OnError,
    PostgresSettings, RuleSettings, SinkSettings, StatisticsSettings, WebhookSettings,
};

const SMALL: &str = "kafka.brokers = \"b:9092\"\n[sink.Replica]\nkind = \"postgres\"\ntopics = [\"*\"]\nurl = \"postgres://u:secret@h/d\"\n";

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Loaded> {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Loaded::parse("f.toml", text, environment)
}

/// The sink of an example, with the defaults of its kind.
fn example(url: &str, kind: Kind) -> SinkSettings {
    let mut sink = SinkSettings {
        enabled: true,
        topics: vec!["shop.public.*".into()],
        batch: Default::default(),
        stuck_after: None,
        url: url.into(),
        url_file: String::new(),
        kind,
    };
    sink.fill_in("");
    sink
}

/// The view of the example.
fn view() -> Kind {
    let join = |table: &str, on: &str, field: &str| JoinSettings {
        table: table.into(),
        on: on.into(),
        field: field.into(),
        ..JoinSettings::default()
    };
    let fields = [("name".to_owned(), "name".into())];
    Kind::MongoView(MongoViewSettings {
        collection: "orders".into(),
        root: "public.orders".into(),
        join: vec![
            JoinSettings {
                many: true,
                order_by: "id".into(),
                ..join("public.order_item", "order_id = id", "items")
            },
            JoinSettings {
                fields: fields.into_iter().collect(),
                ..join("public.customer", "id = customer_id", "customer")
            },
        ],
        indexes: vec![IndexSettings {
            keys: [("customer.name".to_owned(), 1.into())]
                .into_iter()
                .collect(),
            unique: false,
        }],
        ..MongoViewSettings::default()
    })
}

#[test]
fn the_default_file_says_the_default_of_every_key() {
    let replica = Kind::Postgres(PostgresSettings::default());
    let history = Kind::MongoHistory(MongoHistorySettings::default());
    let billing = SinkSettings {
        topics: vec!["shop.public.orders".into()],
        ..example(
            "https://billing.example.org/hook",
            Kind::Webhook(WebhookSettings::default()),
        )
    };
    let welcome = Kind::Mail(MailSettings {
        smtp: "smtp://localhost:25".into(),
        from: "Shop <shop@example.org>".into(),
        to: vec!["{{ after.email }}".into()],
        subject: "Welcome, {{ after.name }}".into(),
        body: "Hello {{ after.name }}".into(),
        ..MailSettings::default()
    });
    let welcome = SinkSettings {
        topics: vec!["shop.public.customer".into()],
        ..example("", welcome)
    };
    let figures = SinkSettings {
        topics: vec!["shop.public.orders".into()],
        ..example("", Kind::Statistics(StatisticsSettings::default()))
    };
    let expected = Config {
        kafka: Kafka {
            brokers: "localhost:9092".into(),
            ..Kafka::default()
        },
        rules: vec![RuleSettings {
            topic: "hr.public.employees".into(),
            name: "salary".into(),
            reject_if: "after.salary > 10000".into(),
            sinks: Vec::new(),
        }],
        sinks: [
            ("billing".into(), billing),
            ("figures".into(), figures),
            (
                "orders".into(),
                example("mongodb://localhost:27017", view()),
            ),
            ("welcome".into(), welcome),
            (
                "history".into(),
                example("mongodb://localhost:27017", history),
            ),
            (
                "replica".into(),
                example("postgres://replica@localhost/shop", replica),
            ),
        ]
        .into(),
        ..Config::default()
    };
    assert_eq!(*parse(DEFAULT_FILE, &[]).unwrap(), expected);
}

#[test]
fn the_default_file_has_every_key() {
    fn keys(table: &toml::Table, path: &str, found: &mut Vec<String>) {
        for (name, value) in table {
            let path = format!("{path}.{name}");
            match value {
                toml::Value::Table(table) if !table.is_empty() => keys(table, &path, found),
                // Instead of the URL beside them, and told of there; what belongs to every sink is told once.
                _ if name == "url_file" => {}
                _ if path == ".sink.replica.enabled" => {}
                _ if path.starts_with(".sink.replica.batch") => {}
                _ if path == ".sink.replica.stuck_after" => {}
                _ if is_told_elsewhere(&path) => {}
                _ => found.push(path),
            }
        }
    }
    /// What belongs to every sink, or to both kinds of effects; no figures have a server.
    fn is_told_elsewhere(path: &str) -> bool {
        const EVERY: [&str; 4] = ["enabled", "batch.rows", "batch.wait", "stuck_after"];
        const EFFECTS: [&str; 9] = [
            "on",
            "when",
            "begin",
            "timeout",
            "retry.initial",
            "retry.max",
            "concurrency",
            "max_waiting",
            "url",
        ];
        let of = |sink: &str| path.strip_prefix(sink);
        let is_of_every = |key: &str| EVERY.contains(&key);
        of(".sink.billing.").is_some_and(is_of_every)
            || of(".sink.orders.").is_some_and(is_of_every)
            || of(".sink.figures.").is_some_and(|key| is_of_every(key) || key == "url")
            || of(".sink.welcome.").is_some_and(|key| is_of_every(key) || EFFECTS.contains(&key))
    }
    let (mut in_file, mut known) = (Vec::new(), Vec::new());
    keys(&DEFAULT_FILE.parse().unwrap(), "", &mut in_file);
    let config = parse(DEFAULT_FILE, &[]).unwrap();
    keys(&toml::Table::try_from(&*config).unwrap(), "", &mut known);
    in_file.sort();
    known.sort();
    assert_eq!(in_file, known);
}

#[test]
fn what_is_printed_is_read_as_the_same() {
    let more = "tables = {\"public.a b\" = \"x.y\"}\n[[rule]]\ntopic = \"*\"\nname = \"a\"\nreject_if = 'op == \"d\"'\n";
    let config = parse(&(SMALL.replace("u:secret@", "") + more), &[]).unwrap();
    let printed = toml::to_string(&*config).unwrap();
    assert_eq!(parse(&printed, &[]).unwrap(), config, "{printed}");
}

#[test]
fn the_environment_overrides() {
    let config = parse(
        SMALL,
        &[
            ("SINK__REPLICA__URL", "postgres://other/x"),
            ("SINK__REPLICA__BATCH__ROWS", "5"),
            ("KAFKA__FETCH_MEMORY", "1MB"),
        ],
    )
    .unwrap();
    assert_eq!(config.sinks["Replica"].url.reveal(), "postgres://other/x");
    assert_eq!(config.sinks["Replica"].batch_rows(), 5);
    assert_eq!(config.kafka.fetch_memory, 1 << 20);
    let error = parse(SMALL, &[("SINK__REPLICA__URRL", "x")]).unwrap_err();
    assert!(error.message.contains("did you mean \"url\"?"), "{error}");
}

#[test]
fn what_is_required_is_named() {
    let text = |text: &str| parse(text, &[]).unwrap_err().message;
    assert!(text("").contains("kafka.brokers is missing"));
    assert!(text("kafka.brokers = \"b\"").contains("[sink.NAME] is missing"));
    assert!(text("kafka.brokers = \"b\"\n[sink.a]\n").contains("sink.a.kind is missing"));
    assert!(
        text(&SMALL.replace("topics = [\"*\"]", "")).contains("sink.Replica.topics is missing")
    );
    let own = SMALL.replace("\"postgres\"", "\"mongo_history\"\ndatabase = \"admin\"");
    assert!(text(&own).contains("MongoDB's own"));
    let tables = SMALL.to_owned() + "tables = {\"public.customer\" = \"kunde\"}\n";
    assert!(text(&tables).contains("\"kunde\" is not schema.table"));
}

#[test]
fn what_effects_need_is_named() {
    const WEBHOOK: &str = "kafka.brokers = \"b\"\n[sink.a]\nkind = \"webhook\"\ntopics = [\"*\"]\nurl = \"https://h/\"\n";
    const MAIL: &str = "kafka.brokers = \"b\"\n[sink.a]\nkind = \"mail\"\ntopics = [\"*\"]\nsmtp = \"smtp://h\"\nfrom = \"a@b.c\"\nto = \"a@b.c\"\nsubject = \"s\"\nbody = \"b\"\n";
    let text = |text: &str| parse(text, &[]).unwrap_err().message;
    assert!(parse(WEBHOOK, &[]).is_ok() && parse(MAIL, &[]).is_ok());
    for (of, more, told) in [
        (WEBHOOK, "on = []", "sink.a.on is empty"),
        (WEBHOOK, "on = [\"x\"]", "f.toml:6:"),
        (WEBHOOK, "wehn = \"true\"", "did you mean \"when\"?"),
        (WEBHOOK, "retry = { first = \"1s\" }", "first"),
        (
            WEBHOOK,
            "retry = { initial = \"10m\" }",
            "max below its initial",
        ),
        (WEBHOOK, "timeout = \"0s\"", "of 0"),
        (WEBHOOK, "concurrency = 0", "takes a whole number from 1 on"),
        (
            MAIL,
            "url = \"https://h/\"",
            "sink.a.url is no key of a mail sink",
        ),
    ] {
        let told_really = text(&format!("{of}{more}\n"));
        assert!(told_really.contains(told), "{more}: {told_really}");
    }
    for key in ["smtp", "from", "to", "subject", "body"] {
        let lines = MAIL.lines().filter(|line| !line.starts_with(key));
        let without: Vec<&str> = lines.collect();
        let told = text(&without.join("\n"));
        assert!(told.contains(&format!("sink.a.{key} is missing")), "{told}");
    }
    let name = WEBHOOK.replace("[sink.a]", "[sink.\"ä\"]");
    assert!(text(&name).contains("cannot be the name"));
}

#[test]
fn what_becomes_of_a_refused_event_depends_on_the_consistency() {
    let on_error = |more: &str| {
        let config = parse(&(SMALL.to_owned() + more), &[]).unwrap();
        match &config.sinks["Replica"].kind {
            Kind::Postgres(postgres) => postgres.on_error(),
            _ => panic!("a replica"),
        }
    };
    assert_eq!(on_error(""), OnError::Halt);
    assert_eq!(on_error("consistency = \"row\"\n"), OnError::Park);
    assert_eq!(on_error("on_error = \"park\"\n"), OnError::Park);
}

#[test]
fn a_running_process_takes_rules_and_secrets_and_nothing_else() {
    let rule = "[[rule]]\ntopic = \"*\"\nname = \"a\"\nreject_if = \"true\"\n";
    let running = parse(SMALL, &[]).unwrap();
    let mut read = parse(&(SMALL.to_owned() + rule), &[]).unwrap();
    assert_eq!(running.with_live_parts_of(&read), read);
    read.config.kafka.brokers = "other".into();
    let next = running.with_live_parts_of(&read);
    assert_eq!((next.rules.len(), &*next.kafka.brokers), (1, "b:9092"));
    let mut of_file = running.clone();
    for config in [&mut read, &mut of_file] {
        config.config.sinks.get_mut("Replica").unwrap().url_file = "secret".into();
    }
    read.config.sinks.get_mut("Replica").unwrap().url = "postgres://new".into();
    let url = |config: Loaded| config.sinks["Replica"].url.reveal().to_owned();
    assert_eq!(url(of_file.with_live_parts_of(&read)), "postgres://new");
    assert_ne!(url(running.with_live_parts_of(&read)), "postgres://new");
}

#[test]
fn no_password_is_printed() {
    let source = ("SOURCE__URL", "postgres://u:secret@h/d");
    let config = parse(SMALL, &[source]).unwrap();
    let printed = toml::to_string(&*config).unwrap();
    assert!(printed.contains("url = \"postgres://h/d\""), "{printed}");
    let debug = format!("{config:?}");
    assert!(
        !printed.contains("secret") && !debug.contains("secret"),
        "{printed} {debug}"
    );
}

#[test]
fn a_command_that_needs_only_kafka_looks_at_nothing_else() {
    let parse = |text: &str| {
        let environment = std::iter::empty();
        Loaded::parse_for("f.toml", text, environment, NeededParts::Kafka)
    };
    let more = "http.token_file = \"/nowhere\"\n[sink.a]\nkind = \"postgres\"\n";
    for text in ["", more] {
        let config = parse(&format!("kafka.brokers = \"b\"\n{text}")).unwrap();
        assert_eq!(config.kafka.brokers, "b");
    }
    let error = parse(more).unwrap_err();
    assert!(
        error.message.contains("kafka.brokers is missing"),
        "{error}"
    );
}
