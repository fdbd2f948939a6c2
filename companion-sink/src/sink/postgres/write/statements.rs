//! The SQL of the replica. Values go as arrays of text, one for each column, so that one statement and one plan serve
//! batches of every size; each is cast to its column's type by the server itself.

use std::fmt::Write;

use crate::sink::postgres::schema::tables::Table;
use crate::sink::postgres::schema::target::quoted;

/// `INSERT ... ON CONFLICT` of rows with the columns at `columns`, whose key is `key` (places as well).
/// Without `key` rows are appended.
pub(crate) fn insert(table: &Table, columns: &[usize], key: Option<&[usize]>) -> String {
    let names = names(table, columns);
    let mut sql = format!(
        "INSERT INTO {} AS o ({names}) OVERRIDING SYSTEM VALUE SELECT ",
        table.name
    );
    for (place, column) in columns.iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(
            sql,
            "{comma}u.c{place}::{}",
            table.columns[*column].type_name
        );
    }
    sql += &format!(" FROM {}", unnest(columns.len()));
    let Some(key) = key else {
        return sql;
    };
    let _ = write!(sql, " ON CONFLICT ({}) DO ", self::names(table, key));
    let assignments = columns
        .iter()
        .filter(|column| !key.contains(column) || !table.columns[**column].exact_equality)
        .map(|column| &table.columns[*column])
        .filter(|column| !column.fixed)
        .map(|column| quoted(&column.name))
        .map(|name| format!("{name} = EXCLUDED.{name}"));
    let assignments = assignments.collect::<Vec<_>>();
    if assignments.is_empty() {
        sql += &format!("UPDATE SET {}", unchanged(table, "o"));
    } else {
        sql += "UPDATE SET ";
        sql += &assignments.join(", ");
    }
    sql
}

/// Writes a row and changes nothing: the end of a snapshot tells by that which rows are still there. Who asks sees to it that
/// the table has such a column.
fn unchanged(table: &Table, alias: &str) -> String {
    let name = table.writable().map_or("", |column| &column.name);
    format!("{name} = {alias}.{name}", name = quoted(name))
}

/// `DELETE` of the rows that have other values in the `fixed` columns than come with their keys: in the place of such a row
/// another one is inserted. The values are those of the columns at `columns`, which an upsert takes next.
pub(crate) fn delete_otherwise_fixed(
    table: &Table,
    columns: &[usize],
    key: &[usize],
    fixed: &[usize],
) -> String {
    let compared = |place: &usize, operator: &str| {
        let at = columns.iter().position(|column| column == place);
        let column = &table.columns[*place];
        format!(
            "t.{} {operator} u.c{}::{}",
            quoted(&column.name),
            at.unwrap_or_default(),
            column.type_name
        )
    };
    let same = key.iter().map(|place| compared(place, "="));
    let other = fixed
        .iter()
        .map(|place| compared(place, "IS DISTINCT FROM"));
    format!(
        "DELETE FROM {} AS t USING {} WHERE {} AND ({})",
        table.name,
        unnest(columns.len()),
        same.collect::<Vec<_>>().join(" AND "),
        other.collect::<Vec<_>>().join(" OR ")
    )
}

/// The columns of `columns` outside of `key` that can be given a value only when a row is inserted.
pub(crate) fn fixed(table: &Table, columns: &[usize], key: &[usize]) -> Vec<usize> {
    let places = columns.iter().copied();
    places
        .filter(|place| table.columns[*place].fixed && !key.contains(place))
        .collect()
}

/// `UPDATE` of rows to the values of the columns at `columns`, found by those of `key`, which are among them.
pub(crate) fn update(table: &Table, columns: &[usize], key: &[usize]) -> String {
    let value = |place: usize| {
        let column = &table.columns[columns[place]];
        (
            quoted(&column.name),
            format!("u.c{place}::{}", column.type_name),
        )
    };
    let (mut assignments, mut conditions) = (Vec::new(), Vec::new());
    for (place, column) in columns.iter().enumerate() {
        let (name, value) = value(place);
        if key.contains(column) {
            conditions.push(format!("t.{name} = {value}"));
        } else {
            assignments.push(format!("{name} = {value}"));
        }
    }
    if assignments.is_empty() {
        assignments.push(unchanged(table, "t"));
    }
    format!(
        "UPDATE {} AS t SET {} FROM {} WHERE {}",
        table.name,
        assignments.join(", "),
        unnest(columns.len()),
        conditions.join(" AND ")
    )
}

/// `COPY` of rows with the columns at `columns`, as text.
pub(crate) fn copy(table: &Table, columns: &[usize]) -> String {
    format!("COPY {} ({}) FROM STDIN", table.name, names(table, columns))
}

/// `DELETE` of the rows with the given keys.
pub(crate) fn delete(table: &Table, key: &[usize]) -> String {
    if let [only] = key {
        let column = &table.columns[*only];
        return format!(
            "DELETE FROM {} WHERE {} = ANY ($1::text[]::{}[])",
            table.name,
            quoted(&column.name),
            column.type_name
        );
    }
    let conditions = key.iter().enumerate().map(|(place, column)| {
        let column = &table.columns[*column];
        format!(
            "t.{} = u.c{place}::{}",
            quoted(&column.name),
            column.type_name
        )
    });
    format!(
        "DELETE FROM {} AS t USING {} WHERE {}",
        table.name,
        unnest(key.len()),
        conditions.collect::<Vec<_>>().join(" AND ")
    )
}

/// `DELETE` of the rows that were last written before the transaction `$1`, but for those with the keys at `kept`, whose
/// values are the parameters from `$2` on.
pub(crate) fn delete_older(table: &Table, kept: &[usize]) -> String {
    let mut sql = format!(
        "DELETE FROM {} AS t WHERE age(t.xmin) > age($1::text::xid8::xid)",
        table.name
    );
    if !kept.is_empty() {
        let conditions = kept.iter().enumerate().map(|(place, column)| {
            let column = &table.columns[*column];
            format!(
                "t.{} = u.c{place}::{}",
                quoted(&column.name),
                column.type_name
            )
        });
        let _ = write!(
            sql,
            " AND NOT EXISTS (SELECT FROM {} WHERE {})",
            unnest_from(kept.len(), 2),
            conditions.collect::<Vec<_>>().join(" AND ")
        );
    }
    sql
}

/// `INSERT` of one row with the columns at `columns`.
pub(crate) fn insert_one(table: &Table, columns: &[usize]) -> String {
    let values = columns.iter().enumerate().map(|(place, column)| {
        format!("${}::text::{}", place + 1, table.columns[*column].type_name)
    });
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {}",
        table.name,
        names(table, columns),
        values.collect::<Vec<_>>().join(", ")
    )
}

/// `DELETE` of exactly one row that equals the image with the columns at `before`.
pub(crate) fn delete_one(table: &Table, before: &[usize]) -> String {
    format!(
        "WITH {} DELETE FROM {} AS t USING victim WHERE t.ctid = victim.place AND t.tableoid = victim.relation",
        victim(table, before, 0),
        table.name
    )
}

/// `UPDATE` of exactly one row that equals the image with the columns at `before`, to one with those at `after`.
/// The parameters are the values of `after`, then those of `before`.
pub(crate) fn update_one(table: &Table, after: &[usize], before: &[usize]) -> String {
    let assignments = after.iter().enumerate().map(|(place, column)| {
        let column = &table.columns[*column];
        format!(
            "{} = ${}::text::{}",
            quoted(&column.name),
            place + 1,
            column.type_name
        )
    });
    let mut assignments: Vec<String> = assignments.collect();
    if assignments.is_empty() {
        assignments.push(unchanged(table, "t"));
    }
    format!(
        "WITH {} UPDATE {} AS t SET {} FROM victim WHERE t.ctid = victim.place AND t.tableoid = victim.relation",
        victim(table, before, after.len()),
        table.name,
        assignments.join(", ")
    )
}

fn victim(table: &Table, before: &[usize], parameters_before: usize) -> String {
    let conditions = before.iter().enumerate().map(|(place, column)| {
        let column = &table.columns[*column];
        let name = quoted(&column.name);
        let value = format!(
            "${}::text::{}",
            parameters_before + place + 1,
            column.type_name
        );
        if column.exact_equality {
            format!("{name} IS NOT DISTINCT FROM {value}")
        } else {
            // No equality (json), or one that takes different values for the same (numeric, float, citext, box).
            format!("{name}::text IS NOT DISTINCT FROM ({value})::text")
        }
    });
    format!(
        "victim AS (SELECT tableoid AS relation, ctid AS place FROM {} WHERE {} LIMIT 1)",
        table.name,
        conditions.collect::<Vec<_>>().join(" AND ")
    )
}

fn names(table: &Table, columns: &[usize]) -> String {
    let names = columns
        .iter()
        .map(|column| quoted(&table.columns[*column].name));
    names.collect::<Vec<_>>().join(", ")
}

fn unnest(columns: usize) -> String {
    unnest_from(columns, 1)
}

/// The arrays are the parameters from `first` on.
fn unnest_from(columns: usize, first: usize) -> String {
    let list = |prefix: &str, suffix: &str, from: usize| {
        let parts = (0..columns).map(|place| format!("{prefix}{}{suffix}", place + from));
        parts.collect::<Vec<_>>().join(", ")
    };
    format!(
        "unnest({}) AS u({})",
        list("$", "::text[]", first),
        list("c", "", 0)
    )
}
