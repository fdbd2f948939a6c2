//! Which table each topic belongs to: the one that it was first seen with, and what that is called since. An event of another
//! one is set aside, and so is one of a table that another topic brings: whoever may write a topic, or own a table of the source,
//! reaches no table but their own.

use std::collections::HashMap;

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::config::topic_pattern::matches;
use crate::error::{Code, Result};
use crate::event::TableName;
use crate::rejected::failure::Failure;
use crate::rejected::origin;
use crate::sink::postgres::failure::classify;
use crate::sink::postgres::schema::target::Target;
use crate::sink::postgres::settings::Settings;

/// The table of the state schema, for one sink.
pub(crate) struct Topics<'s> {
    /// Quoted.
    pub(crate) schema: &'s str,
    pub(crate) sink: &'s str,
}

/// What is known of it.
#[derive(Default)]
pub(crate) struct Bindings {
    of_topics: Option<HashMap<String, Bound>>,
    /// Schemas that were looked at: whether they hold the state of a companion-sink.
    have_state: HashMap<String, bool>,
    /// The open transaction has added to them.
    has_added: bool,
}

/// What a topic belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The events' `cdc.table`; none where an earlier version of companion-sink has not noted it.
    pub(crate) header: Option<String>,
    /// The table that readers use.
    pub(crate) target: Target,
}

/// An event and where it wants to go.
pub(crate) struct Wish<'w> {
    /// Its topic.
    pub(crate) topic: &'w str,
    /// Its `cdc.table`.
    pub(crate) header: &'w str,
    /// What its body names.
    pub(crate) source: &'w TableName<'w>,
    /// It says that the table was renamed.
    pub(crate) is_rename: bool,
}

/// Why an event may not go there.
pub(crate) enum Refusal {
    /// It is forged, or not allowed.
    Final(Failure),
    /// Another topic has the table, at this time: where topics are read independently, that one's renaming may still come.
    Claimed(Failure),
}

impl Refusal {
    /// Either way.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Refusal::Final(failure) | Refusal::Claimed(failure) => failure,
        }
    }
}

impl Topics<'_> {
    /// The statements that make the table, with what is known of topics that were followed before there was one.
    pub(crate) fn create(schema: &str) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {schema}.topics (
                 sink text NOT NULL, topic text NOT NULL, source_table text, target_schema text NOT NULL, target_table text NOT NULL,
                 since timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (sink, topic));
             COMMENT ON TABLE {schema}.topics IS 'companion-sink: the table that each topic belongs to; events of others are set aside ({foreign})';
             INSERT INTO {schema}.topics (sink, topic, target_schema, target_table)
                 SELECT sink, topic, target_schema, target_table FROM {schema}.definitions ON CONFLICT DO NOTHING",
            foreign = Code::Foreign
        )
    }

    async fn read(&self, client: &Client) -> Result<HashMap<String, Bound>> {
        let sql = format!(
            "SELECT topic, source_table, target_schema, target_table FROM {}.topics WHERE sink = $1",
            self.schema
        );
        let rows = client.query(&sql, &[&self.sink]).await;
        let rows = rows.map_err(|error| classify("reading the topics' tables", &error))?;
        let bound = rows.iter().map(|row| {
            let bound = Bound {
                header: row.get(1),
                target: Target {
                    schema: row.get(2),
                    table: row.get(3),
                },
            };
            (row.get(0), bound)
        });
        Ok(bound.collect())
    }

    async fn write(&self, client: &Client, topic: &str, bound: &Bound) -> Result<()> {
        let sql = format!(
            "INSERT INTO {}.topics (sink, topic, source_table, target_schema, target_table) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (sink, topic) DO UPDATE SET source_table = EXCLUDED.source_table,
                 target_schema = EXCLUDED.target_schema, target_table = EXCLUDED.target_table",
            self.schema
        );
        let Bound { header, target } = bound;
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&self.sink, &topic, header, &target.schema, &target.table];
        let written = client.execute(&sql, &parameters).await;
        written
            .map(drop)
            .map_err(|error| classify("noting a topic's table", &error))
    }

    async fn forget(&self, client: &Client, topic: &str) -> Result<()> {
        let sql = format!(
            "DELETE FROM {}.topics WHERE sink = $1 AND topic = $2",
            self.schema
        );
        let done = client.execute(&sql, &[&self.sink, &topic]).await;
        done.map(drop)
            .map_err(|error| classify("forgetting a topic's table", &error))
    }
}

impl Bindings {
    /// Whether the open transaction has added to them: undone, they must be read again.
    pub(crate) fn has_added(&self) -> bool {
        self.has_added
    }

    /// The transaction is committed.
    pub(crate) fn settled(&mut self) {
        self.has_added = false;
    }

    /// What a topic belongs to, as far as this instance knows.
    pub(crate) fn known(&self, topic: &str) -> Option<&Bound> {
        self.of_topics.as_ref()?.get(topic)
    }

    /// Why an event may not go where it wants to. If it may, its topic belongs to that table from now on.
    pub(crate) async fn admit(
        &mut self,
        client: &Client,
        topics: &Topics<'_>,
        settings: &Settings,
        wish: &Wish<'_>,
    ) -> Result<Option<Refusal>> {
        if let Err(failure) = origin::check(wish.header, wish.source) {
            return Ok(Some(Refusal::Final(failure)));
        }
        let target = settings.target_for_readers(wish.header, wish.source);
        if let Some(failure) = self.not_allowed(client, settings, &target).await? {
            return Ok(Some(Refusal::Final(failure)));
        }
        let mut refused = self
            .refused(client, topics, settings, wish, &target)
            .await?;
        if refused.is_some() {
            // Another instance may have seen what this one has not.
            self.of_topics = None;
            refused = self
                .refused(client, topics, settings, wish, &target)
                .await?;
        }
        if refused.is_some() {
            return Ok(refused);
        }
        let bound = Bound {
            header: Some(wish.header.to_owned()),
            target,
        };
        let known = self.read(client, topics).await?;
        if known.get(wish.topic) != Some(&bound) {
            topics.write(client, wish.topic, &bound).await?;
            known.insert(wish.topic.to_owned(), bound);
            self.has_added = true;
        }
        Ok(None)
    }

    /// The source no longer sends the table of a topic: the topic may get another one, and the table another topic. Why that is
    /// refused.
    pub(crate) async fn release(
        &mut self,
        client: &Client,
        topics: &Topics<'_>,
        topic: &str,
        header: &str,
    ) -> Result<Option<Failure>> {
        let known = self.read(client, topics).await?;
        let owner = known.get(topic).and_then(|bound| bound.header.as_deref());
        if let Some(owner) = owner.filter(|owner| *owner != header) {
            return Ok(Some(origin::foreign(topic, owner, header)));
        }
        if known.remove(topic).is_some() {
            topics.forget(client, topic).await?;
            self.has_added = true;
        }
        Ok(None)
    }

    async fn read(
        &mut self,
        client: &Client,
        topics: &Topics<'_>,
    ) -> Result<&mut HashMap<String, Bound>> {
        if self.of_topics.is_none() {
            self.of_topics = Some(topics.read(client).await?);
        }
        Ok(self.of_topics.get_or_insert_default())
    }

    async fn refused(
        &mut self,
        client: &Client,
        topics: &Topics<'_>,
        settings: &Settings,
        wish: &Wish<'_>,
        target: &Target,
    ) -> Result<Option<Refusal>> {
        let known = self.read(client, topics).await?;
        if let Some(bound) = known.get(wish.topic) {
            let is_same = match &bound.header {
                Some(header) => header == wish.header,
                None => bound.target == *target,
            };
            if !is_same && !wish.is_rename {
                let owner = bound.header.clone();
                let owner = owner.unwrap_or_else(|| bound.target.quoted());
                let failure = origin::foreign(wish.topic, &owner, wish.header);
                return Ok(Some(Refusal::Final(failure)));
            }
            if bound.target == *target {
                return Ok(None);
            }
        }
        let named = format!("{}.{}", wish.source.schema, wish.source.table);
        let mut several = settings.several_topics.iter();
        if several.any(|pattern| matches(pattern, &named)) {
            return Ok(None);
        }
        let mut others = known.iter().filter(|(topic, _)| *topic != wish.topic);
        let owner = others.find(|(_, bound)| bound.target == *target);
        Ok(owner.map(|(owner, _)| Refusal::Claimed(origin::taken(wish.header, owner))))
    }

    /// Why nobody's events may go to a table (CDC1013).
    async fn not_allowed(
        &mut self,
        client: &Client,
        settings: &Settings,
        target: &Target,
    ) -> Result<Option<Failure>> {
        if let Some(why) = settings.refuses_schema(&target.schema) {
            let what = format!("table {} may not be written: {why}", target.quoted());
            return Ok(Some(Failure::not_allowed(origin::shown(&what))));
        }
        let has_state = match self.have_state.get(&target.schema) {
            Some(has_state) => *has_state,
            None => {
                let has_state = has_state(client, &target.schema).await?;
                self.have_state.insert(target.schema.clone(), has_state);
                has_state
            }
        };
        Ok(has_state.then(|| {
            Failure::not_allowed(origin::shown(&format!(
                "table {} may not be written: the schema holds a companion-sink's state",
                target.quoted()
            )))
        }))
    }
}

/// Whether a schema of the target is the state of a companion-sink, of whichever instance, or what a replay builds.
async fn has_state(client: &Client, schema: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = 'offsets'
              AND pg_catalog.obj_description(c.oid, 'pg_class') LIKE 'companion-sink: %')";
    let row = client.query_one(sql, &[&schema]).await;
    row.map(|row| row.get(0))
        .map_err(|error| classify("reading the catalog", &error))
}
