//! What `cdc_track` is asked for: put together with what the table has already, and checked before anything changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use change::code::Code;
use change::options::{Mask, Operation, Operations, Options};
use change::trouble::Trouble;
use pgrx::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use crate::api::topic_rights;
use crate::capture::datum::mask;
use crate::capture::filter::row_filter;
use crate::catalog::database_name;
use crate::report::{Raise, notice};
use crate::settings;
use crate::tracked::own_trigger::{COLUMNS, IS_ROW_TRIGGER, Tracked};
use crate::tracked::place::place;
use crate::tracked::statement;
use crate::tracked::table::Table;

/// The arguments of `cdc_track`; none means "as it is".
#[derive(Clone, Deserialize)]
pub(crate) struct Request {
    pub topic: Option<String>,
    pub topics: Option<Value>,
    pub key: Option<Vec<String>>,
    pub operations: Option<String>,
    pub include: Option<Vec<String>>,
    pub exclude: Option<Vec<String>>,
    pub mask: Option<Value>,
    pub filter: Option<String>,
    pub skip_unchanged: Option<bool>,
    pub origin: Option<String>,
    /// Also the rows that are there.
    pub snapshot: Option<bool>,
}

impl Request {
    /// The options that the table has from now on; what is not given is as its trigger has it. If `cdc_track` did not make
    /// that here, anybody may have written it: nothing of it is taken without the looks that new options get, and no topic
    /// that the owner could not have chosen.
    pub(crate) fn options(self, table: &Table, before: Option<&Tracked>) -> Options {
        let is_trusted = before.is_some_and(Tracked::is_here);
        let so_far = before.map_or_else(Options::default, |before| before.options.clone());
        let columns: Vec<String> = table
            .columns()
            .into_iter()
            .map(|column| column.name)
            .collect();
        let named = |names: &[String]| {
            if let Some(missing) = names.iter().find(|name| !columns.contains(name)) {
                missing_column(table, missing, &columns).raise();
            }
        };
        let (include, exclude) = self.choose_columns(&so_far);
        let (topic, topics) = self.choose_topics(table, &so_far, is_trusted);
        let mut key: Vec<String> = Vec::new();
        for name in self.key.unwrap_or(so_far.key) {
            if !key.contains(&name) {
                key.push(name);
            }
        }
        for names in [&include, &exclude, &key] {
            named(names);
        }
        let mask = self.mask.map_or(so_far.mask, |mask| read_mask(&mask));
        named(&mask.keys().cloned().collect::<Vec<_>>());
        let mut options = Options {
            topic,
            topics,
            key,
            operations: self
                .operations
                .map_or(so_far.operations, |operations| read_operations(&operations)),
            include,
            exclude,
            mask,
            filter: self
                .filter
                .map_or(so_far.filter, |filter| filter.trim().to_owned()),
            skip_unchanged: self.skip_unchanged.unwrap_or(so_far.skip_unchanged),
            local_only: self
                .origin
                .map_or(so_far.local_only, |origin| read_origin(&origin)),
            source: place().unwrap_or_else(|| no_identity().raise()),
        };
        check_topic(table, &options.topic);
        options
            .topics
            .values()
            .for_each(|topic| check_topic(table, topic));
        let topics = [&options.topic].into_iter().chain(options.topics.values());
        topic_rights::admit(&topics.map(String::as_str).collect::<Vec<_>>());
        if !options.filter.is_empty() {
            // SAFETY: the relation is open and locked while the filter is prepared.
            options.filter = table.read(|relation| unsafe {
                row_filter::check(std::ptr::from_ref(relation).cast_mut(), &options.filter)
            });
        }
        options
    }

    /// The columns that are shipped, and those that are not: one of the two replaces the other.
    fn choose_columns(&self, so_far: &Options) -> (Vec<String>, Vec<String>) {
        let given =
            |names: &Option<Vec<String>>| names.as_ref().is_some_and(|names| !names.is_empty());
        let (includes, excludes) = (given(&self.include), given(&self.exclude));
        if includes && excludes {
            contradiction("include and exclude were both given.").raise();
        }
        let include = match &self.include {
            None if excludes => Vec::new(),
            include => include.as_ref().unwrap_or(&so_far.include).clone(),
        };
        let exclude = match &self.exclude {
            None if includes => Vec::new(),
            exclude => exclude.as_ref().unwrap_or(&so_far.exclude).clone(),
        };
        (include, exclude)
    }

    /// The table's topic, and those of single operations.
    fn choose_topics(
        &self,
        table: &Table,
        so_far: &Options,
        is_trusted: bool,
    ) -> (String, BTreeMap<Operation, String>) {
        let prefix = settings::topic_prefix(&database_name());
        let keeps = |topic: &str| {
            !topic.is_empty() && (is_trusted || topic.starts_with(&format!("{prefix}.")))
        };
        let mut topics_so_far = so_far.topics.clone();
        topics_so_far.retain(|_, topic| {
            let kept = keeps(topic);
            if !kept && self.topics.is_none() {
                notice(format!(
                    "topic \"{topic}\" is not taken over: it does not begin with \"{prefix}.\""
                ));
            }
            kept
        });
        let topics = self.topics.as_ref().map(read_topics);
        let chosen = self.topic.as_ref().filter(|topic| !topic.is_empty());
        if chosen.is_some() && topics.as_ref().is_some_and(|topics| !topics.is_empty()) {
            contradiction("topic and topics were both given.").raise();
        }
        let topic = match chosen {
            Some(topic) => topic.clone(),
            // A copied trigger names the original's topic; here it holds only if it is one of this database's.
            None if self.topic.is_none() && keeps(&so_far.topic) => so_far.topic.clone(),
            None => format!(
                "{prefix}.{}",
                change::topic_name::join(&[&table.schema, &table.name])
            ),
        };
        let topics = match (chosen, topics) {
            (Some(_), _) => BTreeMap::new(),
            (None, topics) => topics.unwrap_or(topics_so_far),
        };
        (topic, topics)
    }
}

/// Checks that the images have what they need: the key, and for masks the columns and the secret key.
pub(crate) fn check_shipped(table: &Table, options: &Options, key: &[String]) {
    if let Some(missing) = key.iter().find(|column| !options.ships(column)) {
        contradiction(&format!("Key column \"{missing}\" is not shipped.")).raise();
    }
    let columns = table.columns();
    if !columns.is_empty() && !columns.iter().any(|column| options.ships(&column.name)) {
        contradiction(&format!("No column of \"{}\" is shipped.", table.name)).raise();
    }
    if let Some(column) = options.mask.keys().find(|column| !options.ships(column)) {
        contradiction(&format!(
            "Column \"{column}\" is masked, but not shipped at all."
        ))
        .raise();
    }
    let unfit = |column: &&String| {
        options
            .mask
            .get(*column)
            .is_some_and(|mask| *mask != Mask::Hash)
    };
    if let Some(column) = key.iter().find(unfit) {
        contradiction(&format!(
            "Key column \"{column}\" can be hashed, not redacted or truncated: rows of \"{}\" would share a key.",
            table.name
        ))
        .raise();
    }
    if options.mask.values().any(|mask| *mask == Mask::Hash) {
        drop(mask::Hasher::new());
    }
}

fn read_operations(text: &str) -> Operations {
    if text.trim().is_empty() {
        return Operations::default();
    }
    match Operations::parse(text) {
        Ok(operations) if operations.row_events().is_empty() => {
            contradiction("operations must name insert, update or delete.").raise()
        }
        Ok(operations) => operations,
        Err(name) => contradiction(&format!(
            "\"{name}\" is not one of {}.",
            one_of(Operation::ALL.map(Operation::name))
        ))
        .raise(),
    }
}

fn read_origin(origin: &str) -> bool {
    match origin {
        "local" => true,
        "any" | "" => false,
        other => contradiction(&format!("origin \"{other}\" is neither any nor local.")).raise(),
    }
}

fn read_mask(mask: &Value) -> BTreeMap<String, Mask> {
    let pairs = members("mask", mask).map(|(column, method)| match Mask::parse(method) {
        Some(mask) => (column.clone(), mask),
        None => contradiction(&format!(
            "Mask \"{method}\" is not hash, redact or truncate:N."
        ))
        .raise(),
    });
    pairs.collect()
}

fn read_topics(topics: &Value) -> BTreeMap<Operation, String> {
    let pairs = members("topics", topics).map(|(name, topic)| match Operation::parse(name) {
        Some(operation) => (operation, topic.to_owned()),
        None => contradiction(&format!(
            "topics: \"{name}\" is not one of {}.",
            one_of(Operation::ALL.map(Operation::name))
        ))
        .raise(),
    });
    pairs.collect()
}

/// The members of a JSON object of texts.
fn members<'a>(option: &str, object: &'a Value) -> impl Iterator<Item = (&'a String, &'a str)> {
    let Some(object) = object.as_object() else {
        contradiction(&format!("{option} must be a JSON object.")).raise()
    };
    let option = option.to_owned();
    object
        .iter()
        .map(move |(name, value)| match value.as_str() {
            Some(text) => (name, text),
            None => contradiction(&format!(
                "{option}: the value of \"{name}\" must be a text."
            ))
            .raise(),
        })
}

fn one_of<T: Display, const N: usize>(names: [T; N]) -> String {
    names.map(|name| name.to_string()).join(", ")
}

/// CDC0007: the sender has an identity before it is ready; so this is the moment in between.
fn no_identity() -> Trouble {
    Trouble::new(
        Code::SenderNotReady,
        "the identity of this server is not known",
        "See cdc_status().",
    )
}

/// CDC0110.
fn contradiction(detail: &str) -> Trouble {
    Trouble::new(
        Code::OptionsRefused,
        "options contradict each other or are unknown",
        "See docs/errors for what goes together.",
    )
    .detail(detail)
}

fn missing_column(table: &Table, missing: &str, columns: &[String]) -> Trouble {
    let nearest = columns
        .iter()
        .min_by_key(|column| distance(column, missing));
    Trouble::new(
        Code::NoSuchColumn,
        format!(
            "column \"{missing}\" of relation \"{}\" does not exist",
            table.name
        ),
        nearest.map_or("The table has no columns.".to_owned(), |column| {
            format!("Perhaps you meant the column \"{column}\".")
        }),
    )
}

/// Levenshtein distance, for the nearest name.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, character) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..other.len() {
            let replaced = diagonal + usize::from(other[column] != character);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// A topic has a legal name, belongs to one table, and only an administrator may choose one outside the database's
/// prefix (CDC0102).
fn check_topic(table: &Table, topic: &str) {
    refuse_illegal(topic);
    topic_rights::refuse_others_topic(topic);
    refuse_taken_topic(table.oid, topic);
}

/// Lets nobody else track a table with one of these topics until the transaction ends, and looks once more whether somebody
/// has done so: what another session has not committed yet was not to be seen.
pub(crate) fn claim_topics(table: &Table, options: &Options) {
    let topics: BTreeSet<&String> = [&options.topic]
        .into_iter()
        .chain(options.topics.values())
        .collect();
    let numbers: BTreeSet<[u8; 4]> = topics
        .iter()
        .map(|topic| {
            let hash = blake3::hash(collapsed(topic).as_bytes());
            let mut number = [0; 4];
            number.copy_from_slice(&hash.as_bytes()[..4]);
            number
        })
        .collect();
    for number in numbers {
        // A number of its own beside the oids of triggers. SAFETY: in a transaction; released with it.
        unsafe {
            pg_sys::LockDatabaseObject(
                pg_sys::TriggerRelationId,
                pg_sys::Oid::from(u32::from_be_bytes(number)),
                1,
                pg_sys::ExclusiveLock as pg_sys::LOCKMODE,
            );
        }
    }
    // SAFETY: in a transaction. The statement's own snapshot is older than what was waited for; after an ERROR the
    // transaction's end pops this one.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    topics
        .into_iter()
        .for_each(|topic| refuse_taken_topic(table.oid, topic));
    // SAFETY: as above.
    unsafe { pg_sys::PopActiveSnapshot() };
}

/// CDC0108.
pub(crate) fn refuse_illegal(topic: &str) {
    if let Some(reason) = change::topic_name::refusal(topic) {
        Trouble::new(
            Code::NotATopicName,
            format!("\"{topic}\" is not a topic name"),
            "Choose another topic =>.",
        )
        .detail(format!("As a topic of pg_cdc {reason}."))
        .raise();
    }
}

/// CDC0106 and CDC0109: the topic belongs to a table other than `table`.
pub(crate) fn refuse_taken_topic(table: pg_sys::Oid, topic: &str) {
    let others = statement::pinned(|| {
        Spi::connect(|client| {
            let rows = client.select(
                &format!("SELECT {COLUMNS} FROM pg_catalog.pg_trigger t WHERE {IS_ROW_TRIGGER} AND t.tgparentid = 0 AND t.tgrelid IS DISTINCT FROM $1"),
                None,
                &[table.into()],
            )?;
            rows.map(|row| Tracked::from_row(&row))
                .collect::<Result<Vec<_>, pgrx::spi::SpiError>>()
        })
    });
    let others = match others {
        Ok(others) => others,
        Err(error) => pgrx::error!("pg_cdc could not read pg_trigger: {error}"),
    };
    // What somebody wrote into a trigger takes nothing from anybody.
    for (other, tracked) in others.iter().filter(|(_, tracked)| tracked.is_here()) {
        let taken = &tracked.options;
        for taken in [&taken.topic].into_iter().chain(taken.topics.values()) {
            refuse_taken(topic, taken, &Table::at(*other).name);
        }
    }
}

/// Kafka refuses names that differ only in "." and "_": they share the name of a metric.
fn collapsed(topic: &str) -> String {
    topic.replace('.', "_")
}

/// CDC0106 and CDC0109.
fn refuse_taken(topic: &str, taken: &str, other: &str) {
    if taken == topic {
        Trouble::new(
            Code::TopicTaken,
            format!("topic \"{topic}\" belongs to {other}"),
            "Choose another topic =>.",
        )
        .raise();
    }
    if collapsed(taken) == collapsed(topic) {
        Trouble::new(
            Code::TopicCollides,
            format!("topic \"{topic}\" collides in Kafka with \"{taken}\""),
            "Choose another topic =>.",
        )
        .detail(format!(
            "Topic \"{taken}\" belongs to {other}, and Kafka takes \".\" and \"_\" for the same."
        ))
        .raise();
    }
}
