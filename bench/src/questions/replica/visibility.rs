//! The commits whose visibility in a replica is measured: INSERT and UPDATE of one row in turns.

use postgres::Client;

use crate::account;
use crate::measures::visibility::{self, Load, Round};

/// Beside Debezium: 20 seconds.
pub(crate) const BESIDE_DEBEZIUM: Load = Load {
    commits_per_second: 300,
    warm_up: 600,
    counted: 5_400,
};
/// Of companion-sink alone, for the largest of many.
pub(crate) const ALONE: Load = Load {
    commits_per_second: 500,
    warm_up: 1_000,
    counted: 10_000,
};
/// Rows that a round updates, each once: they must be there before, with the ids from 1 on.
pub(crate) const UPDATED_ROWS: i64 = ALONE.commits() / 2;

/// One round: writes `account` at the source, and reads it in the replica. No other round has the same number.
///
/// # Panics
/// When a statement fails, or the replica does not show a row in time.
pub(crate) fn measure(load: Load, source: &mut Client, replica: &mut Client, round: i64) -> Round {
    let note = format!("round {round}");
    let insert =
        account::insert(1).replace("generate_series(1, 1)", "generate_series($1::bigint, $1)");
    let insert = insert.replace("repeat('note ', 8)", "$2");
    let prepare = |client: &mut Client, statement: &str| {
        client
            .prepare(statement)
            .unwrap_or_else(|e| panic!("{statement}: {e:?}"))
    };
    let insert = prepare(source, &insert);
    let update = prepare(
        source,
        "UPDATE account SET balance = balance + 1, note = $2 WHERE id = $1",
    );
    let question = prepare(
        replica,
        "SELECT id FROM account WHERE id = ANY ($1) AND note = $2",
    );
    let change = |n: i64| {
        let (statement, id) = match n % 2 {
            0 => (&insert, round * 1_000_000 + n),
            _ => (&update, n / 2 + 1),
        };
        let rows = source.execute(statement, &[&id, &note]).expect("a change");
        assert_eq!(rows, 1, "rows changed for {id}");
        id
    };
    let seen = |ids: &[i64]| {
        let rows = replica.query(&question, &[&ids, &note]).expect("an answer");
        rows.iter().map(|row| row.get(0)).collect()
    };
    visibility::measure(load, change, seen)
}
