//! `./dev demo --once`: it ends, shows the history and the replica, and its last line has the right figures.

use std::process::Command;

use pg_cdc_tests::parts;
use serde_json::{Value, json};

#[test]
fn once_shows_everything_and_counts_right() {
    let output = Command::new(parts::built("demo"))
        .arg("--once")
        .output()
        .expect("the demo starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{text}\n{errors}",
        output.status
    );

    let last = text.lines().last().expect("a last line");
    let figures: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{last}: {e}"));
    // 11 customers, then Eva's insert and two updates.
    assert_eq!(
        figures,
        json!({"events": 14, "history": 14, "replica_rows": 12, "replica_equal": true, "rolled_back_seen": 0})
    );
    for shown in [
        "-> topic shop.public.customer",
        "in Kafka",
        "nothing sent, as it should be",
        "city \"Basel\" -> \"Bern\"",
        "moved to Bern",
        "r-17",
        "app_rw",
        "balance 10.50 -> 25.00",
        "note null -> \"VIP\"",
        "12 rows, sha256",
    ] {
        assert!(
            text.contains(shown),
            "{shown} is missing in:\n{text}\n{errors}"
        );
    }
    assert!(
        !text.contains("1000000.00"),
        "what was rolled back is shown:\n{text}"
    );
}
