//! Statements sent one by one, and what they answer.

use std::time::Duration;

use postgres::Client;

use crate::wait_until;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs statements one after the other, each sent alone, as a person at a prompt does.
///
/// # Panics
/// When one fails, with its text.
pub fn run(client: &mut Client, statements: &[&str]) {
    for statement in statements {
        client
            .batch_execute(statement)
            .unwrap_or_else(|e| panic!("{statement}: {e:?}"));
    }
}

/// The first column of a statement's only row, which is a text.
///
/// # Panics
/// When it fails.
pub fn text(client: &mut Client, query: &str) -> Option<String> {
    client.query_one(query, &[]).expect(query).get(0)
}

/// The first value of `query`, as a text; `NULL` if it is null.
///
/// # Panics
/// When it fails.
pub fn one_text(client: &mut Client, query: &str) -> String {
    text(client, &format!("SELECT ({query})::text")).unwrap_or_else(|| "NULL".to_owned())
}

/// Waits until the first value of `query` is `expected`, as text.
///
/// # Panics
/// When it does not come to that within a minute.
pub fn wait_for_text(client: &mut Client, query: &str, expected: &str) {
    wait_until(query, TIMEOUT, || match one_text(client, query) {
        text if text == expected => Ok(()),
        text => Err(text),
    });
}

/// Inserts each id on its own into `t`, in a transaction of its own.
///
/// # Panics
/// When one fails.
pub fn insert_ids(client: &mut Client, ids: std::ops::Range<i32>) {
    for id in ids {
        let done = client.execute("INSERT INTO t (id) VALUES ($1)", &[&id]);
        done.unwrap_or_else(|error| panic!("insert {id}: {error:?}"));
    }
}
