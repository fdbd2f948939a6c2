//! A snapshot's beginning, its rows and its states.

use std::time::Duration;

use pg_cdc_tests::wait_until;
use postgres::Client;

pub(super) const TIMEOUT: Duration = Duration::from_secs(120);

pub(super) fn state(client: &mut Client, id: i64) -> String {
    let query = "SELECT state || COALESCE(': ' || error_code || ' ' || error_message, '') FROM cdc_snapshots WHERE snapshot_id = $1";
    client
        .query_one(query, &[&id])
        .expect("the snapshot")
        .get(0)
}

pub(super) fn wait_for_state(client: &mut Client, id: i64, wanted: &str) {
    wait_until(&format!("snapshot {id} to be {wanted}"), TIMEOUT, || {
        let state = state(client, id);
        if state == wanted {
            return Ok(());
        }
        let query = "SELECT s::text || ' ' || cdc_status()::text FROM cdc_snapshots s WHERE snapshot_id = $1";
        let details = client.query_one(query, &[&id]);
        Err(details.map_or(state, |row| row.get(0)))
    });
}

pub(super) fn wait_for_rows(client: &mut Client, id: i64, at_least: i64) {
    wait_until("rows of the snapshot", TIMEOUT, || {
        let query = "SELECT rows_done FROM cdc_snapshots WHERE snapshot_id = $1";
        let rows: i64 = client
            .query_one(query, &[&id])
            .expect("the snapshot")
            .get(0);
        if rows >= at_least {
            Ok(())
        } else {
            Err(rows.to_string())
        }
    });
}

pub(super) fn snapshot(client: &mut Client, call: &str) -> i64 {
    client
        .query_one(&format!("SELECT {call}"), &[])
        .expect(call)
        .get(0)
}
