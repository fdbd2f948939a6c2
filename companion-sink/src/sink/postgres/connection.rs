//! The connection to the target, and how its session is set.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use change::trouble::Trouble;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Notification, SimpleQueryMessage, Statement};

use crate::error::{Code, Result, misconfigured};
use crate::sink::postgres::failure::{Fault, classify, sort};
use crate::sink::postgres::parked::decisions::CHANNEL;
use crate::sink::postgres::verification::Verification;

/// Where instances tell each other that there is something to look at; the payload is the sink.
pub(crate) const INSTANCES_CHANNEL: &str = "companion_sink_instances";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Values are read in one form; our few simple statements always use an index where there is one, also when they were
/// planned while the table was empty; a lost commit loses the offsets with it, so it need not be waited for.
const SESSION: &str = "
    SET datestyle = 'ISO, YMD';
    SET intervalstyle = 'postgres';
    SET timezone = 'UTC';
    SET lc_monetary = 'C';
    SET extra_float_digits = 1;
    SET bytea_output = 'hex';
    SET xmloption = 'content';
    SET client_min_messages = 'warning';
    SET lock_timeout = '10s';
    SET statement_timeout = 0;
    SET synchronous_commit = off;
    SET plan_cache_mode = force_generic_plan;
    SET enable_seqscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET jit = off";

/// From now on in a transaction, every statement is checked by itself.
pub(crate) const IMMEDIATE: &str = "SET CONSTRAINTS ALL IMMEDIATE;";

/// A connection with its prepared statements.
pub(crate) struct Session {
    /// The connection.
    pub(crate) client: Arc<Client>,
    statements: HashMap<String, Statement>,
    /// A part of the open transaction was kept, and its savepoint is still there.
    part_is_kept: bool,
    /// Changes of rows, of tables without a key, that the target does not have: those of the open transaction.
    pub(crate) unknown_rows: u64,
    /// Those of them from before its last part.
    unknown_before_part: u64,
    /// The state's schema, quoted, where the newest events of keys are noted (`newest`).
    pub(crate) newest_schema: Option<String>,
    /// The tables that are there for that.
    pub(crate) newest_tables: HashSet<String>,
}

impl Session {
    /// A session on `client`.
    pub(crate) fn new(client: Client) -> Self {
        Session {
            client: Arc::new(client),
            statements: HashMap::new(),
            part_is_kept: false,
            unknown_rows: 0,
            unknown_before_part: 0,
            newest_schema: None,
            newest_tables: HashSet::new(),
        }
    }

    /// Whether [`Session::prepared`] has the statement already.
    pub(crate) fn has_prepared(&self, sql: &str) -> bool {
        self.statements.contains_key(sql)
    }

    /// Begins a transaction and does `more` in it; the first value of the last row that came of it.
    pub(crate) async fn begin(&mut self, more: &str) -> Result<Option<String>> {
        self.part_is_kept = false;
        self.unknown_rows = 0;
        let answers = self.client.simple_query(&format!("BEGIN; {more}")).await;
        let answers = answers.map_err(|error| classify("opening a transaction", &error))?;
        let value = answers.iter().rev().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(value.map(str::to_owned))
    }

    /// The statement that begins a part of the open transaction which can be undone by itself. There is one at a time.
    pub(crate) fn begin_part(&mut self) -> &'static str {
        self.unknown_before_part = self.unknown_rows;
        match std::mem::take(&mut self.part_is_kept) {
            true => "RELEASE SAVEPOINT part; SAVEPOINT part",
            false => "SAVEPOINT part",
        }
    }

    /// Keeps what was done since the part began.
    pub(crate) fn keep_part(&mut self) {
        // Its savepoint goes with the next part, or with the transaction: no round trip of its own.
        self.part_is_kept = true;
    }

    /// Undoes what was done since the part began.
    pub(crate) async fn undo_part(&mut self) -> Result<()> {
        self.unknown_rows = self.unknown_before_part;
        self.execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
            .await
    }

    /// Has the deferred constraints of the target checked now, of what the open transaction has done.
    pub(crate) async fn check_constraints(&self) -> std::result::Result<(), Fault> {
        let checked = self.client.batch_execute(IMMEDIATE).await;
        checked.map_err(|error| sort("checking deferred constraints", &error))
    }

    /// As [`Session::check_constraints`]; what does not hold.
    pub(crate) async fn doubt(&self) -> Result<Option<ConstraintDoubt>> {
        let done = self.client.batch_execute(IMMEDIATE).await;
        done.map_or_else(
            |error| ConstraintDoubt::of("checking deferred constraints", &error),
            |()| Ok(None),
        )
    }

    /// Commits; what the target refuses that for.
    pub(crate) async fn commit(&self) -> Result<Option<ConstraintDoubt>> {
        let done = self.client.batch_execute("COMMIT").await;
        done.map_or_else(|error| ConstraintDoubt::of("COMMIT", &error), |()| Ok(None))
    }

    /// Runs statements that concern the transaction.
    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        let done = self.client.batch_execute(sql).await;
        done.map_err(|error| classify(sql, &error))
    }

    /// The prepared statement of `sql`, whose parameters have `types` (those left out are the server's choice).
    pub(crate) async fn prepared(
        &mut self,
        sql: &str,
        types: &[Type],
    ) -> std::result::Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare_typed(sql, types).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// What does not hold at the end of a transaction.
pub(crate) struct ConstraintDoubt {
    /// As it is told.
    pub(crate) fault: Fault,
    /// Schema and table, where the server names one.
    pub(crate) table: Option<(String, String)>,
    /// The server's detail, with values: never to be shown.
    pub(crate) detail: Option<String>,
    /// SQLSTATE, constraint, and which function raised it.
    sign: [Option<String>; 3],
}

impl ConstraintDoubt {
    fn of(doing: &str, error: &tokio_postgres::Error) -> Result<Option<ConstraintDoubt>> {
        let fault = match sort(doing, error) {
            Fault::Other(error) => return Err(error),
            fault => fault,
        };
        let db = error.as_db_error();
        let told = |what: Option<&str>| what.map(str::to_owned);
        Ok(Some(ConstraintDoubt {
            fault,
            table: db.and_then(|db| Some((db.schema()?.to_owned(), db.table()?.to_owned()))),
            detail: db.and_then(|db| told(db.detail())),
            sign: [
                db.map(|db| db.code().code().to_owned()),
                db.and_then(|db| told(db.constraint())),
                db.and_then(|db| told(db.where_())),
            ],
        }))
    }

    /// Whether it is the same that does not hold.
    pub(crate) fn is_same(&self, other: &ConstraintDoubt) -> bool {
        (&self.sign, &self.table, &self.detail) == (&other.sign, &other.table, &other.detail)
    }
}

/// What a connection tells beside the answers.
#[derive(Default)]
pub(crate) struct News {
    /// Somebody decided about a parked event, or the connection ended.
    pub(crate) decided: Notify,
    /// An instance of a sink did something that may concern others.
    pub(crate) others_acted: Notify,
}

/// Connects as the sink `name`; `news` is told what comes.
pub(crate) async fn connect(url: &str, name: &str, news: &Arc<News>) -> Result<Client> {
    let news = Arc::clone(news);
    let key = format!("sink.{name}.url");
    let tell = move |told: Option<&Notification>| match told {
        Some(told) if told.channel() == INSTANCES_CHANNEL => news.others_acted.notify_one(),
        _ => news.decided.notify_one(),
    };
    let client = open_listening(url, name, &key, tell).await?;
    client
        .batch_execute(&format!("{SESSION}; LISTEN {CHANNEL}"))
        .await
        .map_err(|error| classify("setting the session", &error))?;
    Ok(client)
}

/// Connects to the server that the configuration's `key` names, for `name`; the session is as the server has it.
pub(crate) async fn open(url: &str, name: &str, key: &str) -> Result<Client> {
    open_listening(url, name, key, |_| {}).await
}

/// As [`open`]; `notify` is called with each notification, and with none when the connection ends.
async fn open_listening(
    url: &str,
    name: &str,
    key: &str,
    notify: impl Fn(Option<&Notification>) + Send + 'static,
) -> Result<Client> {
    let (url, verification) = Verification::split(url)?;
    let mut config: Config = url.parse().map_err(|_| {
        // The driver's text may quote the URL, and with it the password.
        misconfigured(
            format!("postgres: {key} is not a connection string"),
            "Write postgres://user:password@host:port/database?sslmode=...",
        )
    })?;
    config
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .tcp_user_timeout(DEAD_AFTER);
    if config.get_application_name().is_none() {
        config.application_name(format!("companion-sink {name}"));
    }
    // A server that hangs takes the connection and says nothing.
    let connected = timeout(GREETING_TIMEOUT, config.connect(verification.connector()?));
    let connected = connected.await.map_err(|_| {
        Trouble::new(
            Code::Unreachable,
            format!(
                "postgres: connecting: no answer within {} s",
                GREETING_TIMEOUT.as_secs()
            ),
            "See whether the target's server is overloaded or stopped; it is tried again.",
        )
    })?;
    let (client, mut connection) = connected.map_err(|error| classify("connecting", &error))?;
    let user = name.to_owned();
    tokio::spawn(async move {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(told))) => notify(Some(&told)),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    // Every statement reports the broken connection as well.
                    tracing::debug!(user, %error, "connection ended");
                    break;
                }
                None => break,
            }
        }
        notify(None);
    });
    Ok(client)
}

/// Takes foreign keys and triggers out of the way, where the role may: the source has checked already.
/// Returns whether it may.
pub(crate) async fn become_replica(client: &Client) -> Result<bool> {
    match client
        .batch_execute("SET session_replication_role = replica")
        .await
    {
        Ok(()) => Ok(true),
        Err(error) if error.as_db_error().is_some() => Ok(false),
        Err(error) => Err(classify("setting the session", &error)),
    }
}

/// Makes sure that this is the only active instance of the sink, for as long as the connection lives, or one of those that
/// share its partitions (CDC1009).
pub(crate) async fn become_active(
    client: &Client,
    state_name: &str,
    is_shared: bool,
) -> Result<()> {
    let function = match is_shared {
        true => "pg_try_advisory_lock_shared",
        false => "pg_try_advisory_lock",
    };
    let row = client
        .query_one(
            &format!("SELECT {function}(hashtext('companion-sink'), hashtext($1))"),
            &[&state_name],
        )
        .await
        .map_err(|error| classify("asking for other instances", &error))?;
    if row.get(0) {
        return Ok(());
    }
    Err(Trouble::new(
        Code::OtherInstance,
        format!("postgres: another instance of sink {state_name} is active"),
        "Nothing to do: this one takes over when that is gone.",
    ))
}
