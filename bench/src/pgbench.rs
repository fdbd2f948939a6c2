//! One-row UPDATEs of `account` by pgbench's four clients.

use pg_cdc_tests::pgbench;
use pg_cdc_tests::postgres::Postgres;

/// Rows of the table that [`run`] updates.
pub(crate) const TABLE_ROWS: i64 = 100_000;

/// The arguments of every run.
pub(crate) const ARGUMENTS: [&str; 6] = ["-M", "prepared", "-c", "4", "-j", "2"];

/// What a run of pgbench came to.
pub(crate) struct Transactions {
    /// All of them.
    pub count: u64,
    /// In one second.
    pub per_s: f64,
}

/// Runs pgbench on `database` of `server`, with further arguments.
///
/// # Panics
/// When it fails.
pub(crate) fn run(server: &Postgres, database: &str, arguments: &[&str]) -> Transactions {
    let arguments = [&ARGUMENTS, arguments].concat();
    parse(&pgbench::run(server, database, &script(), &arguments))
}

/// pgbench's script: one row at random is changed.
pub(crate) fn script() -> String {
    format!(
        "\\set id random(1, {TABLE_ROWS})\nUPDATE account SET balance = balance + 1 WHERE id = :id;\n"
    )
}

fn parse(output: &str) -> Transactions {
    let number = |label: &str| -> Option<&str> {
        let rest = output.lines().find_map(|line| line.strip_prefix(label))?;
        rest.split_whitespace().next()
    };
    let count = number("number of transactions actually processed: ").and_then(|n| n.parse().ok());
    let per_s = number("tps = ").and_then(|n| n.parse().ok());
    match (count, per_s) {
        (Some(count), Some(per_s)) => Transactions { count, per_s },
        _ => panic!("no transactions in pgbench's output:\n{output}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pgbenchs_output() {
        let output = "number of transactions actually processed: 40123\nnumber of failed transactions: 0 (0.000%)\n\
                      tps = 1523.456 (without initial connection time)\n";
        let transactions = parse(output);
        assert_eq!((transactions.count, transactions.per_s), (40_123, 1523.456));
    }
}
