//! Looks after each event whether what is looked for is in doubt.

use crate::error::Result;
use crate::kafka::record::Record;
use change::event::headers::HeaderName;

use crate::sink::postgres::in_commit_order::search::names;
use crate::sink::postgres::replica::{Replica, not_connected};

/// So often is looked at most since when the same is in doubt: each look is at all of it.
const LOOKS_MAX: usize = 1000;

/// Looks at what is in doubt after an event. A row that comes before the one it references is so for a while.
pub(crate) async fn look_at_doubts(replica: &mut Replica, record: &Record) -> Result<()> {
    let Some(wanted) = &replica.search.wanted else {
        return Ok(());
    };
    if replica.search.found(record).is_some() {
        return Ok(());
    }
    let connection = replica.connection.as_ref().ok_or_else(not_connected)?;
    let header = record
        .header(HeaderName::TABLE.as_str())
        .unwrap_or_default();
    if let Some(table) = connection.tables.known(&record.topic, header)
        && names(wanted, connection.tables.get(table), record)
    {
        replica.search.named = Some(record.clone());
    }
    let looks = replica.search.first.as_ref().map(|(_, looks)| *looks);
    // A detail names the row, nearly always.
    let may_be_named = wanted.detail.is_some() && replica.search.turns < 2;
    if replica.search.named.is_some() || may_be_named || looks > Some(LOOKS_MAX) {
        return Ok(());
    }
    let session = &connection.session;
    session.execute("SAVEPOINT looking").await?;
    let doubt = session.doubt().await?;
    let end = match doubt {
        None => "RELEASE SAVEPOINT looking; SET CONSTRAINTS ALL DEFERRED",
        Some(_) => "ROLLBACK TO SAVEPOINT looking; RELEASE SAVEPOINT looking",
    };
    session.execute(end).await?;
    let is_wanted = doubt.is_some_and(|doubt| doubt.is_same(wanted));
    match &mut replica.search.first {
        first if !is_wanted => *first = None,
        Some((_, looks)) => *looks += 1,
        first => *first = Some((record.clone(), 0)),
    }
    Ok(())
}
