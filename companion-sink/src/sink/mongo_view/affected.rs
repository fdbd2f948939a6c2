//! Which documents a change of rows has an effect on: those of the roots above the rows, where they are now and where they were.
//!
//! From a row that was changed the way up begins at all that it is and was joined by; from there on it goes by what the rows above
//! are joined by now. That is enough: of a way that was another one before, the lowest row above which it changed was changed
//! itself, and begins there.

use std::collections::BTreeSet;
use std::future::Future;

use crate::error::Result;
use crate::sink::mongo_view::plan::{Plan, translated};
use crate::sink::mongo_view::row::StoredRow;

/// Values that are looked up at once.
const LOOK_UP_MAX: usize = 1000;

/// The rows that a view keeps.
pub(crate) trait Rows: Send + Sync {
    /// Those with these ids, also of rows that are gone.
    fn by_ids(&self, ids: &[String]) -> impl Future<Output = Result<Vec<StoredRow>>> + Send;

    /// Those that are there and are found by one of these links.
    fn by_links(&self, links: &[String]) -> impl Future<Output = Result<Vec<StoredRow>>> + Send;
}

/// Adds the ids of the root rows above rows that were changed.
pub(crate) async fn add_roots(
    plan: &Plan,
    rows: &impl Rows,
    changed: &[StoredRow],
    roots: &mut BTreeSet<String>,
) -> Result<()> {
    // What is still to be climbed from, by node: links of the node above.
    let mut to_climb: Vec<BTreeSet<String>> = vec![BTreeSet::new(); plan.nodes.len()];
    for row in changed {
        for (place, _) in plan.nodes_of(&row.table) {
            step_up(plan, place, row, row.all_links(), roots, &mut to_climb);
        }
    }
    // A node stands behind the one that it is joined to.
    for place in (0..plan.nodes.len()).rev() {
        let links: Vec<String> = std::mem::take(&mut to_climb[place]).into_iter().collect();
        for links in links.chunks(LOOK_UP_MAX) {
            for row in rows.by_links(links).await? {
                step_up(plan, place, &row, row.links.iter(), roots, &mut to_climb);
            }
        }
    }
    Ok(())
}

/// From a row at a node to the node above.
fn step_up<'l>(
    plan: &Plan,
    place: usize,
    row: &StoredRow,
    links: impl Iterator<Item = &'l String>,
    roots: &mut BTreeSet<String>,
    to_climb: &mut [BTreeSet<String>],
) {
    let node = &plan.nodes[place];
    let Some(edge) = &node.edge else {
        roots.insert(row.id.clone());
        return;
    };
    let parent = &plan.nodes[edge.parent].table;
    let above = translated(
        links,
        (&node.table, &edge.column),
        (parent, &edge.parent_column),
    );
    to_climb[edge.parent].extend(above);
}
