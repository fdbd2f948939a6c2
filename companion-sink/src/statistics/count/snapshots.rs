//! What a snapshot of the source tells besides its rows: those that are gone there.
//!
//! A row of which nothing came since the snapshot's beginning was neither read by it nor changed meanwhile: it is not there any
//! more. Rows that it left out, because somebody had changed them before, are named by the ends of its chunks.

use crate::error::Result;
use crate::event::snapshot::SnapshotBody;
use crate::statistics::count::contribution::CountedRow;
use crate::statistics::count::counting::take;
use crate::statistics::count::design::Design;
use crate::statistics::count::running_snapshot::RunningSnapshot;
use crate::statistics::count::topics::Topic;
use crate::statistics::kept::changes::Changes;
use crate::statistics::kept::keys;
use crate::statistics::kept::keys::TopicNumber;
use crate::statistics::kept::store::damaged;

/// Notes the beginning. One that is known already, and one from before it, change nothing.
pub(crate) fn begin(
    changes: &mut Changes,
    topic: &mut Topic,
    body: &SnapshotBody<'_>,
    version: &str,
) -> Result<()> {
    let known = topic.snapshot.as_ref();
    if known.is_some_and(|known| known.begin.as_str() >= version) {
        return Ok(());
    }
    let snapshot = RunningSnapshot {
        id: body.id(),
        begin: version.to_owned(),
        is_partial: false,
        is_first: !has_cells(changes, topic.number)?,
    };
    changes.remove_all(&keys::all_kept(topic.number))?;
    changes.set(keys::snapshot(topic.number), snapshot.bytes());
    topic.snapshot = Some(snapshot);
    Ok(())
}

fn has_cells(changes: &Changes, topic: TopicNumber) -> Result<bool> {
    let mut has = false;
    changes.before().each(&keys::cells(), |key, _| {
        let (_, _, of) = keys::cell_of(key).map_err(damaged)?;
        has |= of == topic;
        Ok(())
    })?;
    Ok(has)
}

/// Notes what the end of a chunk says. Each partition has a copy: once more changes nothing.
pub(crate) fn keep(changes: &mut Changes, topic: &mut Topic, body: &SnapshotBody<'_>) {
    let number = topic.number;
    let running = topic.snapshot.as_mut();
    let Some(snapshot) = running.filter(|snapshot| snapshot.id == body.id()) else {
        return;
    };
    for key in body.changed() {
        changes.set(keys::kept(number, key), Vec::new());
    }
    if body.is_partial() && !snapshot.is_partial {
        snapshot.is_partial = true;
        changes.set(keys::snapshot(number), snapshot.bytes());
    }
}

/// Takes away what is gone at the source; how many rows. Nothing where the beginning was not seen.
pub(crate) fn end(
    changes: &mut Changes,
    design: &Design,
    topic: &mut Topic,
    body: &SnapshotBody<'_>,
) -> Result<u64> {
    keep(changes, topic, body);
    let number = topic.number;
    let Some(snapshot) = topic.snapshot.take_if(|snapshot| snapshot.id == body.id()) else {
        return Ok(0);
    };
    let mut gone = Vec::new();
    if !snapshot.is_partial {
        changes.before().each(&keys::rows(number), |key, value| {
            let row = CountedRow::read(value).map_err(damaged)?;
            if row.version < snapshot.begin {
                gone.push((key.to_vec(), row.contribution));
            }
            Ok(())
        })?;
    }
    let mut vanished = 0;
    for (key, contribution) in gone {
        if changes
            .get(&keys::kept(number, keys::row_of(&key)))?
            .is_none()
        {
            take(changes, design, number, &contribution)?;
            changes.remove(key);
            vanished += 1;
        }
    }
    changes.remove_all(&keys::all_kept(number))?;
    // What this batch itself has noted.
    for key in body.changed() {
        changes.remove(keys::kept(number, key));
    }
    changes.remove(keys::snapshot(number));
    Ok(vanished)
}
