//! Documents, made of the rows that are there: nothing else has a part in what they hold.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use mongodb::bson::{Bson, Document};

use crate::error::Result;
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_view::affected::Rows;
use crate::sink::mongo_view::own_events::root::WHOLE;
use crate::sink::mongo_view::plan::{Edge, ID, Plan, REFUSED, prefix, translated, value_in};
use crate::sink::mongo_view::row::StoredRow;

/// Links that are looked up at once.
const LOOK_UP_MAX: usize = 1000;

/// What a root's document is now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assembled {
    /// Its `_id`.
    pub(crate) id: Bson,
    /// The document without its version; none where the root is gone.
    pub(crate) document: Option<Document>,
}

/// The documents of these roots. Of a root of which nothing is known there is none.
pub(crate) async fn documents(
    plan: &Plan,
    rows: &impl Rows,
    names: Names,
    roots: &[String],
) -> Result<Vec<Assembled>> {
    let root_rows = rows.by_ids(roots).await?;
    let there: Vec<&StoredRow> = root_rows.iter().filter(|row| row.row.is_some()).collect();
    let mut found: Vec<HashMap<String, Vec<StoredRow>>> = vec![HashMap::new(); plan.nodes.len()];
    for place in 1..plan.nodes.len() {
        let Some(edge) = &plan.nodes[place].edge else {
            continue;
        };
        let above: Vec<&StoredRow> = match edge.parent {
            0 => there.clone(),
            parent => found[parent].values().flatten().collect(),
        };
        found[place] = below(plan, rows, place, edge, &above).await?;
    }
    let assembly = Assembly { plan, names, found };
    let assembled = root_rows.iter().map(|root| {
        let mut refused = BTreeSet::new();
        let document = assembly.part(0, root, &mut refused).map(|part| {
            let mut document = Document::new();
            document.insert(ID, id_of(&root.key));
            document.extend(part);
            if !refused.is_empty() {
                document.insert(REFUSED, refused.into_iter().collect::<Vec<_>>());
            }
            document
        });
        Assembled {
            id: id_of(&root.key),
            document,
        }
    });
    Ok(assembled.collect())
}

/// The rows at a node below others, by the link that they are found by.
async fn below(
    plan: &Plan,
    rows: &impl Rows,
    place: usize,
    edge: &Edge,
    above: &[&StoredRow],
) -> Result<HashMap<String, Vec<StoredRow>>> {
    let table = &plan.nodes[place].table;
    let own = prefix(table, &edge.column);
    let links: BTreeSet<String> = above
        .iter()
        .flat_map(|row| links_down(plan, place, edge, row))
        .collect();
    let links: Vec<String> = links.into_iter().collect();
    let mut found: HashMap<String, Vec<StoredRow>> = HashMap::new();
    for links in links.chunks(LOOK_UP_MAX) {
        for row in rows.by_links(links).await? {
            let by = row.links.iter().find(|link| link.starts_with(&own));
            if let Some(by) = by.cloned() {
                found.entry(by).or_default().push(row);
            }
        }
    }
    for rows in found.values_mut() {
        rows.sort_by(|one, other| in_order(edge, one, other));
    }
    Ok(found)
}

/// By what the rows at a node are found that are below `row`.
fn links_down(plan: &Plan, place: usize, edge: &Edge, row: &StoredRow) -> Vec<String> {
    translated(
        row.links.iter(),
        (&plan.nodes[edge.parent].table, &edge.parent_column),
        (&plan.nodes[place].table, &edge.column),
    )
}

struct Assembly<'a> {
    plan: &'a Plan,
    names: Names,
    /// The rows at each node but the root, in their order, by what they are found by.
    found: Vec<HashMap<String, Vec<StoredRow>>>,
}

impl Assembly<'_> {
    /// What a row is in a document, with what is joined to it.
    fn part(
        &self,
        place: usize,
        row: &StoredRow,
        refused: &mut BTreeSet<String>,
    ) -> Option<Document> {
        let node = &self.plan.nodes[place];
        let columns = row.row.as_ref()?;
        refused.extend(row.refused.clone());
        let is_own = place == 0 && self.plan.own.is_some();
        let mut part = match node.fields.is_empty() {
            true if is_own => match columns.get(WHOLE) {
                Some(Bson::Document(value)) => value.clone(),
                _ => Document::new(),
            },
            true => columns.clone(),
            false => {
                let fields = node.fields.iter().map(|(name, column)| {
                    let value = value_in(columns, column).cloned();
                    let name = self.names.write(name).into_owned();
                    (name, value.unwrap_or(Bson::Null))
                });
                fields.collect()
            }
        };
        for child in &node.children {
            let Some(edge) = &self.plan.nodes[*child].edge else {
                continue;
            };
            let value = self.joined(*child, edge, row, refused);
            part.insert(self.names.write(&edge.field), value);
        }
        Some(part)
    }

    fn joined(
        &self,
        place: usize,
        edge: &Edge,
        row: &StoredRow,
        refused: &mut BTreeSet<String>,
    ) -> Bson {
        let by = links_down(self.plan, place, edge, row);
        let below = by.iter().filter_map(|link| self.found[place].get(link));
        let mut below = below.flatten().filter_map(|row| {
            let part = match &edge.reference {
                Some(collection) => self.reference(collection, row, refused),
                None => self.part(place, row, refused)?,
            };
            Some(Bson::Document(part))
        });
        match edge.is_many {
            true => Bson::Array(below.collect()),
            false => below.next().unwrap_or(Bson::Null),
        }
    }

    fn reference(
        &self,
        collection: &str,
        row: &StoredRow,
        refused: &mut BTreeSet<String>,
    ) -> Document {
        refused.extend(row.refused.clone());
        let mut reference = Document::new();
        reference.insert(self.names.write("$ref"), collection);
        reference.insert(self.names.write("$id"), id_of(&row.key));
        reference
    }
}

/// A key as an `_id`: the value of a single column, or an object of several.
pub(crate) fn id_of(key: &Bson) -> Bson {
    match key {
        Bson::Document(columns) if columns.len() == 1 => {
            columns.values().next().cloned().unwrap_or(Bson::Null)
        }
        key => key.clone(),
    }
}

/// The order of an array: by its column, then by the key.
fn in_order(edge: &Edge, one: &StoredRow, other: &StoredRow) -> Ordering {
    let of = |row: &StoredRow, column: &str| {
        let value = row.row.as_ref().and_then(|row| value_in(row, column));
        value.cloned().unwrap_or(Bson::Null)
    };
    let by_column = edge.order_by.as_ref().map(|(column, is_descending)| {
        let order = compare(&of(one, column), &of(other, column));
        match is_descending {
            true => order.reverse(),
            false => order,
        }
    });
    by_column
        .unwrap_or(Ordering::Equal)
        .then_with(|| compare(&id_of(&one.key), &id_of(&other.key)))
        .then_with(|| one.id.cmp(&other.id))
}

/// An order of all values: numbers, also those that are texts for they are exact, before other texts; NULL last, as in SQL.
fn compare(one: &Bson, other: &Bson) -> Ordering {
    fn rank(value: &Bson) -> (u8, f64, String) {
        let number = match value {
            Bson::Int32(number) => Some(f64::from(*number)),
            Bson::Int64(number) => Some(*number as f64),
            Bson::Double(number) => Some(*number),
            Bson::String(text) => text.parse().ok(),
            _ => None,
        };
        match (number, value) {
            (Some(number), Bson::Int64(exact)) => (0, number, format!("{exact:020}")),
            (Some(number), _) => (0, number, String::new()),
            (None, Bson::Boolean(is_true)) => (1, f64::from(u8::from(*is_true)), String::new()),
            (None, Bson::String(text)) => (2, 0.0, text.clone()),
            (None, Bson::Null) => (4, 0.0, String::new()),
            (None, other) => (3, 0.0, other.to_string()),
        }
    }
    let ((kind, number, text), (other_kind, other_number, other_text)) = (rank(one), rank(other));
    kind.cmp(&other_kind)
        .then_with(|| number.total_cmp(&other_number))
        .then_with(|| text.cmp(&other_text))
}

#[cfg(test)]
mod tests;
