//! What is the same for many events of a body, rendered once.

use crate::event::commit::Commit;
use crate::event::envelope::audit::{put_audit, traceparent};
use crate::event::render_options::RenderOptions;
use crate::event::renderer::controls::{Controls, RelationControls};
use crate::topic_name;
use crate::value::datetime::EPOCH_US;
use crate::value::json::{put_integer, put_optional_string, put_string};
use crate::wal::body::{Body, Row};
use crate::wal::relation::{Column, Relation};
use crate::wire::WireError;

/// `source.version` of the events.
const PRODUCT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Texts of one body.
pub(in crate::event) struct BodyTexts {
    /// `"ts_ms":…` and the other two, when it is sent.
    pub(in crate::event) sent: Vec<u8>,
    relations: Vec<Option<RelationTexts>>,
    /// `"audit":{…}` of the context and statement in use.
    pub(in crate::event) audit: Vec<u8>,
    audit_of: Option<(u32, i64)>,
    /// Name of the replication origin in the same context, or `null`.
    pub(in crate::event) origin: Vec<u8>,
    pub(in crate::event) traceparent: Option<String>,
    /// The database's name, and the topic of its control events.
    pub(in crate::event) database: String,
    pub(in crate::event) control_topic: String,
}

/// Texts of a relation in a body.
pub(in crate::event) struct RelationTexts {
    /// `"source":{…` up to the origin.
    pub(in crate::event) source: Vec<u8>,
    /// The header `cdc.table`.
    pub(in crate::event) table: String,
    /// The header `cdc.control` of its rows.
    pub(in crate::event) controls: RelationControls,
    /// `"name":` of each column.
    pub(in crate::event) columns: Vec<Vec<u8>>,
    /// Its changes must be remembered, for a snapshot of it is being made.
    pub(in crate::event) is_snapshot: bool,
}

impl BodyTexts {
    /// For a body that is sent at `sent_us`, microseconds since 1970.
    pub(in crate::event) fn new(body: &Body<'_>, sent_us: i64) -> BodyTexts {
        BodyTexts {
            sent: sent(sent_us),
            relations: (0..body.relations()).map(|_| None).collect(),
            audit: Vec::new(),
            audit_of: None,
            origin: Vec::new(),
            traceparent: None,
            database: body.database.to_owned(),
            control_topic: topic_name::control(body.prefix),
        }
    }

    /// Fills what this row needs.
    #[inline]
    pub(in crate::event) fn prepare(
        &mut self,
        commit: &Commit,
        is_chunk: bool,
        body: &Body<'_>,
        row: &Row<'_>,
        options: &RenderOptions<'_>,
        controls: &Controls,
    ) -> Result<(), WireError> {
        match &mut self.relations[row.relation] {
            Some(texts) if !texts.controls.is_outdated(controls) => {}
            Some(texts) => {
                texts.controls = RelationControls::of(body.relation(row.relation)?, controls);
            }
            unknown => {
                let relation = body.relation(row.relation)?;
                *unknown = Some(RelationTexts {
                    source: source(commit, is_chunk, body, relation),
                    table: topic_name::join(&[body.database, relation.schema, relation.table]),
                    controls: RelationControls::of(relation, controls),
                    columns: relation.columns.iter().map(column_name).collect(),
                    is_snapshot: !is_chunk
                        && (options.is_snapshot)((commit.database_oid, relation.oid)),
                });
            }
        }
        let audit_of = (row.state.context, row.state.statement_us);
        if self.audit_of != Some(audit_of) {
            let context = body.context(&row.state)?;
            put_audit(&mut self.audit, &context, row.state.statement_us);
            self.origin.clear();
            put_optional_string(&mut self.origin, context.origin);
            self.traceparent = traceparent(&context);
            self.audit_of = Some(audit_of);
        }
        Ok(())
    }

    /// Of a relation for which [`BodyTexts::prepare`] was called.
    #[inline]
    pub(in crate::event) fn relation(&self, index: usize) -> Result<&RelationTexts, WireError> {
        let texts = self.relations.get(index).and_then(Option::as_ref);
        texts.ok_or(WireError::Invalid("relation index"))
    }
}

/// `"name":`, rendered once per body.
fn column_name(column: &Column<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(column.name.len() + 3);
    put_string(&mut out, column.name);
    out.push(b':');
    out
}

/// `"source":{…` up to the origin.
fn source(commit: &Commit, is_chunk: bool, body: &Body<'_>, relation: &Relation<'_>) -> Vec<u8> {
    let commit_us = commit.commit_us.saturating_add(EPOCH_US);
    let mut out = Vec::with_capacity(384);
    out.extend_from_slice(b"\"source\":{\"version\":\"");
    out.extend_from_slice(PRODUCT_VERSION.as_bytes());
    out.extend_from_slice(b"\",\"connector\":\"postgresql\",\"name\":");
    put_string(&mut out, body.prefix);
    out.extend_from_slice(b",\"ts_ms\":");
    put_integer(&mut out, commit_us.div_euclid(1000));
    out.extend_from_slice(b",\"snapshot\":\"");
    out.extend_from_slice(match is_chunk {
        false => b"false",
        true => b"incremental",
    });
    out.extend_from_slice(b"\",\"db\":");
    put_string(&mut out, body.database);
    out.extend_from_slice(b",\"sequence\":\"[");
    match commit.previous_lsn {
        Some(lsn) => {
            out.extend_from_slice(b"\\\"");
            put_integer(&mut out, lsn);
            out.extend_from_slice(b"\\\"");
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\\\"");
    put_integer(&mut out, commit.lsn);
    out.extend_from_slice(b"\\\"]\",\"ts_us\":");
    put_integer(&mut out, commit_us);
    out.extend_from_slice(b",\"ts_ns\":");
    put_nanoseconds(&mut out, commit_us);
    out.extend_from_slice(b",\"schema\":");
    put_string(&mut out, relation.schema);
    out.extend_from_slice(b",\"table\":");
    put_string(&mut out, relation.table);
    // The row is as old as the chunk's snapshot, whichever transaction made it.
    for (name, number) in [
        (&b",\"txId\":"[..], commit.xid8),
        (b",\"lsn\":", commit.lsn),
    ] {
        out.extend_from_slice(name);
        match is_chunk {
            false => put_integer(&mut out, number),
            true => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b",\"xmin\":null,\"origin\":");
    out
}

/// The three times of the envelope itself.
fn sent(us: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(b"\",\"ts_ms\":");
    put_integer(&mut out, us.div_euclid(1000));
    out.extend_from_slice(b",\"ts_us\":");
    put_integer(&mut out, us);
    out.extend_from_slice(b",\"ts_ns\":");
    put_nanoseconds(&mut out, us);
    out.push(b',');
    out
}

/// Microseconds as nanoseconds: three zeros more, so that no product can overflow.
fn put_nanoseconds(out: &mut Vec<u8>, us: i64) {
    put_integer(out, us);
    if us != 0 {
        out.extend_from_slice(b"000");
    }
}
