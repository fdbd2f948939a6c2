//! Columns that get another type.

use crate::sink::postgres::schema::definition::Definition;
use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::target::quoted;
use std::collections::BTreeMap;
use std::collections::HashMap;

/// Another type of a column.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cast {
    /// Quoted.
    pub(super) column: String,
    pub(super) type_expression: String,
    /// Nothing is there to be cast.
    pub(super) of_nothing: bool,
}

impl Cast {
    pub(super) fn step(&self) -> String {
        let Cast {
            column,
            type_expression,
            of_nothing,
        } = self;
        let value = if *of_nothing { "NULL" } else { column };
        format!("ALTER COLUMN {column} TYPE {type_expression} USING {value}::{type_expression}")
    }
}

pub(crate) fn drop_constraint(table: &Table, constraint: &str) -> String {
    format!(
        "ALTER TABLE {} DROP CONSTRAINT {}",
        table.name,
        quoted(constraint)
    )
}

/// What `ALTER TABLE` has to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Takes nothing away from readers.
    pub(super) widening: Vec<String>,
    pub(super) others: Vec<String>,
    /// After these.
    pub(super) casts: Vec<Cast>,
    /// Types that are named.
    pub(super) types: Vec<String>,
}

impl Plan {
    /// Compares the source's definition with what the target has. Columns that only the target has are its own, unless the
    /// source had them before.
    pub(super) fn of(
        table: &Table,
        renames: &BTreeMap<String, String>,
        definition: &Definition,
        before: Option<&Definition>,
        is_emptied: bool,
        target_name: impl Fn(&str) -> String,
    ) -> Plan {
        let mut plan = Plan::default();
        // Names that the target has after the renames.
        let mut names: Vec<String> = table
            .columns
            .iter()
            .map(|column| column.name.clone())
            .collect();
        let mut old_names: HashMap<&str, &str> = HashMap::new();
        for (old, new) in renames {
            let (from, to) = (target_name(old), target_name(new));
            old_names.insert(new, old);
            if from != to
                && !names.contains(&to)
                && let Some(name) = names.iter_mut().find(|name| **name == from)
            {
                plan.others.push(format!(
                    "RENAME COLUMN {} TO {}",
                    quoted(&from),
                    quoted(&to)
                ));
                *name = to;
            }
        }
        let before_of = |name: &str| {
            let name = old_names.get(name).copied().unwrap_or(name);
            before?.columns.iter().find(|column| column.name == name)
        };
        for column in &definition.columns {
            let name = target_name(&column.name);
            let type_expression = &column.type_expression;
            if !names.contains(&name) {
                // Rows that are there have no value yet: a snapshot brings it where the source fills it.
                plan.widening
                    .push(format!("ADD COLUMN {} {type_expression}", quoted(&name)));
                plan.types.push(type_expression.clone());
                continue;
            }
            let Some(before) = before_of(&column.name) else {
                continue;
            };
            if before.type_expression != *type_expression {
                plan.casts.push(Cast {
                    column: quoted(&name),
                    type_expression: type_expression.clone(),
                    of_nothing: is_emptied,
                });
                plan.types.push(type_expression.clone());
            }
            if !before.optional && column.optional {
                plan.widening
                    .push(format!("ALTER COLUMN {} DROP NOT NULL", quoted(&name)));
            }
        }
        let new_names: Vec<String> = definition
            .columns
            .iter()
            .map(|column| target_name(&column.name))
            .collect();
        for gone in before.into_iter().flat_map(|before| &before.columns) {
            let name = target_name(&gone.name);
            if names.contains(&name) && !new_names.contains(&name) {
                plan.others.push(format!("DROP COLUMN {}", quoted(&name)));
            }
        }
        plan
    }
}
