//! A view under random changes is what its source's tables say, whichever batches they come in and wherever they break off.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use mongodb::bson::{Bson, Document, doc};
use proptest::prelude::*;

use super::{Assembled, compare, documents};
use crate::config::MongoViewSettings;
use crate::error::Result;
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_view::affected::{Rows, add_roots};
use crate::sink::mongo_view::plan::Plan;
use crate::sink::mongo_view::row::{Change, ChangeKind, StoredRow, row_id};

const VIEW: &str = r#"
    root = "public.orders"
    fields = { "no" = "id", "status" = "status" }
    join = [
      { table = "public.item", on = "order_id = id", as = "items", many = true, fields = { "id" = "id", "n" = "n" }, order_by = "-n", join = [
        { table = "public.product", on = "id = product_id", as = "product", fields = { "name" = "n" } } ] },
      { table = "public.customer", on = "id = customer_id", as = "customer", fields = { "name" = "n" } },
      { table = "public.customer", on = "id = customer_id", as = "ref", reference = "customers" },
    ]
"#;

/// A store of rows in memory.
#[derive(Default)]
struct InMemory(Mutex<BTreeMap<String, StoredRow>>);

impl Rows for InMemory {
    async fn by_ids(&self, ids: &[String]) -> Result<Vec<StoredRow>> {
        let rows = self.0.lock().unwrap();
        Ok(ids.iter().filter_map(|id| rows.get(id).cloned()).collect())
    }

    async fn by_links(&self, links: &[String]) -> Result<Vec<StoredRow>> {
        let rows = self.0.lock().unwrap();
        let is_found = |row: &&StoredRow| {
            row.row.is_some() && row.links.iter().any(|link| links.contains(link))
        };
        Ok(rows.values().filter(is_found).cloned().collect())
    }
}

/// Nothing of it waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

/// A row is put or deleted.
#[derive(Debug, Clone)]
struct Step {
    table: usize,
    id: i32,
    /// `None` deletes.
    values: Option<(Option<i32>, Option<i32>, i32)>,
}

const TABLES: [&str; 4] = [
    "public.orders",
    "public.item",
    "public.product",
    "public.customer",
];

fn row(step: &Step) -> Option<Document> {
    let (one, other, n) = step.values?;
    Some(match step.table {
        0 => doc! { "id": step.id, "customer_id": one, "status": n },
        1 => doc! { "id": step.id, "order_id": one, "product_id": other, "n": n },
        _ => doc! { "id": step.id, "n": n },
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop_oneof![1 => Just(None), 6 => (0..4).prop_map(Some)];
    let values = prop_oneof![
        1 => Just(None),
        3 => (key(), key(), 0..4).prop_map(Some),
    ];
    let step = (0..4_usize, 0..4, values);
    let step = step.prop_map(|(table, id, values)| Step { table, id, values });
    prop::collection::vec(step, 1..60)
}

/// The view of tables, by a plain fold.
fn expected(tables: &BTreeMap<(usize, i32), Document>) -> BTreeMap<i32, Document> {
    let of_table = |table: usize| tables.iter().filter(move |((of, _), _)| *of == table);
    let named = |table: usize, id: &Bson| match id {
        Bson::Int32(id) => tables.get(&(table, *id)),
        _ => None,
    };
    let name = |row: Option<&Document>| match row {
        Some(row) => Bson::Document(doc! { "name": row.get_i32("n").unwrap() }),
        None => Bson::Null,
    };
    let mut view = BTreeMap::new();
    for ((_, id), order) in of_table(0) {
        let items = of_table(1).filter(|(_, item)| item.get("order_id") == Some(&Bson::Int32(*id)));
        let mut items: Vec<&Document> = items.map(|(_, item)| item).collect();
        items.sort_by_key(|item| (-item.get_i32("n").unwrap(), item.get_i32("id").unwrap()));
        let items = items.into_iter().map(|item| {
            let product = named(2, item.get("product_id").unwrap());
            doc! { "id": item.get_i32("id").unwrap(), "n": item.get_i32("n").unwrap(), "product": name(product) }
        });
        let customer = named(3, order.get("customer_id").unwrap());
        let reference = customer.map(|customer| {
            doc! { "$ref": "customers", "$id": customer.get_i32("id").unwrap() }
        });
        let document = doc! {
            "_id": id, "no": id, "status": order.get_i32("status").unwrap(),
            "items": items.collect::<Vec<_>>(), "customer": name(customer), "ref": reference,
        };
        view.insert(*id, document);
    }
    view
}

/// What is kept of a view.
struct View {
    plan: Plan,
    rows: InMemory,
    documents: BTreeMap<i32, Document>,
    shown: String,
}

impl View {
    fn write_rows(&self, first: usize, steps: &[Step]) -> BTreeSet<String> {
        let mut changed = Vec::new();
        for (place, step) in steps.iter().enumerate() {
            let change = Change {
                id: row_id(TABLES[step.table], &step.id.to_string()),
                table: TABLES[step.table].to_owned(),
                key: Bson::Document(doc! { "id": step.id }),
                version: format!("{:06}", first + place),
                kind: row(step).map_or(ChangeKind::Delete, ChangeKind::Put),
            };
            let mut rows = self.rows.0.lock().unwrap();
            let before = rows.get(&change.id).cloned();
            let after = StoredRow::after(&self.plan, before.as_ref(), &change, &self.shown);
            changed.extend(after.clone().or(before));
            rows.extend(after.map(|after| (change.id, after)));
        }
        let mut roots = BTreeSet::new();
        at_once(add_roots(&self.plan, &self.rows, &changed, &mut roots)).unwrap();
        roots
    }

    fn write_documents(&mut self, roots: BTreeSet<String>) {
        let roots: Vec<String> = roots.into_iter().collect();
        let made = documents(&self.plan, &self.rows, Names::AsTheyAre, &roots);
        for Assembled { id, document } in at_once(made).unwrap() {
            let Bson::Int32(id) = id else { panic!("{id}") };
            match document {
                Some(document) => self.documents.insert(id, document),
                None => self.documents.remove(&id),
            };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_view_is_a_fold_of_its_tables(
        steps in steps(),
        batches in prop::collection::vec((1..9_usize, any::<bool>()), 60),
    ) {
        let settings: MongoViewSettings = toml::from_str(VIEW).unwrap();
        let mut view = View {
            plan: Plan::new(&settings).unwrap(),
            rows: InMemory::default(),
            documents: BTreeMap::new(),
            shown: String::new(),
        };
        let mut tables = BTreeMap::new();
        let mut done = 0;
        for (size, breaks_off) in batches {
            let batch = &steps[done..steps.len().min(done + size)];
            if breaks_off {
                // Killed behind some of its rows: the same batch comes again, to a process that knows nothing.
                view.write_rows(done, &batch[..batch.len() / 2]);
                view.write_rows(done, batch);
                view.shown = String::new();
            }
            let roots = view.write_rows(done, batch);
            view.write_documents(roots);
            for step in batch {
                match row(step) {
                    Some(row) => tables.insert((step.table, step.id), row),
                    None => tables.remove(&(step.table, step.id)),
                };
            }
            done += batch.len();
            view.shown = format!("{:06}", done.saturating_sub(1));
            prop_assert_eq!(&view.documents, &expected(&tables));
        }
    }
}

#[test]
fn values_have_one_order() {
    let in_order = [
        Bson::Int32(-1),
        Bson::Int64(2),
        Bson::String("9.5".into()),
        Bson::Double(10.0),
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::String("a".into()),
        Bson::String("b".into()),
        Bson::Null,
    ];
    assert!(in_order.is_sorted_by(|one, other| compare(one, other).is_lt()));
}
