//! Who may write into which topic: a database has its prefix, a table its topics, and a database only so many.

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::catalog::database_name;
use crate::report::Raise;
use crate::settings;
use crate::shared;
use crate::tracked::rights::asks_as_admin;
use crate::tracked::rights::is_admin;
use crate::tracked::statement;

/// CDC0102: only an administrator may choose a topic outside the database's prefix, or below the prefix of another database.
pub(crate) fn refuse_others_topic(topic: &str) {
    let prefix = settings::topic_prefix(&database_name());
    if is_admin() || (is_below(topic, &prefix) && owner_of_prefix(topic, prefix.len()).is_none()) {
        return;
    }
    Trouble::new(
        Code::NotEntitled,
        format!("must be cdc_admin to use topic \"{topic}\""),
        format!("Choose a topic that begins with \"{prefix}.\", or let an administrator GRANT cdc_admin to you."),
    )
    .raise();
}

/// CDC0607: an order about another database's topic, by somebody who may give orders to this one's sender only.
pub(crate) fn refuse_order_about(topic: &str) {
    // SAFETY: a catalog look-up inside the running transaction; the database is set for the life of a backend.
    let (is_superuser, database) = unsafe { (pg_sys::superuser(), pg_sys::MyDatabaseId.to_u32()) };
    let writer = shared::shared().map_or(0, |shared| shared.topic_counters.database_of(topic));
    let prefix = settings::topic_prefix(&database_name());
    let own_bytes = if is_below(topic, &prefix) {
        prefix.len()
    } else {
        0
    };
    let is_own = writer == database || (writer == 0 && owner_of_prefix(topic, own_bytes).is_none());
    if is_own || is_superuser {
        return;
    }
    Trouble::new(
        Code::TopicOfOthers,
        format!("topic \"{topic}\" is another database's"),
        "Call the function in that database, or as a superuser.",
    )
    .raise();
}

/// CDC0606: what cannot be a topic's name; it goes into the server log.
pub(crate) fn refuse_no_topic(topic: &str) {
    if let Some(reason) = change::topic_name::refusal(topic) {
        Trouble::new(
            Code::OrderUnusable,
            "the order names no topic",
            "SELECT topic FROM cdc_tables shows those of this database.",
        )
        .detail(format!("Of a topic's name, {reason}."))
        .raise();
    }
}

/// CDC0109 and CDC0126: topics that a table or an application is about to have collide neither with each other nor with those
/// that the sender knows, of whichever database; and a database has not too many of them.
pub(crate) fn admit(topics: &[&str]) {
    for (place, topic) in topics.iter().enumerate() {
        let metric = change::topic_name::metric(topic);
        let earlier = topics[..place].iter();
        let mut others = earlier.filter(|other| *other != topic);
        if let Some(other) = others.find(|other| change::topic_name::metric(other) == metric) {
            collision(topic, &format!("\"{other}\""))
                .detail("Both are asked for, and Kafka takes \".\" and \"_\" for the same.")
                .raise();
        }
    }
    let Some(shared) = shared::shared() else {
        return;
    };
    let counters = &shared.topic_counters;
    if let Some(topic) = topics.iter().find(|topic| counters.collides(topic)) {
        collision(topic, "another one")
            .detail("The sender has written to a topic, or a table was to have one, whose name differs only in \".\" and \"_\", which Kafka takes for the same.")
            .raise();
    }
    // SAFETY: set for the life of a backend.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let is_new = |topic: &&&str| counters.database_of(topic) != database;
    let added = topics.iter().filter(is_new).count();
    let most = settings::MAX_TOPICS.get().max(0) as usize;
    if added > 0 && counters.of_database(database) + added > most && !asks_as_admin() {
        too_many_topics(most).raise();
    }
    for topic in topics {
        counters.claim_for(topic, database);
    }
}

fn collision(topic: &str, other: &str) -> Trouble {
    Trouble::new(
        Code::TopicCollides,
        format!("topic \"{topic}\" collides in Kafka with {other}"),
        "Choose another topic =>.",
    )
}

/// CDC0126.
fn too_many_topics(most: usize) -> Trouble {
    Trouble::new(
        Code::TooManyTopics,
        format!("this database may have {most} topics"),
        "Use topics that it has, or let an administrator raise cdc.max_topics, or call the function.",
    )
    .detail("Topics of tables that are not tracked any more count as long as Kafka has them.")
}

fn is_below(topic: &str, prefix: &str) -> bool {
    let rest = topic.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.starts_with('.'))
}

/// Another database whose prefix the topic begins with, if that prefix is longer than `own_bytes`.
fn owner_of_prefix(topic: &str, own_bytes: usize) -> Option<String> {
    let found = statement::pinned(|| {
        Spi::connect(|client| {
            let rows = client.select(
                "SELECT d.datname::text, (SELECT pg_catalog.substr(c, 18) FROM pg_catalog.unnest(s.setconfig) AS c
                     WHERE pg_catalog.starts_with(c, 'cdc.topic_prefix=') LIMIT 1)
                 FROM pg_catalog.pg_database d
                 LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0
                 WHERE d.datname <> pg_catalog.current_database()",
                None,
                &[],
            )?;
            rows.map(|row| Ok((row.get::<String>(1)?, row.get::<String>(2)?)))
                .collect::<Result<Vec<_>, pgrx::spi::SpiError>>()
        })
    });
    let others = match found {
        Ok(others) => others,
        Err(error) => pgrx::error!("pg_cdc could not read pg_database: {error}"),
    };
    let mut others = others.into_iter().filter_map(|(database, prefix)| {
        let database = database?;
        let prefix = prefix.filter(|prefix| !prefix.is_empty());
        let prefix = prefix.unwrap_or_else(|| change::topic_name::join(&[&database]));
        Some((database, prefix))
    });
    let owner = others.find(|(_, prefix)| prefix.len() > own_bytes && is_below(topic, prefix));
    owner.map(|(database, _)| database)
}
