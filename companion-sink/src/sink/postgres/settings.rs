//! The settings of a replica: those of the configuration, and what a running process adds.

use std::ops::Deref;
use std::sync::Arc;

use crate::config::topic_pattern::matches;
use crate::config::{self, Config, FollowSchema, Kind};
use crate::event::TableName;
use crate::sink::postgres::replay::shadow::Shadow;
use crate::sink::postgres::schema::target::Target;

/// How a replica is written.
#[derive(Clone)]
pub(crate) struct Settings {
    of_sink: config::PostgresSettings,
    /// Schemas where sinks of this configuration keep their state, and where replays build.
    kept_schemas: Vec<String>,
    /// Where the tables are while a replay builds them anew; none for those that readers use.
    pub(crate) shadow: Option<Arc<Shadow>>,
}

impl Deref for Settings {
    type Target = config::PostgresSettings;

    fn deref(&self) -> &config::PostgresSettings {
        &self.of_sink
    }
}

impl Settings {
    /// Those of a sink of `config`.
    pub(crate) fn new(config: &Config, of_sink: &config::PostgresSettings) -> Self {
        Settings {
            of_sink: of_sink.clone(),
            kept_schemas: kept_schemas(config),
            shadow: None,
        }
    }

    /// The same for a replay, which builds in `shadow` and keeps its state there.
    pub(crate) fn in_shadow(&self, shadow: Arc<Shadow>) -> Self {
        let mut settings = self.clone();
        let of_sink = &mut settings.of_sink;
        of_sink.state_schema.clone_from(&shadow.schema);
        of_sink.create_tables = true;
        of_sink.follow_schema = FollowSchema::All;
        settings.shadow = Some(shadow);
        settings
    }

    /// What the configuration makes of a table of the source; `header` is the event's `cdc.table`. In a replay its shadow.
    pub(crate) fn target(&self, header: &str, source: &TableName<'_>) -> Target {
        let target = self.target_for_readers(header, source);
        match &self.shadow {
            Some(shadow) => shadow.of(&target),
            None => target,
        }
    }

    /// The table that readers use, also in a replay.
    pub(crate) fn target_for_readers(&self, header: &str, source: &TableName<'_>) -> Target {
        let named = format!("{}.{}", source.schema, source.table);
        let named = self.tables.get(&named).and_then(|to| to.split_once('.'));
        if let Some((schema, table)) = named {
            return Target {
                schema: schema.to_owned(),
                table: table.to_owned(),
            };
        }
        let database = header.split('.').next().unwrap_or_default();
        Target {
            schema: self
                .schema
                .replace("{database}", database)
                .replace("{schema}", &source.schema),
            table: source.table.clone().into_owned(),
        }
    }

    /// Why no event may write to a schema of the target.
    pub(crate) fn refuses_schema(&self, schema: &str) -> Option<&'static str> {
        if schema.starts_with("pg_") || schema == "information_schema" {
            return Some("the schema is PostgreSQL's own");
        }
        if self.state_schema == schema || self.kept_schemas.iter().any(|kept| kept == schema) {
            return Some("the schema holds companion-sink's state");
        }
        let is_listed = self.schemas.iter().any(|pattern| matches(pattern, schema));
        (!self.schemas.is_empty() && !is_listed)
            .then_some("the schema is not among the sink's schemas")
    }

    /// The target's name for a column of the source.
    pub(crate) fn target_column<'n>(&'n self, source: &TableName<'_>, column: &'n str) -> &'n str {
        let named = format!("{}.{}.{column}", source.schema, source.table);
        self.columns.get(&named).map_or(column, String::as_str)
    }

    /// The source's name for a column of the target.
    pub(crate) fn source_column<'n>(&'n self, source: &TableName<'_>, column: &'n str) -> &'n str {
        let table = format!("{}.{}.", source.schema, source.table);
        self.columns
            .iter()
            .filter(|(_, target)| *target == column)
            .find_map(|(named, _)| named.strip_prefix(&table))
            .unwrap_or(column)
    }
}

/// The schemas of the sinks' states and of their replays.
fn kept_schemas(config: &Config) -> Vec<String> {
    let kept = config
        .sinks
        .iter()
        .filter_map(|(name, sink)| match &sink.kind {
            Kind::Postgres(postgres) => Some([
                postgres.state_schema.clone(),
                Shadow::schema_name(&config.name, name),
            ]),
            Kind::MongoHistory(_)
            | Kind::MongoView(_)
            | Kind::Webhook(_)
            | Kind::Mail(_)
            | Kind::Statistics(_) => None,
        });
    kept.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mapped_both_ways() {
        let postgres = config::PostgresSettings {
            columns: [("public.customer.id".into(), "kunde_id".into())].into(),
            ..config::PostgresSettings::default()
        };
        let settings = Settings {
            of_sink: postgres,
            kept_schemas: Vec::new(),
            shadow: None,
        };
        let table = |table: &'static str| TableName {
            db: "d".into(),
            schema: "public".into(),
            table: table.into(),
        };
        assert_eq!(settings.target_column(&table("customer"), "id"), "kunde_id");
        assert_eq!(settings.source_column(&table("customer"), "kunde_id"), "id");
        assert_eq!(settings.target_column(&table("other"), "id"), "id");
        assert_eq!(
            settings.source_column(&table("other"), "kunde_id"),
            "kunde_id"
        );
    }
}
