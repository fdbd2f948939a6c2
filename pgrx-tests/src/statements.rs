//! Statements sent one by one.

use postgres::Client;

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
