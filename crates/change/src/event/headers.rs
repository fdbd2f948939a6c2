//! Headers of an event, and their names.

use std::ffi::CStr;
use std::ops::Range;

/// A header's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderName(&'static CStr);

impl HeaderName {
    /// The event's id: the same for every copy of it.
    pub const ID: HeaderName = HeaderName(c"cdc.id");
    /// The only order: versions compare as texts.
    pub const VERSION: HeaderName = HeaderName(c"cdc.version");
    /// What happened, see [`super::op::Op`].
    pub const OP: HeaderName = HeaderName(c"cdc.op");
    /// `database.schema.table`, escaped as topics are.
    pub const TABLE: HeaderName = HeaderName(c"cdc.table");
    /// Of a row: the version of the newest control event about its topic; it is left out where there is none.
    pub const CONTROL: HeaderName = HeaderName(c"cdc.control");
    /// Of a control event: the table's topic that it is about.
    pub const TOPIC: HeaderName = HeaderName(c"cdc.topic");
    /// The row's identity, where it is not the record's key.
    pub const IDENTITY: HeaderName = HeaderName(c"cdc.identity");
    /// The event's number in its transaction and how many there are: `3/7`.
    pub const TRANSACTION: HeaderName = HeaderName(c"cdc.tx");
    /// The sinks that a snapshot's rows are for: a JSON array. Without it they are for all.
    pub const SINKS: HeaderName = HeaderName(c"cdc.sinks");
    /// Of an event of the application's own.
    pub const ACTOR: HeaderName = HeaderName(c"cdc.actor");
    /// Likewise.
    pub const REASON: HeaderName = HeaderName(c"cdc.reason");
    /// Likewise.
    pub const REQUEST_ID: HeaderName = HeaderName(c"cdc.request_id");
    /// On the delete of a changed key: the key after. Debezium's name.
    pub const NEW_KEY: HeaderName = HeaderName(c"__debezium.newkey");
    /// On the create of a changed key: the key before. Debezium's name.
    pub const OLD_KEY: HeaderName = HeaderName(c"__debezium.oldkey");
    /// W3C trace context.
    pub const TRACEPARENT: HeaderName = HeaderName(c"traceparent");

    /// As C has it.
    pub const fn c_str(self) -> &'static CStr {
        self.0
    }

    /// As text.
    pub const fn as_str(self) -> &'static str {
        match self.0.to_str() {
            Ok(text) => text,
            Err(_) => "",
        }
    }
}

/// Headers of one record, in one buffer that is used again and again.
#[derive(Debug, Default)]
pub struct Headers {
    bytes: Vec<u8>,
    entries: Vec<(Name, Range<usize>)>,
}

/// A header's name: ours, or the application's, with a zero byte behind it.
#[derive(Debug)]
enum Name {
    Ours(HeaderName),
    Given(Range<usize>),
}

impl Headers {
    pub fn iter(&self) -> impl Iterator<Item = (&CStr, &[u8])> {
        self.entries.iter().map(|(name, range)| {
            let name = match name {
                Name::Ours(name) => name.c_str(),
                Name::Given(range) => {
                    CStr::from_bytes_with_nul(&self.bytes[range.clone()]).unwrap_or_default()
                }
            };
            (name, &self.bytes[range.clone()])
        })
    }

    /// What they take in a record, about, and not less.
    pub fn size_bytes(&self) -> usize {
        const NAME_BYTES: usize = 32;
        self.bytes.len() + NAME_BYTES * self.entries.len()
    }

    pub(super) fn add_given(&mut self, name: &str, value: &str) {
        let start = self.bytes.len();
        self.bytes.extend(name.bytes().filter(|byte| *byte != 0));
        self.bytes.push(0);
        let name = start..self.bytes.len();
        self.bytes.extend_from_slice(value.as_bytes());
        self.entries
            .push((Name::Given(name.clone()), name.end..self.bytes.len()));
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    pub(super) fn add_text(&mut self, name: HeaderName, text: &str) {
        self.add(name, |out| out.extend_from_slice(text.as_bytes()));
    }

    pub(super) fn add(&mut self, name: HeaderName, put: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        put(&mut self.bytes);
        self.entries
            .push((Name::Ours(name), start..self.bytes.len()));
    }
}
