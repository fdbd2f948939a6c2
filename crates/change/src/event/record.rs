//! A record for Kafka, and what its receiver says of it.

use super::headers::Headers;

/// Where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// The partition of its key, in its topic.
    Topic,
    /// The control topic: its topic is that of the table which it is about.
    Control(ControlEvent<'a>),
}

/// What the table's topic has to remember of a control event about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlEvent<'a> {
    /// The control topic.
    pub topic: &'a str,
    /// The event's version, which the topic's rows name from then on.
    pub version: &'a str,
    /// A definition: it is the table's last event.
    pub is_last: bool,
}

/// A record for Kafka, borrowed from the renderer until the next one.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its number in its transaction, from 1. A delete and its tombstone have the same.
    pub sequence: u64,
    pub topic: &'a str,
    pub destination: Destination<'a>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: &'a Headers,
    /// Large values of the images can still become stubs.
    pub can_shrink: bool,
    /// What is to be done with it.
    pub stage: Stage,
}

/// What is to be done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is sent.
    Sent,
    /// It is not rendered yet: how long its value may become is asked, and answered with [`Sent::Room`].
    Asked,
    /// It cannot be rendered, for no topic takes a value of so many bytes.
    Unsendable { bytes: usize },
    /// It is not sent, as [`RenderOptions::is_withheld`] has said, and so nothing of it is decoded.
    PassedOver,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Taken,
    /// Its topic takes values of so many bytes at most: it comes again with stubs. Only for [`Event::can_shrink`].
    TooLarge {
        limit_bytes: usize,
    },
    /// For [`Stage::Asked`]: how long the value may become, and whether stubs are wanted where it is longer.
    Room {
        limit_bytes: usize,
        stubs: bool,
    },
}

/// Takes the records.
pub type Emit<'e, E> = dyn FnMut(&Event<'_>) -> Result<Sent, E> + 'e;
