//! Follows changes of a table's definition: what the source's schema events say, the target's tables become.

use crate::sink::postgres::schema::casts::{Cast, Plan, drop_constraint};

use crate::sink::postgres::schema::schema_event::SchemaBody;

use crate::sink::postgres::schema::definition::Definition;
use crate::sink::postgres::settings::Settings;

use change::trouble::Trouble;
use tokio_postgres::Client;

use crate::config::FollowSchema;
use crate::error::{Code, Recovery, Result};
use crate::sink::postgres::failure::{classify, state_of};
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::tables::Tables;
use crate::sink::postgres::schema::tables::missing_table;
use crate::sink::postgres::schema::target::Target;
use crate::sink::postgres::schema::target::qualified;
use crate::sink::postgres::schema::target::quoted;

/// The definition that the target follows, as the state keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FollowedDefinition {
    /// The target's table.
    pub(crate) target: Target,
    /// What the source's was.
    pub(crate) definition: Definition,
    /// The source has dropped its table: its rows are here until another table comes into the topic.
    pub(crate) is_dropped: bool,
}

/// Where a schema event is followed.
pub(crate) struct Follower<'f> {
    /// The connection; a transaction may be open.
    pub(crate) client: &'f Client,
    /// What may be followed.
    pub(crate) settings: &'f Settings,
    /// The event's `cdc.table`.
    pub(crate) header: &'f str,
    /// The target's table has been emptied in this transaction: nothing is there that could be cast.
    pub(crate) is_emptied: bool,
}

impl Follower<'_> {
    /// Makes the target's table what the source's is now; `before` is what was followed last. Returns what is followed now,
    /// `None` where the event has no definition. A copy of an event that was followed finds nothing to do.
    pub(crate) async fn follow(
        &self,
        tables: &mut Tables,
        body: &SchemaBody<'_>,
        before: Option<&FollowedDefinition>,
    ) -> Result<Option<FollowedDefinition>> {
        let Some(definition) = body.definition() else {
            return Ok(None);
        };
        let (client, settings) = (self.client, self.settings);
        let target = settings.target(self.header, &body.source);
        if let Some(before) = before
            && before.target != target
        {
            self.rename(tables, body, &before.target, &target).await?;
        }
        let there = tables
            .load(client, settings, target.clone(), &body.source)
            .await?;
        match there {
            None if self.is_made_like(body, definition).await? => {}
            None if settings.create_tables => self.create(&target, body, definition).await?,
            None => return Err(missing_table(&target).error()),
            Some(table) => {
                let before = before.map(|before| &before.definition);
                if let Some(before) = before {
                    self.drop_key(&table, body, definition, before).await?;
                }
                self.alter(&table, body, definition, before).await?;
                let table = tables
                    .load(client, settings, target.clone(), &body.source)
                    .await?;
                if let Some((before, table)) = before.zip(table) {
                    self.change_key(&table, body, definition, before).await?;
                }
            }
        }
        tables
            .refresh(client, settings, self.header, &body.source)
            .await?;
        if let Some(shadow) = &settings.shadow {
            let target = settings.target_for_readers(self.header, &body.source);
            shadow.note(target, &body.source);
        }
        Ok(Some(FollowedDefinition {
            target,
            definition: definition.clone(),
            is_dropped: false,
        }))
    }

    /// Makes the shadow of a table that has this definition now.
    async fn is_made_like(&self, body: &SchemaBody<'_>, definition: &Definition) -> Result<bool> {
        let Some(shadow) = &self.settings.shadow else {
            return Ok(false);
        };
        let target = self.settings.target_for_readers(self.header, &body.source);
        if shadow.definitions.get(&target) != Some(definition) {
            return Ok(false);
        }
        shadow.make_like(self.client, &target).await
    }

    /// The source's table has another name, or schema.
    async fn rename(
        &self,
        tables: &mut Tables,
        body: &SchemaBody<'_>,
        from: &Target,
        to: &Target,
    ) -> Result<()> {
        let (client, settings) = (self.client, self.settings);
        let is_there = |table: Option<Table>| table.is_some();
        let to_is_there = is_there(
            tables
                .load(client, settings, to.clone(), &body.source)
                .await?,
        );
        let from_is_there = is_there(
            tables
                .load(client, settings, from.clone(), &body.source)
                .await?,
        );
        if to_is_there || !from_is_there {
            return Ok(());
        }
        let mut steps = Vec::new();
        if from.schema != to.schema {
            self.make_schema(&to.schema).await?;
            steps.push(format!(
                "ALTER TABLE {} SET SCHEMA {}",
                from.quoted(),
                quoted(&to.schema)
            ));
        }
        if from.table != to.table {
            steps.push(format!(
                "ALTER TABLE {} RENAME TO {}",
                qualified(&to.schema, &from.table),
                quoted(&to.table)
            ));
        }
        self.take_away(&steps).await
    }

    async fn create(
        &self,
        target: &Target,
        body: &SchemaBody<'_>,
        definition: &Definition,
    ) -> Result<()> {
        let column = |name: &str| quoted(self.settings.target_column(&body.source, name));
        let mut parts = Vec::with_capacity(definition.columns.len() + 1);
        for column_definition in &definition.columns {
            self.check_type(&column_definition.type_expression, target)
                .await?;
            let not_null = if column_definition.optional {
                ""
            } else {
                " NOT NULL"
            };
            parts.push(format!(
                "{} {}{not_null}",
                column(&column_definition.name),
                column_definition.type_expression
            ));
        }
        if !definition.primary_key_column_names.is_empty() {
            let key = definition
                .primary_key_column_names
                .iter()
                .map(|name| column(name));
            parts.push(format!(
                "PRIMARY KEY ({})",
                key.collect::<Vec<_>>().join(", ")
            ));
        }
        self.make_schema(&target.schema).await?;
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {} ({})",
            target.quoted(),
            parts.join(", ")
        );
        self.execute(&[sql]).await?;
        tracing::info!(table = target.quoted(), "table made");
        Ok(())
    }

    /// Brings an existing table to the source's definition.
    async fn alter(
        &self,
        table: &Table,
        body: &SchemaBody<'_>,
        definition: &Definition,
        before: Option<&Definition>,
    ) -> Result<()> {
        let plan = Plan::of(
            table,
            &body.change.renames,
            definition,
            before,
            self.is_emptied,
            |name| self.settings.target_column(&body.source, name).to_owned(),
        );
        for type_expression in &plan.types {
            self.check_type(type_expression, &table.target).await?;
        }
        let alter = |step: &String| format!("ALTER TABLE {} {step}", table.name);
        let (widening, others): (Vec<String>, Vec<String>) = (
            plan.widening.iter().map(alter).collect(),
            plan.others.iter().map(alter).collect(),
        );
        let casts = plan.casts.iter().map(|cast| alter(&cast.step()));
        let casts: Vec<String> = casts.collect();
        let may_widen = self.settings.follow_schema != FollowSchema::Halt;
        let may_all = self.settings.follow_schema == FollowSchema::All;
        let needs_all = !others.is_empty() || !casts.is_empty();
        if (!may_all && needs_all) || (!may_widen && !widening.is_empty()) {
            return Err(self.not_followed(&[others, casts, widening].concat()));
        }
        self.execute(&others).await?;
        for (cast, step) in plan.casts.iter().zip(&casts) {
            self.cast(table, cast, step, body.awaits_snapshot()).await?;
        }
        self.execute(&widening).await
    }

    /// Changes a column's type. Where its values cannot be cast and a snapshot brings them anew, for the source computed them in
    /// some other way, they are emptied until then.
    async fn cast(
        &self,
        table: &Table,
        cast: &Cast,
        step: &String,
        values_come: bool,
    ) -> Result<()> {
        if !values_come {
            return self.execute(std::slice::from_ref(step)).await;
        }
        let savepoint = |sql: &'static str| async move {
            let done = self.client.batch_execute(sql).await;
            done.map_err(|error| classify(sql, &error))
        };
        savepoint("SAVEPOINT casting").await?;
        let Err(error) = self.client.batch_execute(step).await else {
            tracing::info!(statement = step.as_str(), "the target follows the source");
            return savepoint("RELEASE SAVEPOINT casting").await;
        };
        savepoint("ROLLBACK TO SAVEPOINT casting; RELEASE SAVEPOINT casting").await?;
        let is_of_values = state_of(&error)
            .is_some_and(|state| state.starts_with("22") || matches!(state, "42846" | "42804"));
        if !is_of_values {
            return Err(not_possible(step, classify(step, &error)));
        }
        let Cast {
            column,
            type_expression,
            ..
        } = cast;
        let emptied = format!(
            "ALTER TABLE {} ALTER COLUMN {column} DROP NOT NULL, ALTER COLUMN {column} TYPE {type_expression} USING NULL::{type_expression}",
            table.name
        );
        self.execute(&[emptied]).await
    }

    /// The key that identified rows does so no more: rows may be alike in it now, or have no value there.
    async fn drop_key(
        &self,
        table: &Table,
        body: &SchemaBody<'_>,
        definition: &Definition,
        before: &Definition,
    ) -> Result<()> {
        let renames = &body.change.renames;
        let key = before.primary_key_column_names.iter();
        let key: Vec<&String> = key.map(|name| renames.get(name).unwrap_or(name)).collect();
        if key.iter().copied().eq(&definition.primary_key_column_names) {
            return Ok(());
        }
        let names = before.primary_key_column_names.iter();
        let names = names.map(|name| self.settings.target_column(&body.source, name));
        match &table.primary_key {
            Some((constraint, columns)) if names.eq(columns.iter().map(String::as_str)) => {
                self.take_away(&[drop_constraint(table, constraint)]).await
            }
            _ => Ok(()),
        }
    }

    /// Another key identifies rows now.
    async fn change_key(
        &self,
        table: &Table,
        body: &SchemaBody<'_>,
        definition: &Definition,
        before: &Definition,
    ) -> Result<()> {
        let key = &definition.primary_key_column_names;
        let names = key
            .iter()
            .map(|name| self.settings.target_column(&body.source, name).to_owned());
        let names: Vec<String> = names.collect();
        if names.is_empty() || before.primary_key_column_names == *key || table.is_unique(&names) {
            return Ok(());
        }
        let mut steps = Vec::new();
        if let Some((constraint, _)) = &table.primary_key {
            steps.push(drop_constraint(table, constraint));
        }
        let columns: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        steps.push(format!(
            "ALTER TABLE {} ADD PRIMARY KEY ({})",
            table.name,
            columns.join(", ")
        ));
        self.take_away(&steps).await
    }

    async fn make_schema(&self, schema: &str) -> Result<()> {
        let exists = self
            .client
            .query_opt(
                "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1",
                &[&schema],
            )
            .await
            .map_err(|error| classify("reading the catalog", &error))?;
        // IF NOT EXISTS wants the right to create schemas even where there is nothing to do.
        match exists {
            Some(_) => Ok(()),
            None => {
                self.execute(&[format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema))])
                    .await
            }
        }
    }

    /// Does what takes something away from readers, where that may be followed.
    async fn take_away(&self, steps: &[String]) -> Result<()> {
        match self.settings.follow_schema {
            FollowSchema::All => self.execute(steps).await,
            FollowSchema::Add | FollowSchema::Halt => Err(self.not_followed(steps)),
        }
    }

    async fn execute(&self, steps: &[String]) -> Result<()> {
        for step in steps {
            let done = self.client.batch_execute(step).await;
            done.map_err(|error| not_possible(step, classify(step, &error)))?;
            tracing::info!(statement = step.as_str(), "the target follows the source");
        }
        Ok(())
    }

    /// A change that the configuration leaves to a person (CDC1011).
    fn not_followed(&self, steps: &[String]) -> Trouble {
        let name = match self.settings.follow_schema {
            FollowSchema::All => "all",
            FollowSchema::Add => "add",
            FollowSchema::Halt => "halt",
        };
        Trouble::new(
            Code::SchemaChange,
            format!(
                "postgres: table {} was changed at the source, and follow_schema is \"{name}\"",
                self.header
            ),
            format!("On the target: {}; then send SIGHUP.", steps.join("; ")),
        )
    }

    /// The expression goes into SQL: only what the server reads as the name of a type is let through.
    async fn check_type(&self, expression: &str, target: &Target) -> Result<()> {
        let known = self
            .client
            .query_one("SELECT to_regtype($1) IS NOT NULL", &[&expression])
            .await;
        let known = match known {
            Ok(row) => row.get(0),
            Err(error) if error.as_db_error().is_some() => false,
            Err(error) => return Err(classify("asking for a type", &error)),
        };
        if known {
            return Ok(());
        }
        Err(Trouble::new(
            Code::SchemaChange,
            format!(
                "postgres: the target has no type {expression}, which {} needs",
                target.quoted()
            ),
            "Create the type (CREATE TYPE or CREATE EXTENSION) on the target, then send SIGHUP.",
        ))
    }
}

/// What the server refuses, a person has to do (CDC1011); what passes is tried again.
fn not_possible(step: &str, error: Trouble) -> Trouble {
    if error.code.recovery() != Recovery::Halt {
        return error;
    }
    Trouble::new(
        Code::SchemaChange,
        error.message,
        format!("Do on the target by hand what this was to do, then send SIGHUP: {step}"),
    )
}
