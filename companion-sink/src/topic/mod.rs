//! What is in topics, for people: which there are, their newest events, and one record whole. Reads only, with what `[kafka]` says
//! alone, and any topic: whatever a record holds, it can be shown.

pub(crate) mod asked;
pub(crate) mod entry;
pub(crate) mod filter;
pub(crate) mod find;
pub(crate) mod follow;
pub(crate) mod header_meaning;
pub(crate) mod in_words;
pub(crate) mod json;
pub(crate) mod kind;
pub(crate) mod list;
mod order;
mod settings;
pub(crate) mod tail;
pub(crate) mod told;
