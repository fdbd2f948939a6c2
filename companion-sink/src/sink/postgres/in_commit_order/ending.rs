//! The end of a transaction: it is committed, or the event is looked for that the target refuses it for.

use crate::config::OnError;
use crate::error::{Code, Result};
use crate::event::Headers;
use crate::kafka::record::Record;
use crate::rejected::dead_letter::DeadLetters;
use change::event::headers::HeaderName;
use change::trouble::Trouble;

use crate::rejected::failure::NotApplied;
use crate::sink::batch::Applied;
use crate::sink::ordered::{Commit, PartEnd, PartOutcome, Poison, Uncommitted, Why};
use crate::sink::postgres::in_commit_order::search::Search;
use crate::sink::postgres::in_commit_order::transaction::apply_part;
use crate::sink::postgres::replica::{Replica, not_connected};

/// A transaction is not given more often for one event.
const TURNS_MAX: usize = 3;

/// Applies the last events of a transaction, moves the positions and commits.
pub(crate) async fn commit_part(
    replica: &mut Replica,
    records: &[Record],
    commit: &Commit<'_>,
    dead_letters: &DeadLetters,
) -> Result<PartEnd> {
    if let PartOutcome::Poisoned(poison) = apply_part(replica, records, dead_letters).await? {
        return Ok(PartEnd::Undone(Uncommitted::Poisoned(poison)));
    }
    let state = &replica.state;
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    state.advance(&mut connection.session, commit.moves).await?;
    if connection.halted_before {
        state
            .parked_events()
            .forget_poison(&connection.session.client, commit.moves)
            .await?;
    }
    if let (Some(place), Some(time_us)) = (commit.place, commit.time_us) {
        state
            .note_progress(&mut connection.session, place, time_us)
            .await?;
    }
    if let Some(uncommitted) = end_transaction(replica, records.last(), dead_letters).await? {
        return Ok(PartEnd::Undone(uncommitted));
    }
    let connection = replica.connection.as_mut().ok_or_else(not_connected)?;
    connection.in_transaction = false;
    connection.bindings.settled();
    Ok(PartEnd::Committed(Applied {
        dead_letters: std::mem::take(&mut replica.parked_in_transaction),
        parked_keys: connection.parked.len() as u64,
        unknown_rows: std::mem::take(&mut connection.session.unknown_rows),
    }))
}

/// Commits. `None` if that is done; else the search goes on, or has found the event.
pub(crate) async fn end_transaction(
    replica: &mut Replica,
    last: Option<&Record>,
    dead_letters: &DeadLetters,
) -> Result<Option<Uncommitted>> {
    let doubt = match replica.search.is_on() {
        true => replica.connection()?.session.doubt().await?,
        false => None,
    };
    let doubt = match doubt {
        Some(doubt) => doubt,
        None => {
            let letters = std::mem::take(&mut replica.search.letters);
            let letters: Vec<_> = letters.iter().map(|(record, why)| (record, why)).collect();
            if !letters.is_empty() {
                replica.tell(&letters, dead_letters).await?;
            }
            match replica.connection()?.session.commit().await? {
                None => {
                    replica.search = Search::default();
                    return Ok(None);
                }
                Some(doubt) => doubt,
            }
        }
    };
    let connection = replica.connection()?;
    connection.session.execute("ROLLBACK").await?;
    connection.in_transaction = false;
    let search = &mut replica.search;
    let is_wanted = search
        .wanted
        .as_ref()
        .is_some_and(|wanted| wanted.is_same(&doubt));
    search.turns += 1;
    let is_told = is_wanted && (search.named.is_some() || search.first.is_some());
    if !is_told && search.turns <= TURNS_MAX {
        search.wanted = Some(doubt);
        return Ok(Some(Uncommitted::Again));
    }
    let first = search.first.take().map(|(record, _)| record);
    // What does not show before the end is told of the last event.
    let Some(record) = search.named.take().or(first).or_else(|| last.cloned()) else {
        return Err(doubt.fault.error("COMMIT"));
    };
    let mut failure = match doubt.fault.into() {
        NotApplied::Refused(failure) => failure,
        NotApplied::Failed(error) => return Err(error),
    };
    failure.message += &format!(
        "; found at the end of the transaction, event of {}",
        record
            .header(HeaderName::TABLE.as_str())
            .unwrap_or_default()
    );
    let is_row = Headers::read(&record).is_ok_and(|headers| headers.op.is_row());
    if replica.settings.on_error() == OnError::Halt || !is_row {
        replica.search = Search::default();
        let poison = Poison::new(&record, Why::Refused(failure));
        return Ok(Some(Uncommitted::Poisoned(poison)));
    }
    let what = format!("postgres: COMMIT: {}", failure.message);
    let known = search.found.insert(record.event_id(), failure);
    search.wanted = None;
    search.turns = 0;
    let checked = replica.refusals.check(search.found.len());
    if known.is_some() || checked.is_err() {
        // It is not this one, or there are too many: a person has to look, and the search begins anew then.
        replica.search = Search::default();
        checked?;
        return Err(Trouble::new(
            Code::TargetRefuses,
            what,
            "Correct the target's constraint or trigger, then send SIGHUP.",
        ));
    }
    Ok(Some(Uncommitted::Again))
}
