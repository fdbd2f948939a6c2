//! Control events, as they are sent.

use super::Renderer;
use crate::event::envelope::{EventParts, Rendered, RowContext};
use crate::event::op::Op;
use crate::event::record::{ControlEvent, Destination, Emit, Event, Sent, Stage};
use crate::value::json::put_string;
use crate::wal::relation::Relation;
use crate::wire::WireError;

impl Renderer {
    /// Sends a control event: one about each of the table's topics where it is a definition, so that who reads only one of them
    /// learns its columns, else about the table's own. A truncate goes into the topic that truncates have, too.
    pub(super) fn send_control<E: From<WireError>>(
        &mut self,
        here: &RowContext<'_, '_>,
        rendered: &mut Rendered,
        event: &EventParts<'_>,
        emit: &mut Emit<'_, E>,
    ) -> Result<Sent, E> {
        let Relation { topic, topics, .. } = *here.relation;
        let is_last = event.schema_change.is_some_and(ends_the_table);
        let mut about = vec![topic];
        if event.op == Op::Schema {
            for own in topics.into_iter().flatten() {
                if !about.contains(&own) {
                    about.push(own);
                }
            }
        }
        for (sub, topic) in (0..).zip(about) {
            let mut version = Vec::new();
            self.numbers.put_version(&mut version, sub);
            let version = String::from_utf8_lossy(&version);
            let key = control_key(topic, event.op);
            let sinks = self.snapshots.sinks();
            rendered.put_headers(&self.numbers, here, event, sub, sinks, Some(topic));
            emit(&Event {
                sequence: self.numbers.sequence(),
                topic,
                destination: Destination::Control(ControlEvent {
                    topic: &here.texts.control_topic,
                    version: &version,
                    is_last,
                }),
                key: Some(&key),
                value: Some(&rendered.value),
                headers: &rendered.headers,
                can_shrink: false,
                stage: Stage::Sent,
            })?;
            self.controls.note(topic, &version);
        }
        let own = topics[3].or(here.truncates.then_some(topic));
        if let (Op::Truncate, Some(topic)) = (event.op, own) {
            rendered.put_headers(&self.numbers, here, event, 0, None, None);
            emit(&Event {
                sequence: self.numbers.sequence(),
                topic,
                destination: Destination::Topic,
                key: None,
                value: Some(&rendered.value),
                headers: &rendered.headers,
                can_shrink: false,
                stage: Stage::Sent,
            })?;
        }
        Ok(Sent::Taken)
    }
}

/// Compaction keeps the newest of each kind about each topic.
fn control_key(topic: &str, op: Op) -> Vec<u8> {
    let mut key = b"{\"topic\":".to_vec();
    put_string(&mut key, topic);
    key.extend_from_slice(b",\"event\":");
    put_string(&mut key, op.control());
    key.push(b'}');
    key
}

/// Whether a definition is the last that is told of a table.
fn ends_the_table(schema_change: &str) -> bool {
    let change = serde_json::from_str::<serde_json::Value>(schema_change);
    change.is_ok_and(|change| matches!(change["type"].as_str(), Some("UNTRACK" | "DROP")))
}
