//! The sender of the source, asked by SQL when somebody asks this process: `[source] url`.
//!
//! The sender itself listens on no port, for a worker of the database server is no place for HTTP
//! (`docs/decisions/0019`).

use std::time::Duration;

use change::trouble::Trouble;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::error::{Code, Result, misconfigured};
use crate::sink::postgres::open;
use crate::status::prometheus::{Metrics, Sample, labels};

/// Prometheus waits ten seconds by default.
const TIMEOUT: Duration = Duration::from_secs(5);
const SCHEMA: &str = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_cdc'";

/// The sender, by the views of the extension.
#[derive(Debug)]
pub(crate) struct SourceStatus {
    url: String,
    /// With the extension's schema.
    client: Mutex<Option<(Client, String)>>,
}

/// What the views say.
#[derive(Debug)]
pub(crate) struct Seen {
    /// `pg_stat_cdc`
    pub(crate) sender: Value,
    /// `cdc_tables` of the database, as far as the role may see them.
    pub(crate) tables: Vec<Value>,
}

#[cfg(test)]
impl Seen {
    /// A sender that says everything it can say.
    pub(crate) fn of_everything() -> Seen {
        let columns = FIGURES
            .iter()
            .map(|(column, ..)| ((*column).to_owned(), json!(1)));
        let mut sender: serde_json::Map<String, Value> = columns.collect();
        sender.insert("error_code".into(), json!("code"));
        let table = json!({"table": "t", "topic": "shop.public.t", "events": 3, "warning": null});
        Seen {
            sender: Value::Object(sender),
            tables: vec![table],
        }
    }
}

impl SourceStatus {
    /// None if there is no URL.
    pub(crate) fn new(url: &str) -> Option<SourceStatus> {
        (!url.is_empty()).then(|| SourceStatus {
            url: url.to_owned(),
            client: Mutex::new(None),
        })
    }

    /// Asks; connects first where there is no connection.
    pub(crate) async fn look(&self) -> Result<Seen> {
        let mut client = self.client.lock().await;
        let looked = tokio::time::timeout(TIMEOUT, async {
            let (client, schema) = match client.take() {
                Some(connected) => connected,
                None => connect(&self.url).await?,
            };
            let seen = ask(&client, &schema).await?;
            Ok((seen, (client, schema)))
        })
        .await;
        let (seen, connected) = looked.unwrap_or_else(|_| {
            Err(Trouble::new(
                Code::Unreachable,
                format!("source: no answer within {} s", TIMEOUT.as_secs()),
                "See whether the source's server is overloaded or stopped.",
            ))
        })?;
        *client = Some(connected);
        Ok(seen)
    }
}

async fn connect(url: &str) -> Result<(Client, String)> {
    let client = open(url, "source", "source.url").await?;
    let row = client
        .query_opt(SCHEMA, &[])
        .await
        .map_err(|error| refused(&error))?;
    let schema = row.map(|row| row.get(0)).ok_or_else(|| {
        misconfigured(
            "source: extension pg_cdc is not in this database",
            "Name the database of the tracked tables in source.url.",
        )
    })?;
    Ok((client, schema))
}

async fn ask(client: &Client, schema: &str) -> Result<Seen> {
    let sender = format!(
        "SELECT pg_catalog.to_jsonb(s)::text FROM (
            SELECT s.*, EXTRACT(epoch FROM s.oldest_transaction)::float8 AS oldest_transaction_seconds FROM {schema}.pg_stat_cdc s) s"
    );
    let tables = format!(
        "SELECT pg_catalog.to_jsonb(t)::text FROM (
            SELECT relation::text AS \"table\", topic, state, events, bytes, warning FROM {schema}.cdc_tables) t"
    );
    let mut read = Vec::new();
    for sql in [sender, tables] {
        let rows = client
            .query(&sql, &[])
            .await
            .map_err(|error| refused(&error))?;
        let values = rows.iter().map(|row| {
            serde_json::from_str(row.get(0)).map_err(|error| {
                misconfigured(
                    format!("source: {error}"),
                    "Use the version of companion-sink that belongs to the extension.",
                )
            })
        });
        read.push(values.collect::<Result<Vec<Value>>>()?);
    }
    let tables = read.pop().unwrap_or_default();
    let sender = read.pop().unwrap_or_default().pop();
    Ok(Seen {
        sender: sender.unwrap_or_default(),
        tables,
    })
}

fn refused(error: &tokio_postgres::Error) -> Trouble {
    match error.as_db_error() {
        Some(refused) => misconfigured(
            format!("source: {}", refused.message()),
            "GRANT pg_monitor TO the role of source.url.",
        ),
        None => Trouble::new(
            Code::Unreachable,
            format!("source: {error}"),
            "Start the source's server, or correct source.url.",
        ),
    }
}

/// `source` of `/v1/status`.
pub(crate) fn status(looked: &Result<Seen>) -> Value {
    match looked {
        Ok(seen) => json!({ "sender": seen.sender, "tables": seen.tables }),
        Err(error) => {
            json!({ "error": { "code": error.code.to_string(), "message": error.message, "hint": error.remedy } })
        }
    }
}

/// Appends what is known of the sender. Prometheus computes rates itself.
pub(crate) fn put_metrics(metrics: &mut Metrics, looked: &Result<Seen>) {
    let up = f64::from(u8::from(looked.is_ok()));
    metrics.family(
        "pg_cdc_up",
        "gauge",
        "Whether the source answered.",
        vec![(String::new(), up)],
    );
    let Ok(Seen { sender, tables }) = looked else {
        return;
    };
    let text = |name: &str| sender[name].as_str().unwrap_or_default().to_owned();
    let info = [
        ("source_name", text("source_name")),
        ("source_id", text("source_id")),
        ("version", text("version")),
    ];
    let info = info.each_ref().map(|(name, value)| (*name, value.as_str()));
    metrics.family(
        "pg_cdc_info",
        "gauge",
        "Who it is.",
        vec![(labels(&info), 1.0)],
    );
    metrics.family(
        "pg_cdc_state",
        "gauge",
        "1, with the state that the sender is in.",
        vec![(labels(&[("state", &text("state"))]), 1.0)],
    );
    let error_code = text("error_code");
    let error = (!error_code.is_empty()).then(|| (labels(&[("code", &error_code)]), 1.0));
    metrics.family(
        "pg_cdc_error",
        "gauge",
        "1, with the code of the last error while it lasts.",
        error.into_iter().collect(),
    );
    for (column, name, kind, help) in FIGURES {
        let sample = sender[column].as_f64().map(|value| (String::new(), value));
        metrics.family(name, kind, help, sample.into_iter().collect());
    }
    let per_table = |value: &dyn Fn(&Value) -> f64| -> Vec<Sample> {
        let sample = |table: &Value| {
            let name = |column: &str| table[column].as_str().unwrap_or_default().to_owned();
            let labels = labels(&[("table", &name("table")), ("topic", &name("topic"))]);
            (labels, value(table))
        };
        tables.iter().map(sample).collect()
    };
    metrics.family(
        "pg_cdc_table_events_total",
        "counter",
        "Events of a table that Kafka acknowledged.",
        per_table(&|table| table["events"].as_f64().unwrap_or_default()),
    );
    metrics.family(
        "pg_cdc_table_captured",
        "gauge",
        "1 while the changes of a table are captured.",
        per_table(&|table| f64::from(u8::from(table["warning"].is_null()))),
    );
}

/// Column of `pg_stat_cdc`, name, kind and meaning. What is NULL there is not here.
const FIGURES: [(&str, &str, &str, &str); 18] = [
    (
        "lag_bytes",
        "pg_cdc_lag_bytes",
        "gauge",
        "WAL that is not read yet.",
    ),
    (
        "lag_events",
        "pg_cdc_lag_events",
        "gauge",
        "Events that Kafka has not acknowledged.",
    ),
    (
        "lag_seconds",
        "pg_cdc_lag_seconds",
        "gauge",
        "Age of the oldest commit that is not in Kafka.",
    ),
    (
        "wal_held_bytes",
        "pg_cdc_wal_held_bytes",
        "gauge",
        "WAL that the slot holds.",
    ),
    (
        "wal_limit_bytes",
        "pg_cdc_wal_limit_bytes",
        "gauge",
        "WAL that it may hold.",
    ),
    ("events", "pg_cdc_events_total", "counter", "Events sent."),
    (
        "bytes",
        "pg_cdc_bytes_total",
        "counter",
        "Bytes of their values.",
    ),
    (
        "transactions",
        "pg_cdc_transactions_total",
        "counter",
        "Transactions of the source that are in Kafka.",
    ),
    (
        "open_transactions",
        "pg_cdc_open_transactions",
        "gauge",
        "Transactions with captured rows that are open.",
    ),
    (
        "oldest_transaction_seconds",
        "pg_cdc_oldest_transaction_seconds",
        "gauge",
        "Age of the oldest of them.",
    ),
    ("topics", "pg_cdc_topics", "gauge", "Topics in use."),
    (
        "topics_aside",
        "pg_cdc_topics_aside",
        "gauge",
        "Topics that are put aside.",
    ),
    (
        "brokers_up",
        "pg_cdc_brokers_up",
        "gauge",
        "Brokers that are connected.",
    ),
    (
        "brokers_down",
        "pg_cdc_brokers_down",
        "gauge",
        "Brokers that are not.",
    ),
    (
        "throttle_ms",
        "pg_cdc_throttle_milliseconds",
        "gauge",
        "How long brokers delay for a quota.",
    ),
    (
        "resent",
        "pg_cdc_resent_total",
        "counter",
        "Transactions that were sent again.",
    ),
    (
        "rejected_messages",
        "pg_cdc_rejected_messages_total",
        "counter",
        "Forged or replayed messages.",
    ),
    (
        "uncovered_rows",
        "pg_cdc_uncovered_rows_total",
        "counter",
        "Rows that were not captured.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sender_does_not_say_is_left_out() {
        let seen = Seen {
            sender: json!({"state": "streaming", "lag_bytes": 12, "wal_limit_bytes": null, "error_code": null}),
            tables: vec![
                json!({"table": "t", "topic": "shop.public.t", "events": 3, "warning": null}),
            ],
        };
        let mut metrics = Metrics::default();
        put_metrics(&mut metrics, &Ok(seen));
        let text = metrics.into_text();
        for line in [
            "pg_cdc_up 1",
            "pg_cdc_state{state=\"streaming\"} 1",
            "pg_cdc_lag_bytes 12",
            "pg_cdc_table_events_total{table=\"t\",topic=\"shop.public.t\"} 3",
            "pg_cdc_table_captured{table=\"t\",topic=\"shop.public.t\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            !text.contains("pg_cdc_wal_limit_bytes") && !text.contains("pg_cdc_error"),
            "{text}"
        );
    }
}
