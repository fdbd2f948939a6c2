//! Rows of which nothing is sent, for their topics are put aside or given up.

use super::commit::Numbers;
use super::headers::Headers;
use super::op::Op;
use super::record::{Destination, Emit, Event, Stage};
use super::render_options::RenderOptions;
use super::routing::topic_of;
use super::snapshot_chunk::Snapshots;
use crate::wal::body::{Body, Row};
use crate::wal::record::RecordKind;
use crate::wire::WireError;

/// Whether nothing of a row is sent, whatever it is: then it is counted, and not decoded, so that one that cannot be decoded can
/// be given up.
pub(super) fn passes_over<E: From<WireError>>(
    numbers: &mut Numbers,
    snapshots: &mut Snapshots,
    body: &Body<'_>,
    row: &Row<'_>,
    options: &RenderOptions<'_>,
    emit: &mut Emit<'_, E>,
) -> Result<bool, E> {
    let addressed = body.addressed(row.relation)?;
    let own = |op| topic_of(addressed.topic, addressed.topics, op);
    let topics: &[&str] = match row.op {
        RecordKind::Update if row.key_changed => &[own(Op::Delete), own(Op::Create)],
        RecordKind::Update => &[own(Op::Update)],
        RecordKind::Insert | RecordKind::KeyCreate => &[own(Op::Create)],
        RecordKind::Delete | RecordKind::KeyDelete => &[own(Op::Delete)],
        RecordKind::Schema | RecordKind::Truncate
            if (addressed.topics.iter().flatten()).any(|topic| !(options.is_withheld)(topic)) =>
        {
            return Ok(false);
        }
        _ => &[addressed.topic],
    };
    if !topics.iter().all(|topic| (options.is_withheld)(topic)) {
        return Ok(false);
    }
    if matches!(
        row.op,
        RecordKind::Read | RecordKind::ChunkBegin | RecordKind::ChunkEnd
    ) {
        if snapshots.is_rejected() {
            numbers.count();
            return Ok(true);
        }
    } else if row.op != RecordKind::Emit {
        // Which row it was is not looked at.
        let commit = numbers.commit();
        let table = (commit.database_oid, addressed.oid);
        if (options.is_snapshot)(table) {
            snapshots.touch(table, commit.xid8, None);
        }
    }
    let headers = Headers::default();
    for topic in topics {
        match row.op {
            RecordKind::Emit => numbers.count(),
            _ => {
                numbers.count_of(addressed.oid);
            }
        }
        emit(&Event {
            sequence: numbers.sequence(),
            topic,
            destination: Destination::Topic,
            key: None,
            value: Some(&[]),
            headers: &headers,
            can_shrink: false,
            stage: Stage::PassedOver,
        })?;
    }
    Ok(true)
}
