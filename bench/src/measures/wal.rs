//! How much WAL was written.

use postgres::Client;

/// Where the server will write next.
///
/// # Panics
/// When the connection is gone.
pub(crate) fn position(client: &mut Client) -> String {
    client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .expect("WAL position")
        .get(0)
}

/// Bytes of WAL written since `position`.
///
/// # Panics
/// When the connection is gone.
pub(crate) fn bytes_since(client: &mut Client, position: &str) -> i64 {
    let query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::bigint";
    client
        .query_one(query, &[&position])
        .expect("WAL bytes")
        .get(0)
}
